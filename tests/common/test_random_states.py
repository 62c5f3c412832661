"""Random generators continue where they were, from a file too."""

from __future__ import annotations

import random

import numpy as np
import torch

from common.random_states import random_states, restore_random_states, seed_everything
from tests.support.scripts import load, scramble_random_generators


def draw() -> list[float]:
    return [random.random(), random.gauss(0, 1), *np.random.randn(1).tolist(), torch.rand(1).item()]


def test_random_states_are_put_back_to_the_next_number(tmp_path):
    seed_everything(5)
    draw()  # so that the normal generators hold a second number
    torch.save(random_states(), tmp_path / "states.pth")
    expected = [draw(), draw()]
    scramble_random_generators()
    assert draw() != expected[0]
    restore_random_states(load(tmp_path / "states.pth"))
    assert [draw(), draw()] == expected


def test_a_seed_sets_every_generator():
    seed_everything(5)
    expected = draw()
    scramble_random_generators()
    seed_everything(5)
    assert draw() == expected
    seed_everything(6)
    assert all(a != b for a, b in zip(draw(), expected, strict=True))
