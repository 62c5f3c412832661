"""The files of a run, and the lock that keeps other processes out of its folder."""

from __future__ import annotations

import contextlib
import platform
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torchvision
from filelock import SoftFileLock, Timeout

from common.errors import InputError
from common.files import make_folder, write_json, write_text
from common.flags import settings
from common.naming import name_of

from .evaluate import Predictions

CONFIG, METRICS, LAST, BEST = "config.json", "metrics.csv", "last.pth", "best.pth"
PREDICTIONS, SPEED = "predictions.csv", "speed.csv"
FILES = (CONFIG, METRICS, PREDICTIONS, SPEED, LAST, BEST)
SKIPPED = "skipped.txt"
LOCK = ".lock"
MAX_LISTED = 10  # skipped images that the log lists


@contextlib.contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Lock a run folder against other processes; it is created if it is missing.

    A folder that was created and is still empty at the end is removed.

    Raises InputError where another process holds the lock; a dead process's lock is taken over.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--output {folder} is a file; expected a folder")
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    make_folder(folder)
    try:
        with SoftFileLock(folder / LOCK, timeout=1):
            yield
    except Timeout as error:
        raise InputError(
            f"{folder} is in use by {_holder(folder / LOCK)}; wait for it or choose another "
            f"--output; if you are sure that process is gone, delete {folder / LOCK}"
        ) from error
    except OSError as error:
        if error.filename is None or Path(error.filename).name != LOCK:
            raise
        raise InputError(f"cannot write {folder / LOCK}: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            for path in made:
                path.rmdir()


def _holder(lock: Path) -> str:
    """Who wrote a lock file: its first two lines are a process id and a host."""
    with contextlib.suppress(OSError, UnicodeDecodeError, ValueError):
        pid, host = lock.read_text().split()[:2]
        return f"process {pid} on {host}"
    return "another process"


def refuse_existing_run(folder: Path, *, resume: bool) -> None:
    """Raises InputError where a folder holds a run and `resume` is not set."""
    held = [name for name in FILES if (folder / name).exists()]
    if held and not resume:
        raise InputError(
            f"{folder} already holds a run ({', '.join(held)}); use --resume to continue it, "
            "or another --output or --seed"
        )
    for name in FILES:
        # A run that was killed while writing leaves a partial temporary file.
        for part in folder.glob(f".{name}.*"):
            part.unlink(missing_ok=True)


def write_metrics(folder: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """metrics.csv: one row per epoch, in full precision; raises InputError if names change."""
    names = list(rows[0])
    if list(rows[-1]) != names:
        raise InputError(f"{folder} has the metrics {names}, this version {list(rows[-1])}")
    lines = [",".join(names), *(",".join(repr(row[name]) for name in names) for row in rows)]
    write_text(folder / METRICS, "\n".join(lines) + "\n")


def write_predictions(folder: Path, found: Predictions) -> None:
    """predictions.csv: every evaluated image's index, label and predicted class, last epoch."""
    columns = (found.indices, found.labels.tolist(), found.logits.argmax(dim=1).tolist())
    lines = [",".join(map(str, row)) for row in zip(*columns, strict=True)]
    write_text(folder / PREDICTIONS, "\n".join(["index,label,predicted", *lines]) + "\n")


def add_speed(folder: Path, epoch: int, images_per_second: float) -> None:
    """A line of speed.csv: how fast an epoch was trained; a repeated epoch has two."""
    path = folder / SPEED
    before = path.read_text(encoding="utf-8") if path.exists() else "epoch,images_per_second\n"
    write_text(path, f"{before}{epoch},{images_per_second:.2f}\n")


@dataclass
class Skipped:
    """A line for each image that was skipped in an epoch."""

    training: list[str] = field(default_factory=list)
    evaluation: list[str] = field(default_factory=list)

    def report(self, folder: Path, epoch: int) -> None:
        """Print them and write them to skipped.txt, if there are any."""
        parts = (("training", self.training), ("evaluation", self.evaluation))
        lines = [
            f"skipped in {part}, epoch {epoch}: {line}" for part, found in parts for line in found
        ]
        if not lines:
            return
        write_text(folder / SKIPPED, "\n".join(lines) + "\n")
        for line in lines[:MAX_LISTED]:
            print(f"  {line}")
        more = f"; all of them are in {folder / SKIPPED}" if len(lines) > MAX_LISTED else ""
        print(
            f"  {len(self.training)} training and {len(self.evaluation)} evaluated images were "
            f"skipped in epoch {epoch}{more}",
            flush=True,
        )


def config_of(run: Any) -> dict[str, Any]:
    """The content of config.json: the settings, the data, and what the run runs on."""
    data, evaluated = run.dataset, run.evaluation.dataset.dataset
    return {
        "recipe": run.recipe.name,
        "settings": settings(run.recipe),
        "dataset": data.name,
        "class_names": list(data.classes),
        "training_images": len(run.training.dataset),
        "flipped_labels": run.training.dataset.flipped,
        "flipped_share": run.training.dataset.flipped / len(run.training.dataset),
        "evaluated_images": len(run.evaluation.dataset),
        "evaluated_split": _evaluated_split(run.recipe, evaluated),
        "published_images": data.is_published() and evaluated.is_published(),
        "layout": data.layout,
        "parameters": sum(p.numel() for p in run.network.parameters()),
        "bf16": run.bf16,
        "processes": run.world.size,
        "device": _device_name(run.device),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
        },
        "command": shlex.join(["python", *sys.argv]),
    }


def _evaluated_split(recipe: Any, evaluated: Any) -> str:
    if recipe.fold:
        return f"fold {recipe.fold}{' by person' if evaluated.persons() else ''}"
    return "holdout" if recipe.holdout else evaluated.split


def write_config(run: Any) -> None:
    """config.json."""
    write_json(run.folder / CONFIG, config_of(run))


def announcement(run: Any) -> str:
    """The first line of a run's log."""
    config = config_of(run)
    layout = f" from the layout {config['layout']!r}" if config["layout"] else ""
    flipped = (
        f" with {config['flipped_labels']:,} training labels changed "
        f"({100 * config['flipped_share']:.2f} %)"
        if config["flipped_labels"]
        else ""
    )
    return (
        f"{run.recipe.name}: {config['training_images']:,} training and "
        f"{config['evaluated_images']:,} {config['evaluated_split']} images{layout}{flipped} at "
        f"{run.image_size} px, {name_of(run.network)} on {config['device']}"
        f"{' in bfloat16' if run.bf16 else ''}"
        f"{f' in {run.world.size} processes' if run.world.size > 1 else ''}"
        f", seed {run.recipe.seed} -> {run.folder}"
        f"{f', from epoch {run.epoch + 1}' if run.epoch else ''}"
    )


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} {torch.cuda.get_device_name(device)}"
    return f"{device} ({torch.get_num_threads()} threads)"
