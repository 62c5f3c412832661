"""Every checkpoint on every data set: the table by which generalisation is reported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from common.errors import InputError
from datasets import DATASETS, FaceDataset
from datasets.base import DEMO_FILE
from engine.evaluate import Metrics, Predictions

from .class_map import UNSHARED, ClassMap, map_classes, map_json
from .trained import Trained, open_dataset, predictions_of

SYNTHETIC = "synthetic faces"
LEGEND = (
    "Accuracy / mean class accuracy, percent, on the evaluated split; *: the data set of training, "
    "which the mean over the others leaves out. (n): on n shared classes where one side has more."
)


class Target(NamedTuple):
    """A data set to evaluate on."""

    name: str
    split: str | None  # None: the one that the published numbers are on
    data: Path | None  # None: where a checkpoint was trained, else the data set's own

    @classmethod
    def of(cls, text: str) -> Target:
        """From NAME, NAME:SPLIT, NAME=DIR or NAME:SPLIT=DIR; raises InputError."""
        named, _, folder = text.partition("=")
        name, _, split = named.partition(":")
        if name not in DATASETS:
            raise InputError(
                f"--on {text}: {name!r} is no data set; expected NAME, NAME:SPLIT, NAME=DIR or "
                f"NAME:SPLIT=DIR with NAME one of {', '.join(DATASETS)}"
            )
        return cls(name, split or None, Path(folder) if folder else None)


@dataclass(frozen=True)
class Pair:
    """A checkpoint and a data set that it can be evaluated on."""

    trained: Trained
    dataset: FaceDataset
    class_map: ClassMap

    @classmethod
    def of(cls, trained: Trained, target: Target, unshared: str = "both") -> Pair:
        """Open the data set; raises InputError where it or its classes do not go."""
        dataset = open_dataset(
            trained, name=target.name, data=target.data, split=target.split, same_classes=False
        )
        return cls(trained, dataset, map_classes(trained, dataset, unshared))

    @property
    def source(self) -> str:
        """What the checkpoint was trained on."""
        folder = Path(self.trained.settings.get("data", ""))
        return SYNTHETIC if (folder / DEMO_FILE).is_file() else self.trained.dataset or "unknown"

    @property
    def faces(self) -> str:
        """The data set that it is evaluated on."""
        return SYNTHETIC if (self.dataset.folder / DEMO_FILE).is_file() else self.dataset.name

    @property
    def target(self) -> str:
        """The same, with a split that is not the one of the published numbers."""
        usual = self.dataset.split == self.dataset.evaluated_split
        return self.faces if usual else f"{self.faces} {self.dataset.split}"

    @property
    def is_own(self) -> bool:
        """Whether it is the data set of training."""
        return self.source == self.faces

    @property
    def has_same_images(self) -> bool:
        """Whether both data sets label the same images, as FER2013 and FER+ do."""
        trained_on = DATASETS.get(self.source)
        same = trained_on is not None and trained_on.default_root == self.dataset.default_root
        return same and self.faces not in (self.source, SYNTHETIC)

    def predict(self, device: torch.device, images: Any = None, **options: Any) -> Predictions:
        """The output over the evaluated classes; options as in `predictions_of`.

        images: a view of the data set, in place of it.
        """
        images = self.dataset if images is None else images
        return self.class_map.of(predictions_of(self.trained, images, device, **options))


class Result(NamedTuple):
    """A pair and its metrics."""

    pair: Pair
    metrics: Metrics

    @classmethod
    def of(cls, pair: Pair, device: torch.device, **options: Any) -> Result:
        """Evaluate; options as in `predictions_of`."""
        found = pair.predict(device, **options)
        return cls(pair, Metrics.of(found.logits, found.labels))

    def cell(self) -> str:
        """Accuracy / mean class accuracy, marked as `LEGEND` says."""
        made, metrics = self.pair.class_map, self.metrics
        whole = made.is_identity or len(made.pairs) == len(made.labels) == len(made.classes)
        shared = "" if whole and not made.unused else f" ({len(made.pairs)})"
        return (
            f"{100 * metrics.accuracy:.2f} / {100 * metrics.mean_class_accuracy:.2f}{shared}"
            f"{'*' if self.pair.is_own else ''}"
        )

    def json(self) -> dict[str, Any]:
        """The same as plain types, with what was mapped."""
        pair = self.pair
        return {
            "checkpoint": str(pair.trained.path),
            "method": pair.trained.method,
            "trained_on": pair.source,
            "dataset": pair.target,
            "data": str(pair.dataset.root),
            "split": pair.dataset.split,
            "own": pair.is_own,
            "images": self.metrics.images,
            "accuracy": self.metrics.accuracy,
            "accuracy_interval_95": list(self.metrics.accuracy_interval),
            "mean_class_accuracy": self.metrics.mean_class_accuracy,
            "macro_f1": self.metrics.macro_f1,
            "classes": list(pair.class_map.classes),
            "class_map": map_json(pair.class_map, pair.trained, pair.dataset),
        }


def cross_table(results: Sequence[Sequence[Result]]) -> list[list[str]]:
    """Head and a row for each checkpoint; results: by checkpoint, then by data set."""
    targets = [result.pair.target for result in results[0]]
    head = ["trained on", "network", "checkpoint", *targets, "mean of the others"]
    rows = [head]
    for row in results:
        first = row[0].pair
        others = [result.metrics.accuracy for result in row if not result.pair.is_own]
        mean = f"{100 * sum(others) / len(others):.2f}" if others else "-"
        cells = [result.cell() for result in row]
        rows.append([first.source, first.trained.method, str(first.trained.path), *cells, mean])
    return rows


def remarks(results: Sequence[Sequence[Result]]) -> list[str]:
    """The legend, what became of classes that one side lacks, and faces framed differently."""
    pairs = [result.pair for row in results for result in row]
    unequal = [pair for pair in pairs if len(pair.class_map.pairs) < len(pair.dataset.classes)]
    unequal += [pair for pair in pairs if pair.class_map.unused and pair not in unequal]
    lines = [LEGEND]
    if unequal:
        unshared = unequal[0].class_map.unshared
        lines.append(f"--unshared {unshared}: {UNSHARED[unshared]}.")
    told = {
        "The same images with other labels": [pair for pair in pairs if pair.has_same_images],
        "Faces framed in different ways": [
            pair for pair in pairs if pair.trained.framing != pair.dataset.framing
        ],
    }
    for what, found in told.items():
        names = sorted({" and ".join(sorted((pair.source, pair.faces))) for pair in found})
        lines += [f"{what}: {', '.join(names)}."] if names else []
    return lines
