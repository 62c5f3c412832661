"""Balanced and shuffled sampling: shares of the classes, length, seeds, and the batches."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from engine.loading import TrainingBatches
from engine.samplers import SAMPLINGS, balanced, shuffle
from torch.utils.data import WeightedRandomSampler

# Class frequencies as uneven as AffectNet's.
LABELS = (
    [0] * 2600 + [1] * 4670 + [2] * 880 + [3] * 490 + [4] * 220 + [5] * 130 + [6] * 860 + [7] * 130
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shares(draws: list[int]) -> list[float]:
    labels = torch.tensor(LABELS)[draws]
    return (torch.bincount(labels, minlength=8) / len(draws)).tolist()


def test_balanced_draws_every_class_equally_often():
    """9,980 draws: a share of 1/8 has a standard deviation of 0.0033."""
    draws = balanced(LABELS, generator())
    assert len(draws) == len(LABELS)
    assert shares(draws) == pytest.approx([1 / 8] * 8, abs=0.0133)


def test_balanced_draws_the_images_of_a_class_equally_often():
    draws = torch.tensor(balanced(LABELS, generator()))
    rare = draws[torch.tensor(LABELS)[draws] == 5] - LABELS.index(5)
    times = torch.bincount(rare, minlength=130).float()
    assert times.mean().item() == pytest.approx(9.6, abs=1)
    # Poisson: the variance of the counts is their mean.
    assert 0.5 < times.var() / times.mean() < 1.6


def test_balanced_is_torchs_own_sampler_with_inverse_frequencies():
    frequency = torch.bincount(torch.tensor(LABELS)).double()
    weights = [1 / frequency[label].item() for label in LABELS]
    expected = list(WeightedRandomSampler(weights, len(LABELS), generator=generator(3)))
    assert balanced(LABELS, generator(3)) == expected


def test_balanced_passes_over_a_class_without_images():
    draws = balanced([0, 0, 0, 5], generator())
    assert set(draws) <= {0, 1, 2, 3}
    long = balanced([0] * 900 + [5] * 100, generator())
    assert sum(draw >= 900 for draw in long) == pytest.approx(500, abs=64)


def test_shuffle_draws_every_image_once():
    draws = shuffle(LABELS, generator())
    assert sorted(draws) == list(range(len(LABELS)))
    assert draws != sorted(draws)


@pytest.mark.parametrize("name", SAMPLINGS)
def test_the_seed_decides(name):
    sample = SAMPLINGS[name]
    assert sample(LABELS, generator(1)) == sample(LABELS, generator(1))
    assert sample(LABELS, generator(1)) != sample(LABELS, generator(2))


@pytest.mark.parametrize("name", SAMPLINGS)
def test_batches_follow_the_sampling_and_the_epoch(name):
    def epoch(number: int, seed: int = 7) -> list[tuple[int, int]]:
        batches = TrainingBatches(len(LABELS), 64, seed, partial(SAMPLINGS[name], LABELS))
        batches.epoch = number
        return [draw for batch in batches for draw in batch]

    first = epoch(1)
    assert len(first) == len(LABELS)
    assert epoch(1) == first
    assert epoch(2) != first
    assert epoch(1, seed=8) != first
    positions = [position for position, _ in first]
    if name == "balanced":
        assert shares(positions) == pytest.approx([1 / 8] * 8, abs=0.0133)
        # An image that is drawn twice is augmented in two ways.
        assert len(set(first)) == len(first) > len(set(positions))
    else:
        assert sorted(positions) == list(range(len(LABELS)))
