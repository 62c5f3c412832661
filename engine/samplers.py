"""Which images an epoch draws, by the name that `--sampling` takes.

A sampling takes the labels of the training images and a seeded generator and returns as many
positions as there are labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def shuffle(labels: Sequence[int], generator: torch.Generator) -> list[int]:
    """Every image once, in a random order."""
    import torch

    return torch.randperm(len(labels), generator=generator).tolist()


def balanced(labels: Sequence[int], generator: torch.Generator) -> list[int]:
    """Draws with replacement in which every class that occurs is equally likely.

    So a rare class is up-sampled and a frequent one down-sampled (paper, section 4.2).
    """
    import torch
    from torch.utils.data import WeightedRandomSampler

    classes = torch.tensor(labels)
    weights = 1 / torch.bincount(classes).double()
    return list(WeightedRandomSampler(weights[classes], len(labels), generator=generator))


SAMPLINGS = {"shuffle": shuffle, "balanced": balanced}
