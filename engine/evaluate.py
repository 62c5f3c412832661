"""Predictions of a split -> one confusion matrix -> every metric."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from common.errors import InputError

from .device import autocast
from .interval import wilson_interval
from .loading import batches_on, dead_workers_told


@dataclass(frozen=True)
class ConfusionMatrix:
    """Counts (C, C) int64: rows are true classes, columns predictions."""

    counts: Tensor

    @classmethod
    def of(cls, labels: Tensor, predictions: Tensor, num_classes: int) -> ConfusionMatrix:
        """Count labels (N,) against predictions (N,), both in 0..num_classes-1."""
        cells = labels.long() * num_classes + predictions.long()
        counts = torch.bincount(cells, minlength=num_classes**2)
        return cls(counts.reshape(num_classes, num_classes))

    @property
    def total(self) -> int:
        """Number of images."""
        return int(self.counts.sum())

    @property
    def accuracy(self) -> float:
        """Share of all images that are right."""
        return _ratio(int(self.counts.trace()), self.total)

    def recalls(self) -> list[float]:
        """Share of each true class that is found; nan for a class without images."""
        return [_ratio(hit, n) for hit, n in self._diagonal_and(dim=1)]

    def precisions(self) -> list[float]:
        """Share of each predicted class that is right; nan for a class never predicted."""
        return [_ratio(hit, n) for hit, n in self._diagonal_and(dim=0)]

    def f1_scores(self) -> list[float]:
        """2 hits / (images of the class + predictions of it); nan where there is neither."""
        rows, columns = self.counts.sum(1).tolist(), self.counts.sum(0).tolist()
        hits = self.counts.diagonal().tolist()
        return [_ratio(2 * hit, r + c) for hit, r, c in zip(hits, rows, columns, strict=True)]

    @property
    def mean_class_accuracy(self) -> float:
        """Mean of the recalls (the paper's "average accuracy") over classes with images."""
        return _mean(self.recalls())

    @property
    def macro_f1(self) -> float:
        """Mean of the F1 scores over the classes that occur or are predicted."""
        return _mean(self.f1_scores())

    def accuracy_interval(self) -> tuple[float, float]:
        """95 % interval of the accuracy for a sample of this size (Wilson)."""
        return wilson_interval(self.accuracy, self.total)

    def fractions(self) -> list[list[float]]:
        """The matrix with each row divided by its sum; an empty row is all zeros."""
        rows = self.counts.double()
        return (rows / rows.sum(1, keepdim=True).clamp_min(1)).tolist()

    def metrics(self) -> dict[str, float]:
        """The numbers that go into metrics.csv, as fractions."""
        return {
            "accuracy": self.accuracy,
            "mean_class_accuracy": self.mean_class_accuracy,
            "macro_f1": self.macro_f1,
        }

    def _diagonal_and(self, dim: int) -> list[tuple[int, int]]:
        return list(
            zip(self.counts.diagonal().tolist(), self.counts.sum(dim).tolist(), strict=True)
        )


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def _mean(values: list[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


class Predictions(NamedTuple):
    """What a network says of a split."""

    logits: Tensor  # (N, C)
    labels: Tensor  # (N,)
    indices: list[int]  # of these images in the data set, in order; not all where some are bad


@dead_workers_told()
@torch.inference_mode()
def predict(
    network: nn.Module,
    loader: DataLoader,
    device: torch.device,
    *,
    bf16: bool = False,
    progress: dict[str, Any] | None = None,
    left_out: list[str] | None = None,
    kept: list[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Logits (N, C) float32 and labels (N,) of every image of a loader, in order, on the CPU.

    Of soft labels (B, C) the most probable class is taken.

    progress: arguments for tqdm, or None for no bar.
    kept: takes the indices of the images, in order.
    left_out: takes what is said of images that cannot be used; without it they are an error.

    Raises InputError where an image, all images or the network's output cannot be used.
    """
    network.eval()
    logits, labels = [], []
    with tqdm(**(progress or {"disable": True})) as bar:
        for images, batch_labels, indices in batches_on(loader, device, left_out):
            with autocast(device, bf16):
                output = network(images)
            # Left on the device, which would have to wait for a copy: a few numbers an image.
            logits.append(output.logits.float())
            labels.append(batch_labels if batch_labels.dim() == 1 else batch_labels.argmax(dim=1))
            if kept is not None:
                kept += indices.tolist()
            bar.update(len(images))
    if not logits:
        raise InputError(f"none of the images to evaluate can be used: {(left_out or ['-'])[0]}")
    found = torch.cat(logits).cpu()
    if not found.isfinite().all():
        # The arg max of nan is a class too, so the numbers would look like a bad network's.
        raise InputError(
            "the network's output is not finite: its weights are not usable; where it was just "
            "trained, lower --lr"
        )
    return found, torch.cat(labels).cpu()


@dead_workers_told()
@torch.inference_mode()
def pooled_features(
    network: nn.Module,
    loader: DataLoader,
    device: torch.device,
    *,
    progress: dict[str, Any] | None = None,
) -> Tensor:
    """The network's feature maps, averaged over their positions: (N, D) float32 on the CPU.

    progress: arguments for tqdm, or None for no bar.
    """
    network.eval()
    pooled = []
    with tqdm(**(progress or {"disable": True})) as bar:
        for images, _, _ in batches_on(loader, device):
            pooled.append(network(images).features.mean(dim=(2, 3)).float().cpu())
            bar.update(len(images))
    return torch.cat(pooled)


def confusion_of(logits: Tensor, labels: Tensor) -> ConfusionMatrix:
    """The confusion matrix of logits (N, C) with labels (N,)."""
    return ConfusionMatrix.of(labels, logits.argmax(1), logits.shape[1])
