"""Synthetic faces in SFEW's layout: film frames with a face somewhere in them."""

from __future__ import annotations

import numpy as np
import pytest

from datasets import SFEW
from datasets.demo import draw_face, face_in_frame, write_sfew
from datasets.demo.sfew import TURN


@pytest.mark.filterwarnings("ignore:.*published are", "ignore:.*film frames")
def test_the_layout_is_sfews(tmp_path):
    write_sfew(tmp_path, train=14, val=7, workers=1)
    train, val = SFEW(tmp_path, "train"), SFEW(tmp_path, "val")
    assert (train.layout, val.layout) == ("film frames", "film frames")
    assert (train.class_counts(), val.class_counts()) == ((2,) * 7, (1,) * 7)
    assert train.read_image(0).size == (720, 576)


def test_frames_turn_faces_both_ways_and_far():
    def roll(seed: int) -> float:
        rng = np.random.default_rng(seed)
        face = draw_face("Neutral", rng, size=100)
        (left, right) = face.landmarks[:2]
        before = np.arctan2(*(right - left)[::-1])
        (left, right) = face_in_frame(face, rng)[1][:2]
        return np.rad2deg(np.arctan2(*(right - left)[::-1]) - before)

    turns = [roll(seed) for seed in range(12)]
    assert min(turns) < -15
    assert max(turns) > 15
    assert max(map(abs, turns)) <= TURN + 1e-6


def test_the_features_are_inside_the_frame():
    for seed in range(12):
        rng = np.random.default_rng(seed)
        _, landmarks = face_in_frame(draw_face("Neutral", rng, size=64), rng)
        assert (landmarks > 0).all()
        assert (landmarks < (720, 576)).all()
