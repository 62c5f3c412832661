"""Metrics as text, and the confusion matrix as a figure."""

from __future__ import annotations

import math

import numpy as np
import pytest

from results.metrics import confusion_figure, metrics_json, metrics_text
from tests.support.metrics import metrics_with

CLASSES = ("Happy", "Sad", "Fear")
METRICS = metrics_with([[8, 1, 0], [2, 5, 0], [1, 3, 0]])  # Fear is never predicted


def test_every_number_is_in_the_text():
    text = metrics_text(METRICS, CLASSES)
    low, high = METRICS.accuracy_interval
    for value in (METRICS.accuracy, low, high, METRICS.mean_class_accuracy, METRICS.macro_f1):
        assert f"{100 * value:.2f}" in text
    rows = zip(CLASSES, METRICS.recalls, METRICS.precisions, METRICS.f1_scores, strict=True)
    for name, *values in rows:
        line = next(line for line in text.splitlines() if line.startswith(name))
        shown = ["-" if math.isnan(value) else f"{100 * value:.2f}" for value in values]
        assert line.split()[2:] == shown
    assert [line.split() for line in text.splitlines()[-3:]] == [
        ["Happy", "88.9", "11.1", "0.0"],
        ["Sad", "28.6", "71.4", "0.0"],
        ["Fear", "25.0", "75.0", "0.0"],
    ]


def test_the_columns_of_the_matrix_end_below_their_names():
    head, *rows = metrics_text(METRICS, ("a", "a much longer name", "b")).splitlines()[-4:]
    end = head.index("a much longer name") + len("a much longer name")
    assert [row[:end].split()[-1] for row in rows] == ["11.1", "71.4", "75.0"]
    assert not any(row[end - 1].isspace() for row in rows)


def test_the_figure_has_the_fractions_as_percent():
    figure = confusion_figure(METRICS.fractions().tolist(), CLASSES, "title")
    figure.canvas.draw()
    axes = figure.axes[0]
    np.testing.assert_allclose(axes.images[0].get_array(), 100 * METRICS.fractions())
    cells = [text.get_text() for text in axes.texts]
    assert cells == ["88.9", "11.1", "0.0", "28.6", "71.4", "0.0", "25.0", "75.0", "0.0"]
    # Dark cells have light numbers.
    assert [axes.texts[i].get_color() for i in (0, 1, 4)] == ["white", "black", "white"]
    for axis in (axes.xaxis, axes.yaxis):
        assert [label.get_text() for label in axis.get_ticklabels()] == list(CLASSES)
    assert axes.get_ylabel() == "true class"


@pytest.mark.parametrize("name", ["$a$b$", "$\\frac$", "f\udce4"])
def test_names_from_files_can_be_drawn(name):
    figure = confusion_figure([[1.0, 0.0], [0.0, 1.0]], (name, "b"), name)
    figure.canvas.draw()


def test_the_json_has_every_number_and_none_where_there_is_nothing_to_divide_by():
    metrics = metrics_with([[2, 1, 0], [0, 1, 0], [0, 0, 0]])
    content = metrics_json(metrics)
    assert content == {
        "images": 4,
        "accuracy": 0.75,
        "accuracy_interval_95": list(metrics.accuracy_interval),
        "mean_class_accuracy": metrics.mean_class_accuracy,
        "macro_f1": metrics.macro_f1,
        "per_class_recall": [2 / 3, 1.0, None],
        "per_class_precision": [1.0, 0.5, None],
        "per_class_f1": [pytest.approx(4 / 5), pytest.approx(2 / 3), None],
        "confusion_matrix": [[2 / 3, 1 / 3, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]],
        "confusion_counts": [[2, 1, 0], [0, 1, 0], [0, 0, 0]],
    }
    assert type(content["confusion_counts"][0][0]) is int
    scores = {name: content[name] for name in ("accuracy", "mean_class_accuracy", "macro_f1")}
    assert metrics.scores() == scores
