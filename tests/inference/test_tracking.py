"""One person has one number, whatever the order in which the detector gives the faces."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from inference.faces import PredictedFace
from inference.tracking import PATIENCE, Tracker, follow_faces
from inference.video import Frame
from tests.support.patches import face_of

NAMES = ("a", "b")


def seen(left: float, share: float = 0.5, side: float = 100.0) -> PredictedFace:
    face = face_of((left, 0.0, left + side, side))
    return PredictedFace(face, Image.new("RGB", (8, 8)), np.array([share, 1 - share]), NAMES)


def numbers(tracker: Tracker, time: float, *lefts: float) -> list[int]:
    return [number for number, _ in tracker.follow([seen(left) for left in lefts], time)]


def test_faces_keep_their_numbers_in_any_order():
    tracker = Tracker()
    assert numbers(tracker, 0.0, 0, 200) == [1, 2]
    assert numbers(tracker, 0.1, 210, 10) == [2, 1]
    # The second overlaps both: the pairs with the largest sum are taken, not the first found.
    assert numbers(tracker, 0.2, 25, 205, 400) == [1, 2, 3]


def test_the_assignment_is_the_best_for_all_together():
    tracker = Tracker()
    assert numbers(tracker, 0.0, 0, 60) == [1, 2]
    # 35 is nearest to 60, but then 92 would have no one.
    assert numbers(tracker, 0.1, 35, 92) == [1, 2]


def test_a_lost_face_is_known_again_for_a_while():
    tracker = Tracker()
    assert numbers(tracker, 0.0, 0) == [1]
    assert numbers(tracker, 0.5) == []
    assert numbers(tracker, PATIENCE, 5) == [1]
    assert numbers(tracker, PATIENCE + 0.5) == []
    assert numbers(tracker, 2 * PATIENCE + 0.01, 5) == [2]
    assert numbers(tracker, 2 * PATIENCE + 0.02, 80) == [3]  # overlaps too little


def test_a_face_that_is_there_keeps_its_number_however_seldom_one_looks():
    tracker = Tracker()
    assert [numbers(tracker, time, 0) for time in (0, 5, 10)] == [[1]] * 3
    assert numbers(tracker, 15) == []
    assert numbers(tracker, 20, 0) == [2]


def test_probabilities_are_smoothed_over_time_and_add_up_to_one():
    tracker = Tracker(smooth=2.0)
    tracker.follow([seen(0, 1.0)], 0.0)
    ((_, face),) = tracker.follow([seen(0, 0.0)], 0.5)
    assert face.probabilities == pytest.approx([math.exp(-0.25), 1 - math.exp(-0.25)])
    assert face.expression == "a"
    ((_, face),) = Tracker().follow([seen(0, 0.3)], 0.5)
    assert face.probabilities == pytest.approx([0.3, 0.7])


class Counting:
    """In the place of a predictor: a face whose place is the picture's width."""

    def __init__(self):
        self.asked = []

    def __call__(self, pictures):
        self.asked.append(len(pictures))
        return [[seen(picture.width)] for picture in pictures]


def test_every_third_frame_is_analysed_and_the_others_show_its_faces():
    predictor = Counting()
    frames = [Frame(i / 10, Image.new("RGB", (100 + i, 50))) for i in range(8)]
    found = list(follow_faces(predictor, iter(frames), Tracker(), every=3, at_once=2))
    assert [one.frame for one in found] == frames
    assert [one.analysed for one in found] == [i % 3 == 0 for i in range(8)]
    assert [one.faces[0][1].face.box[0] for one in found] == [100] * 3 + [103] * 3 + [106] * 2
    assert predictor.asked == [2, 1]


def test_frames_are_not_collected_without_end(monkeypatch):
    monkeypatch.setattr("inference.tracking.PIXELS_AT_ONCE", 3 * 100 * 50)
    frames = (Frame(i / 10, Image.new("RGB", (100, 50))) for i in range(9))
    predictor = Counting()
    assert len(list(follow_faces(predictor, frames, Tracker(), every=100))) == 9
    assert predictor.asked == [1, 0, 0]
