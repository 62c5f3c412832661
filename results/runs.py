"""Finished runs, read from their folders or from a csv of them."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common.errors import InputError
from common.files import write_text
from engine.recipe import flags_that_may_change
from engine.run_folder import PREDICTIONS, SPEED

METRICS = ("accuracy", "mean_class_accuracy")


@dataclass(frozen=True)
class FinishedRun:
    """One run: what was asked for and what came out."""

    folder: str
    dataset: str
    settings: dict[str, Any]  # flags by name, those that decide the result
    training_images: int
    evaluated_images: int
    evaluated_split: str
    published_images: bool  # both splits have the published images per class
    epochs: int  # done; as many as asked for
    last: dict[str, float]  # METRICS after the last epoch, fractions
    best: dict[str, float]  # METRICS of the epoch with the best accuracy, the paper's way
    best_epoch: int
    correct_bits: str  # after the last epoch, "1" for each image classified right, else "0"
    images_checksum: int  # of these images' indices and labels; 0 if not known
    images_per_second: float | None  # in training, median of the epochs; None: not known

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.settings["seed"]

    def correct(self) -> np.ndarray:
        """`correct_bits` as a bool array."""
        return np.frombuffer(self.correct_bits.encode(), np.uint8) == ord("1")


def read_runs(place: Path) -> tuple[list[FinishedRun], list[Path]]:
    """Finished runs below a folder, or in a csv of `write_runs`; and folders of unfinished ones.

    Raises InputError where the place does not exist or a file in it is damaged.
    """
    if place.is_file():
        return _read_csv(place), []
    if not place.is_dir():
        raise InputError(
            f"--runs {place} does not exist; expected a folder with run folders, or a csv of runs"
        )
    folders = sorted(path.parent for path in place.rglob("config.json") if path.is_file())
    found = [(folder, read_run(folder)) for folder in folders]
    return [run for _, run in found if run], [folder for folder, run in found if not run]


def read_run(folder: Path) -> FinishedRun | None:
    """The run in a folder; None where it is not finished.

    Raises InputError where one of its files is damaged.
    """
    config = _config(folder / "config.json")
    rows = read_metrics(folder / "metrics.csv")
    if not rows or len(rows) < config["settings"]["epochs"]:
        return None
    best = max(rows, key=lambda row: row["accuracy"])
    correct_bits, checksum = _read_predictions(folder / PREDICTIONS)
    return FinishedRun(
        folder=str(folder),
        dataset=config["dataset"],
        settings=result_settings(config["settings"]),
        training_images=config["training_images"],
        evaluated_images=config["evaluated_images"],
        evaluated_split=config["evaluated_split"],
        published_images=config.get("published_images", False),
        epochs=len(rows),
        last={name: rows[-1][name] for name in METRICS},
        best={name: best[name] for name in METRICS},
        best_epoch=int(best["epoch"]),
        correct_bits=correct_bits,
        images_checksum=checksum,
        images_per_second=_read_speed(folder / SPEED),
    )


def _read_predictions(path: Path) -> tuple[str, int]:
    """`FinishedRun.correct_bits` and the checksum of the images; "" and 0 without a file.

    Raises InputError where it is not a run's predictions.csv.
    """
    if not path.is_file():
        return "", 0
    try:
        table = pd.read_csv(path, dtype=np.int64)
        images = np.ascontiguousarray(table[["index", "label"]])
        correct = table["label"] == table["predicted"]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{path} is not a run's {PREDICTIONS}; move its folder away, or delete the file"
        ) from error
    return "".join("01"[right] for right in correct), zlib.crc32(images.tobytes())


def _read_speed(path: Path) -> float | None:
    """Images per second, the median of the epochs; None without a file.

    Raises InputError for a damaged one.
    """
    if not path.is_file():
        return None
    try:
        speed = float(pd.read_csv(path, dtype=np.float64)["images_per_second"].median())
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} is not a run's {SPEED}; delete it") from error
    return speed if math.isfinite(speed) else None


def _config(path: Path) -> dict[str, Any]:
    """A run's config.json; raises InputError where it is none."""
    needed = {
        "dataset": str,
        "settings": dict,
        "training_images": int,
        "evaluated_images": int,
        "evaluated_split": str,
    }
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        fits = all(isinstance(config[name], kind) for name, kind in needed.items())
        settings = config["settings"]
        fits = fits and all(isinstance(settings[name], int) for name in ("seed", "epochs"))
    except (OSError, ValueError, KeyError, TypeError):
        fits = False
    if not fits:
        raise InputError(f"{path} is not a run's config.json; move its folder away, or repair it")
    return config


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The rows of a metrics.csv as numbers; empty where there is no file.

    Raises InputError where a value is not a number or a column is missing.
    """
    if not path.is_file():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            rows = list(reader)
        numbers = [{name: float(value) for name, value in row.items()} for row in rows]
        whole = {"epoch", *METRICS} <= set(reader.fieldnames or ())
        whole = whole and all(
            math.isfinite(row[name]) for row in numbers for name in ("epoch", *METRICS)
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        whole = False
    if not whole:
        raise InputError(f"{path} is not a run's metrics.csv; move its folder away, or repair it")
    return numbers


def result_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without those that say where and how fast a run computes."""
    neutral = flags_that_may_change()
    return {name: value for name, value in settings.items() if name not in neutral}


def write_runs(path: Path, runs: Sequence[FinishedRun]) -> None:
    """A csv with a row a run, which `read_runs` reads back as the same runs."""
    names = [field.name for field in dataclasses.fields(FinishedRun)]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(names)
    for run in runs:
        values = (getattr(run, name) for name in names)
        writer.writerow(
            json.dumps(value, sort_keys=True) if not isinstance(value, str) else value
            for value in values
        )
    write_text(path, buffer.getvalue())


def _read_csv(path: Path) -> list[FinishedRun]:
    texts = {"folder", "dataset", "evaluated_split", "correct_bits"}
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            rows = list(reader)
        names = [field.name for field in dataclasses.fields(FinishedRun)]
        if reader.fieldnames != names:
            raise ValueError(f"its columns are {', '.join(reader.fieldnames or ()) or 'none'}")
        return [
            FinishedRun(
                **{name: row[name] if name in texts else json.loads(row[name]) for name in row}
            )
            for row in rows
        ]
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{path} is not a csv of runs ({error}); expected one by results.runs.write_runs"
        ) from error
