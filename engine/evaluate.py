"""A network and a split -> logits -> metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from common.errors import InputError

from .data import batches_on, reporting_worker_crashes
from .speed import autocast


class Predictions(NamedTuple):
    """What a network says of a split."""

    logits: Tensor  # (N, C) float32
    labels: Tensor  # (N,)
    indices: list[int]  # of these images in the data set, in order; not all where some are skipped


@reporting_worker_crashes()
@torch.inference_mode()
def predict(
    network: nn.Module,
    loader: DataLoader,
    device: torch.device,
    *,
    bf16: bool = False,
    progress: dict[str, Any] | None = None,
    skipped: list[str] | None = None,
) -> Predictions:
    """Logits and labels of every image of a loader, in order, on the CPU.

    progress: arguments of tqdm; no bar without them.
    skipped: takes a line for each image that cannot be read; without it the first is an error.

    Raises InputError where an image, all images or the network's output cannot be used.
    """
    network.eval()
    logits, labels, indices = [], [], []
    with tqdm(**(progress or {"disable": True})) as bar:
        for batch in batches_on(loader, device, skipped=skipped):
            with autocast(device, bf16):
                output = network(batch.images)
            # Left on the device: a copy at every step would make a GPU wait.
            logits.append(output.logits.float())
            labels.append(batch.labels)
            indices += batch.indices.tolist()
            bar.update(len(batch))
    if not logits:
        raise InputError(f"none of the images to evaluate can be used: {(skipped or ['-'])[0]}")
    found = torch.cat(logits).cpu()
    if not found.isfinite().all():
        # The arg max of nan is a class too, so the numbers would look like a bad network's.
        raise InputError(
            "the network's output is not finite: its weights are not usable; if it was just "
            "trained, lower --lr"
        )
    return Predictions(found, torch.cat(labels).cpu(), indices)


@dataclass(frozen=True)
class Metrics:
    """Every number of an evaluation, from one confusion matrix; shares are fractions, 0 to 1."""

    counts: np.ndarray  # (C, C) images; rows are true classes, columns predictions
    accuracy: float
    accuracy_interval: tuple[float, float]  # 95 %, Wilson, for a sample of this size
    mean_class_accuracy: float  # mean recall of the classes with images, "average accuracy"
    macro_f1: float  # mean F1 of the classes that occur or are predicted
    recalls: np.ndarray  # (C,); nan for a class without images
    precisions: np.ndarray  # (C,); nan for a class that is never predicted
    f1_scores: np.ndarray  # (C,); nan for a class that neither occurs nor is predicted

    @classmethod
    def of(cls, logits: Tensor, labels: Tensor) -> Metrics:
        """The metrics of logits (N, C) with labels (N,) in 0..C-1; N at least 1."""
        truth, predicted = labels.numpy(), logits.argmax(dim=1).numpy()
        classes = range(logits.shape[1])
        precisions, recalls, f1_scores, _ = precision_recall_fscore_support(
            truth, predicted, labels=classes, zero_division=np.nan
        )
        counts = confusion_matrix(truth, predicted, labels=classes)
        right, images = int(counts.trace()), int(counts.sum())
        return cls(
            counts=counts,
            accuracy=right / images,
            accuracy_interval=wilson_interval(right, images),
            mean_class_accuracy=float(np.nanmean(recalls)),
            macro_f1=float(np.nanmean(f1_scores)),
            recalls=recalls,
            precisions=precisions,
            f1_scores=f1_scores,
        )

    @property
    def images(self) -> int:
        """Number of images."""
        return int(self.counts.sum())

    def fractions(self) -> np.ndarray:
        """The confusion matrix (C, C) with each row divided by its sum; an empty row is zeros."""
        return self.counts / np.maximum(self.counts.sum(axis=1, keepdims=True), 1)

    def scores(self) -> dict[str, float]:
        """The numbers that go into metrics.csv."""
        return {
            "accuracy": self.accuracy,
            "mean_class_accuracy": self.mean_class_accuracy,
            "macro_f1": self.macro_f1,
        }


def wilson_interval(right: int, images: int) -> tuple[float, float]:
    """95 % interval (Wilson) of the share right / images."""
    interval = binomtest(right, images).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)
