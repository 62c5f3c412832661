"""The timeline: means by bin, whatever the length of the video."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from inference import timeline
from inference.faces import PredictedFace
from inference.timeline import Timeline
from tests.support.patches import face_of


def face(share: float) -> PredictedFace:
    shares = np.array([share, 1 - share])
    return PredictedFace(face_of((0, 0, 9, 9)), Image.new("RGB", (8, 8)), shares, ("a", "b"))


def test_a_change_of_expression_is_where_it_was():
    found = Timeline(("a", "b"))
    for i in range(200):
        found.add(i / 25, 1, face(0.9 if i < 80 else 0.2))
    times, shares = found.of(1)
    assert (times < 3.2).sum() == 80
    assert shares[times < 3.2, 0] == pytest.approx(0.9)
    assert shares[times > 3.2, 0] == pytest.approx(0.2)


def test_bins_widen_and_keep_the_mean(monkeypatch):
    monkeypatch.setattr(timeline, "MAX_BINS", 10)
    found, rng = Timeline(("a", "b"), width=0.1), np.random.default_rng(0)
    values = rng.uniform(0, 1, 400)
    for i, value in enumerate(values):
        found.add(i / 20, 1, face(value))  # 20 seconds
    assert found.width == pytest.approx(3.2)
    times, shares = found.of(1)
    assert len(times) == 7
    assert shares[0, 0] == pytest.approx(values[:64].mean())
    assert shares[-1, 0] == pytest.approx(values[384:].mean())


def test_the_figure_has_a_row_per_person_those_seen_longest():
    found = Timeline(("a", "b"))
    for person in range(1, 12):
        for i in range(person):
            found.add(i / 10, person, face(0.5))
    figure = found.figure("clip $1$")
    assert [axes.get_ylabel() for axes in figure.axes] == [f"person {n}\n%" for n in range(4, 12)]
    assert "3 more persons" in figure.get_suptitle()
    assert Timeline(("a",)).figure("empty").axes
