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
        found.add(i / 25, [(1, face(0.9 if i < 80 else 0.2))])
    times, shares = found.of(1)
    before = times < 3.19
    assert before.sum() == 80
    assert shares[before, 0] == pytest.approx(0.9)
    assert shares[~before, 0] == pytest.approx(0.2)


def test_bins_widen_and_keep_the_mean(monkeypatch):
    monkeypatch.setattr(timeline, "MAX_BINS", 10)
    found, rng = Timeline(("a", "b"), width=0.1), np.random.default_rng(0)
    values = rng.uniform(0, 1, 400)
    for i, value in enumerate(values):
        found.add(i / 20, [(1, face(value))])  # 20 seconds
    assert found.width == pytest.approx(3.2)
    times, shares = found.of(1)
    assert len(times) == 7
    assert shares[0, 0] == pytest.approx(values[:64].mean())
    assert shares[-1, 0] == pytest.approx(values[384:].mean())


def test_the_figure_has_a_row_per_person_those_seen_longest():
    found = Timeline(("a", "b"))
    for i in range(11):
        found.add(i / 10, [(person, face(0.5)) for person in range(i + 1, 12)])
    figure = found.figure("clip $1$")
    assert [axes.get_ylabel() for axes in figure.axes] == [f"person {n}\n%" for n in range(4, 12)]
    assert "3 more persons" in figure.get_suptitle()


@pytest.mark.parametrize("step", [0.1, 2.0])
def test_what_is_drawn_holds_until_the_next_look_but_not_where_the_face_was_lost(step):
    found = Timeline(("a", "b"))
    for i in range(30):
        found.add(i * step, [(1, face(0.75))] if i < 5 or i >= 25 else [])
    (axes,) = found.figure("x").axes
    values, edges, _ = axes.patches[0].get_data()  # of the first class
    drawn = ~np.isnan(values)
    assert values[drawn] == pytest.approx(75)
    assert np.diff(edges)[drawn].sum() == pytest.approx(10 * step, abs=found.width)
    assert np.diff(edges)[~drawn] == pytest.approx([20 * step], abs=found.width)
