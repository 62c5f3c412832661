"""Write the weights of a trained network for others: small, and without the run around it.

    python -m tools.ship runs/ferplus-dan/last.pth models/dan_ferplus.pth

The released layout with the weights in half precision, what says how they were made (recipe,
flags, class names, framing, temperature, metrics, number of training images, commit), and nothing
that only resuming needs. Of files and folders of the machine it has the backbone's name and sha256
alone. The file's sha256 is printed, for models/README.md.
"""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.cli import Parser, call_main
from common.download import file_sha256
from common.errors import InputError
from common.files import load_checkpoint
from engine.checkpoint import save_checkpoint

KEPT = (
    "iter",
    "recipe",
    "dataset",
    "class_names",
    "framing",
    "training_images",
    "metrics",
    "temperature",
    "fold_checksum",
)
PATHS = ("data", "output", "pretrained", "noisy_labels")
ROOT = Path(__file__).parents[1]


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the file as the command line says; raises InputError."""
    args = parse_arguments(arguments)
    content = shipped(load_checkpoint(args.checkpoint), args.commit or current_commit())
    save_checkpoint(args.target, content)
    size = args.target.stat().st_size / 1e6
    print(f"wrote {args.target}: {size:.1f} MB, sha256 {file_sha256(args.target)}")


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("checkpoint", type=Path, metavar="CHECKPOINT", help="last.pth or best.pth of a run")
    add("target", type=Path, metavar="FILE", help="the file to write")
    add("--commit", metavar="ID", help="of the code that trained it [the current one]")
    return parser.parse_args(arguments)


def shipped(content: Mapping[str, Any], commit: str) -> dict[str, Any]:
    """What is shipped of a checkpoint.

    Raises InputError where it does not say how it was made, or does not fit half precision.
    """
    missing = [name for name in ("settings", "class_names", "metrics") if not content.get(name)]
    if missing:
        raise InputError(
            f"the checkpoint has no {', '.join(missing)}; expected one that a train script wrote"
        )
    return {
        "model_state_dict": half(content["model_state_dict"]),
        "settings": {
            name: value for name, value in content["settings"].items() if name not in PATHS
        },
        "commit": commit,
        "pretrained": origin(content["settings"].get("pretrained", "none")),
        **{name: content[name] for name in KEPT if name in content},
    }


def origin(pretrained: str) -> str:
    """What a run started from: none, imagenet, or a file's name and its sha256 as it is now."""
    path = Path(pretrained)
    return f"{path.name}, sha256 {file_sha256(path)}" if path.is_file() else path.name


def half(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights in float16, those of one dimension (biases, batch norms) as they are.

    A running variance may be below what float16 can hold, and all of these together are small.
    Raises InputError where a weight is beyond float16's range.
    """
    result = {}
    for name, value in weights.items():
        small = value.half() if value.dim() > 1 else value
        if not torch.isfinite(small).all():
            raise InputError(f"{name} has a weight of {value.abs().max():g}, beyond half precision")
        result[name] = small.contiguous()
    return result


def current_commit() -> str:
    """The commit of this project, with a plus sign where files differ from it.

    Raises InputError where it is not under git.
    """
    try:
        described = subprocess.run(
            ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--abbrev=12"],
            check=True,
            capture_output=True,
            text=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise InputError("this folder is not under git; give the commit with --commit") from error
    return described.stdout.strip()


if __name__ == "__main__":
    call_main(main)
