"""What a check runs on: card, driver, versions, packages."""

from __future__ import annotations

import platform
import re
import subprocess
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from common.cli import Parser, call_main
from common.devices import find_device
from common.errors import InputError
from common.files import write_json
from common.machine import available_cores

from .running import ROOT

#: Packages that only tests use.
FOR_TESTS = ("pytest", "hypothesis")


def heading() -> dict[str, Any]:
    """What every report begins with; touches no GPU, which the parts are to have for themselves."""
    card, driver = first_line(
        ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    ).rpartition(", ")[::2]
    return {
        "started": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "commit": first_line(["git", "-C", str(ROOT), "describe", "--always", "--dirty"]),
        "card": card,
        "cards": torch.cuda.device_count(),
        "driver": driver,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "CUDA": torch.version.cuda or "",
        "processor": processor(),
        "cores": len(available_cores()),
    }


def first_line(command: Sequence[str]) -> str:
    """The first line that a command prints; empty where it fails or is not there."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return (done.stdout.splitlines() or [""])[0].strip()


def processor() -> str:
    """The processor by name, where Linux says it."""
    try:
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1] if found else platform.machine()


def version(package: str) -> str | None:
    """The version of a package; None where it is missing."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def required() -> list[str]:
    """The packages of requirements.txt."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [match[0] for line in lines if (match := re.match(r"[\w-]+", line))]


def device_facts(device: torch.device) -> dict[str, Any]:
    """What torch says of a device, once a product has been computed on it."""
    ones = torch.ones(64, 64, device=device)
    if (ones @ ones).sum().item() != 64**3:
        raise InputError(f"{device} computes wrong products")
    if device.type != "cuda":
        return {"device": device.type}
    found = torch.cuda.get_device_properties(device)
    return {
        "device": found.name,
        "memory, GB": found.total_memory / 1e9,
        "multiprocessors": found.multi_processor_count,
        "compute capability": f"{found.major}.{found.minor}",
        "bfloat16": torch.cuda.is_bf16_supported(including_emulation=False),
        "cuDNN": str(torch.backends.cudnn.version()),
        "NCCL": ".".join(map(str, torch.cuda.nccl.version())),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Write everything; raises InputError where a package of requirements.txt is missing."""
    parser = Parser("The device and the packages, as json.")
    parser.add_argument("json", type=Path, metavar="FILE", help="written")
    parser.add_argument("--device", default="cuda", metavar="D", help="[cuda]")
    args = parser.parse_args(arguments)
    packages = {name: version(name) for name in (*required(), *FOR_TESTS)}
    facts = {**device_facts(find_device(args.device)), **packages}
    write_json(args.json, facts)
    if missing := [name for name in required() if packages[name] is None]:
        raise InputError(f"missing: {', '.join(missing)}; pip install -r requirements.txt")


if __name__ == "__main__":
    call_main(main)
