"""The parts of the check, and how the numbers of each are read."""

from __future__ import annotations

import csv
import json
import re
import statistics
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from .running import Part

BATCH_SIZES = (64, 256)
FACES = (12_271, 3_068)  # RAF-DB's training and test split
JSON = "numbers.json"


def make_parts(output: Path, work: Path, *, dry_run: bool = False, gpus: int = 1) -> list[Part]:
    """All parts, in order; each writes below work / its name, the faces to `output`.

    The limits add up to 8 minutes, with several GPUs to half a minute more. A dry run has the
    parts of one batch size only.
    """
    device = ("--device", "cpu" if dry_run else "cuda")
    written = work / "environment" / JSON
    environment = ("-m", "tools.gpu_check.environment", str(written), *device)
    sizes = BATCH_SIZES[:1] if dry_run else BATCH_SIZES
    parts = [
        Part("environment", environment, 20, read_json),
        _tests("numbers", 35, work, dry_run=dry_run),
        _tests("runs", 40, work, dry_run=dry_run),
        _tests("distributed", 30 if gpus < 2 else 60, work, dry_run=dry_run),
        *(_bench(size, 78, work, device, dry_run=dry_run) for size in sizes),
        *(_profile(size, 37, work, device, dry_run=dry_run) for size in sizes),
        *_run_of_rafdbs_size(output, work, device, dry_run=dry_run),
    ]
    if not dry_run:
        return parts
    # One thread, as the tensors are small; and a busy machine must not end a part.
    one = {"OMP_NUM_THREADS": "1"}
    return [replace(p, environment={**p.environment, **one}, limit=10 * p.limit) for p in parts]


def _tests(name: str, limit: float, work: Path, *, dry_run: bool) -> Part:
    folder = work / name
    files = (f"--junitxml={folder / 'junit.xml'}", f"--basetemp={folder / 'tmp'}")
    options = ("-p", "no:cacheprovider", "-o", "junit_family=xunit1", *files)
    # On a CPU one of the golden cases: they take most of the time.
    options += ("-k", "not 4heads") if dry_run else ()
    command = ("-m", "pytest", f"tests/gpu/test_{name}.py", *options)
    environment = {"TEST_DEVICE": "cpu" if dry_run else "cuda"}
    # Neither xdist nor what else a machine has; ours need none.
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    return Part(name, command, limit, read_tests, environment)


def _bench(size: int, limit: float, work: Path, device: tuple, *, dry_run: bool) -> Part:
    name = f"bench-{size}"
    how = ("--image-size", "224", "--batch-sizes", str(size), "--seconds", "1.5", "--compile")
    how = ("--quick",) if dry_run else how
    command = ("-m", "tools.bench", *device, *how, "--json", str(work / name / JSON))
    return Part(name, command, limit, read_bench)


def _profile(size: int, limit: float, work: Path, device: tuple, *, dry_run: bool) -> Part:
    """After the bench of the same size, whose compiled kernels torch keeps."""
    name = f"profile-{size}"
    how = ("--compile", "--batch-size", str(size), "--images", "4096")
    how = ("--quick",) if dry_run else how
    command = ("-m", "tools.profile", *device, *how, "--json", str(work / name / JSON))
    return Part(name, command, limit, read_profile)


def _run_of_rafdbs_size(output: Path, work: Path, device: tuple, *, dry_run: bool) -> list[Part]:
    train, test = (42, 14) if dry_run else FACES
    root = output / ("faces-dry-run" if dry_run else "faces")
    counts = ("--train", str(train), "--test", str(test))
    draw = ("-m", "datasets.demo", "rafdb", str(root), *counts)
    how = ("--epochs", "1", "--batch-size", "14", "--image-size", "32", "--workers", "1")
    how = how if dry_run else ("--epochs", "40", "--batch-size", "256")
    where = ("--data", str(root), "--output", str(work / "train/run"))
    start = ("--pretrained", "none", "--lr", "0.01", "--amp", "bf16")
    command = ("train_rafdb.py", *where, *start, *how, *device)
    return [
        Part("faces", draw, 15, partial(read_faces, train + test)),
        Part("train", command, 110, read_run, needs=("faces",)),
    ]


# --------------------------------------------------------------------------------------------
# Numbers: values by name, and tables as lists of rows


def read_json(work: Path, _output: str, _seconds: float) -> dict[str, Any]:
    """A file that holds the numbers as they are."""
    return json.loads((work / JSON).read_text(encoding="utf-8"))


def read_tests(work: Path, _output: str, _seconds: float) -> dict[str, Any]:
    """pytest's own report: how many tests ended how, and each test."""
    tests = []
    for case in ElementTree.parse(work / "junit.xml").iter("testcase"):
        ends = {child.tag: child for child in case}
        outcome = next((end for end in ("failure", "error", "skipped") if end in ends), "passed")
        message = ends[outcome].get("message", "") if outcome in ends else ""
        numbers = {one.get("name"): float(one.get("value")) for one in case.iter("property")}
        row = {"test": case.get("name"), "outcome": outcome, "seconds": float(case.get("time"))}
        tests.append({**row, "message": " ".join(message.split())[:200], "numbers": numbers})
    outcomes = [test["outcome"] for test in tests]
    counts = {outcome: outcomes.count(outcome) for outcome in sorted(set(outcomes))}
    return {**counts, "tests": tests}


def read_bench(work: Path, output: str, seconds: float) -> dict[str, Any]:
    """The rows of tools.bench with images a second, and peak memory."""
    content = read_json(work, output, seconds)
    rows = [
        {**row, "fast images/s": images_per_second(row["what"], row["fast_ms"])}
        for row in content["rows"]
    ]
    peaks = {f"peak MB, {name}": value for name, value in content["peak_megabytes"].items()}
    return {"setting": content["setting"], **peaks, "rows": rows}


def read_profile(work: Path, output: str, seconds: float) -> dict[str, Any]:
    """What tools.profile looked at, and how much of an epoch waits for images."""
    content = read_json(work, output, seconds)
    rows = [
        {
            "what": profile["what"],
            "ms": 1000 * profile["seconds"],
            "images/s": images_per_second(profile["what"], 1000 * profile["seconds"]),
            "share of the limit": profile["products"] / profile["limit"],
            "limit, billion multiply-adds/s": profile["limit"] / 1e9,
            "shares": profile["shares"],
        }
        for profile in content["profiles"]
    ]
    epoch = content["epoch"]
    return {
        "setting": content["setting"],
        "epoch, images": epoch["images"],
        "epoch, DataLoader workers": epoch["workers"],
        "epoch, images/s": epoch["images"] / epoch["seconds"],
        "epoch, share of the time waiting for images": epoch["waited"] / epoch["seconds"],
        "profiles": rows,
    }


def images_per_second(what: str, milliseconds: float) -> float | None:
    """From the batch size in the name of what was measured; None where it has none."""
    batch = re.search(r"batch (\d+)", what)
    return 1000 * int(batch[1]) / milliseconds if batch else None


def read_faces(count: int, _work: Path, output: str, seconds: float) -> dict[str, Any]:
    """How fast faces are drawn; nothing where they were there already."""
    return (
        {"faces": count}
        if "already holds" in output
        else {"faces": count, "faces/s": count / seconds}
    )


def read_run(work: Path, output: str, seconds: float) -> dict[str, Any]:
    """A training run by its metrics.csv and the lines that it printed, finished or not."""
    config = json.loads((work / "run/config.json").read_text(encoding="utf-8"))
    with (work / "run/metrics.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    lines = re.findall(r"^epoch .* (\d+) images/s  (\d+) s,", output, re.MULTILINE)
    speeds, times = ([int(value) for value in column] for column in zip(*lines, strict=True))
    return {
        "training images": config["training_images"],
        "evaluated images": config["evaluated_images"],
        "epochs": len(rows),
        "seconds in all": seconds,
        "seconds an epoch, median": statistics.median(times),
        "training images/s, median": statistics.median(speeds),
        "training images/s, first epoch": speeds[0],
        "accuracy, last epoch": float(rows[-1]["accuracy"]),
    }
