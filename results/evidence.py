"""What a report shows besides numbers: the worst mistakes, and where the heads look."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from engine.evaluate import Predictions
from networks import DAN
from networks.attention import map_overlaps, saturation, spatial_maps

BATCH = 8  # images at a time: Grad-CAM++ keeps their whole autograd graph


class Mistake(NamedTuple):
    """A misclassified image."""

    image: Image.Image
    source: str
    label: int
    probabilities: list[float]  # per class

    @property
    def prediction(self) -> int:
        """The predicted class."""
        return max(range(len(self.probabilities)), key=self.probabilities.__getitem__)

    @property
    def others(self) -> list[int]:
        """The two likeliest classes besides the predicted one and the label."""
        order = sorted(range(len(self.probabilities)), key=lambda i: -self.probabilities[i])
        return [i for i in order if i not in (self.prediction, self.label)][:2]


class Look(NamedTuple):
    """An image and where each head looks in it."""

    image: Image.Image
    source: str
    label: int
    maps: np.ndarray  # (k, h, w), not negative


class Attention(NamedTuple):
    """Where the heads look in some images; their overlap and the fusion's saturation in more."""

    looks: list[Look]
    overlaps: list[list[float]]  # per pair of heads, the mean over images
    images: int  # over which overlaps and saturation are averaged
    saturation: float | None  # see `networks.attention`; None: the fusion is no log-softmax

    @property
    def mean_overlap(self) -> float:
        """The mean over pairs of different heads; nan for one head."""
        k = len(self.overlaps)
        pairs = [self.overlaps[i][j] for i in range(k) for j in range(i + 1, k)]
        return sum(pairs) / len(pairs) if pairs else float("nan")


def worst_mistakes(dataset: Any, predictions: Predictions, count: int) -> list[Mistake]:
    """The wrong images whose true class got the lowest probability, the worst first."""
    logits, labels, indices = predictions
    log_probabilities = logits.double().log_softmax(dim=1)
    of_truth = log_probabilities.gather(1, labels[:, None]).squeeze(1)
    wrong = (logits.argmax(dim=1) != labels).nonzero().flatten()
    worst = wrong[of_truth[wrong].argsort(stable=True)][:count]
    return [
        Mistake(
            dataset.read_image(indices[row]),
            source_of(dataset, indices[row]),
            int(labels[row]),
            log_probabilities[row].exp().tolist(),
        )
        for row in worst.tolist()
    ]


def attention_of(
    network: DAN, dataset: Any, indices: Sequence[int], device: torch.device, *, looks: int
) -> Attention:
    """Spatial maps of the images `indices`; the first `looks` of them are shown.

    The data set's transform makes the network's input.
    """
    network = network.to(device).eval()
    inputs = [dataset[index].image for index in indices]
    maps = in_batches(inputs, device, partial(spatial_maps, network))
    shown = [
        Look(dataset.read_image(i), source_of(dataset, i), dataset.labels[i], heads.numpy())
        for i, heads in zip(indices[:looks], maps, strict=False)
    ]
    saturated = None
    if network.fusion == "log-softmax":
        saturated = float(in_batches(inputs, device, partial(saturation, network)).mean())
    overlaps = map_overlaps(maps).nanmean(dim=0).tolist()
    return Attention(shown, overlaps, len(indices), saturated)


def in_batches(
    images: Sequence[Tensor], device: torch.device, call: Callable[[Tensor], Tensor]
) -> Tensor:
    """The output of `call` for images (3, S, S), in batches on the device; returned on the CPU."""
    starts = range(0, len(images), BATCH)
    batches = (torch.stack(list(images[start : start + BATCH])) for start in starts)
    return torch.cat([call(batch.to(device)).float().cpu() for batch in batches])


def classes_in_turn(labels: Sequence[int], count: int, seed: int) -> list[int]:
    """`count` positions (or all) drawn at random, one of each class after the other."""
    generator = random.Random(seed)
    order = list(range(len(labels)))
    generator.shuffle(order)
    seen: dict[int, int] = {}
    turns = []
    for index in order:
        turn = seen[labels[index]] = seen.get(labels[index], 0) + 1
        turns.append((turn, labels[index], index))
    return [index for _, _, index in sorted(turns)[:count]]


def source_of(dataset: Any, index: int) -> str:
    """Where an image comes from, below the data set's folder."""
    path = Path(dataset.describe(index))
    return str(path.relative_to(dataset.root)) if path.is_relative_to(dataset.root) else str(path)
