"""Labels that are wrong on purpose, to train on; the evaluated labels stay clean."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from common.errors import InputError

from .recipe import Recipe


def training_labels(recipe: Recipe, dataset: Any) -> list[int] | None:
    """Labels of every image of the training split instead of the data set's; None: its own.

    Raises InputError for a file that does not fit the data set, and where labels are distributions.
    """
    if not (recipe.label_noise or recipe.noisy_labels):
        return None
    if "soft_labels" in dataset.targets(0):
        raise InputError(
            "--label-noise and --noisy-labels change one label an image; the training labels of "
            f"{dataset.name} are distributions: leave out --votes soft"
        )
    if recipe.noisy_labels:
        return dataset.listed_labels(Path(recipe.noisy_labels))
    return symmetric_noise(
        dataset.labels, len(dataset.classes), recipe.label_noise, recipe.noise_seed
    )


def symmetric_noise(
    labels: Sequence[int], num_classes: int, probability: float, seed: int
) -> list[int]:
    """Labels (N,) of which each is replaced, with a probability, by one of the other classes.

    All other classes are equally likely, as in the codes of SCN and EAC. The share that is
    replaced varies about the probability. A lower probability with the same seed flips a part of
    the same labels, to the same classes.
    """
    generator = torch.Generator().manual_seed(seed)
    chances = torch.rand(len(labels), generator=generator, dtype=torch.float64)
    steps = torch.randint(1, num_classes, (len(labels),), generator=generator)
    clean = torch.tensor(labels)
    return torch.where(chances < probability, (clean + steps) % num_classes, clean).tolist()
