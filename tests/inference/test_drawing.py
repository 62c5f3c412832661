"""Boxes and names lie in the picture, wherever the face is and however small the picture."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from PIL import Image

from inference.drawing import SMALLEST_SIDE, annotated
from inference.faces import PredictedFace
from tests.support.patches import face_of

SHARES = np.array([0.123, 0.877])


def drawn(size: tuple[int, int], box: tuple[float, float, float, float]) -> np.ndarray:
    """Where the annotated picture differs from the (enlarged) picture."""
    face = PredictedFace(face_of(box), Image.new("RGB", (8, 8)), SHARES, ("Surprise", "Happiness"))
    picture = Image.new("RGB", size, "white")
    copy = annotated(picture, [face])
    assert picture.getextrema() == ((255, 255),) * 3  # the picture itself is unchanged
    return (np.asarray(copy) != 255).any(axis=2)


@pytest.mark.parametrize(
    ("size", "where"),
    [
        *itertools.product([(60, 40), (640, 480)], ["middle", "corner", "whole", "outside"]),
        ((4000, 3000), "corner"),
    ],
)
def test_the_label_is_whole_and_in_the_picture(size, where):
    width, height = size
    boxes = {
        "middle": (0.4, 0.4, 0.6, 0.7),
        "corner": (0.9, 0.0, 1.0, 0.15),
        "whole": (0, 0, 1, 1),
        "outside": (-0.2, 0.8, 0.1, 1.2),
    }
    box = tuple(np.array(boxes[where]) * (width, height, width, height))
    changed = drawn(size, box)
    assert max(changed.shape) >= SMALLEST_SIDE
    # The label: the row with the longest filled stretch of the class's colour or its text.
    widest = changed.sum(axis=1).max()
    assert widest >= 60
    assert changed.sum() > 60 * 9


def test_a_picture_without_faces_is_only_copied():
    picture = Image.new("RGB", (400, 300), "white")
    copy = annotated(picture, [])
    assert copy is not picture
    assert copy.tobytes() == picture.tobytes()


def test_the_box_is_where_the_face_is():
    changed = drawn((640, 480), (200.0, 200.0, 300.0, 320.0))
    assert changed[200:320, 200].all()
    assert changed[319, 200:300].all()
    assert not changed[240:300, 210:290].any()
    assert not changed[330:].any()
