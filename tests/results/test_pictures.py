"""Figures: what is drawn is the numbers behind it."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
from PIL import Image

from common.errors import InputError
from results.pictures import (
    curves_figure,
    embedding_figure,
    enlarged,
    heads_figure,
    map_sheet,
    overlay,
    save_figure,
)


def test_an_overlay_is_warmest_at_the_peak():
    heat = np.zeros((2, 2))
    heat[0, 1] = 7.0
    pixels = np.asarray(overlay(Image.new("RGB", (40, 30), "gray"), heat)).astype(int)
    warm = pixels[..., 0] - pixels[..., 2]
    assert pixels.shape == (30, 40, 3)
    assert warm[2, 37] > 40 > warm[27, 2]


def test_a_small_image_is_enlarged_and_keeps_its_shape():
    assert enlarged(Image.new("RGB", (20, 10)), 80).size == (80, 40)
    assert enlarged(Image.new("RGB", (200, 100)), 80).size == (200, 100)


def test_a_sheet_has_a_row_for_each_image_and_a_column_for_each_head():
    images = [Image.new("RGB", (30, 30), color) for color in ("red", "blue")]
    maps = np.random.default_rng(0).random((2, 3, 4, 4))
    figure = map_sheet(images, maps, ["one, $a$", "two"], "title")
    figure.canvas.draw()
    grid = np.array(figure.axes).reshape(2, 4)
    assert [axes.get_title() for axes in grid[0]] == ["", "head 1", "head 2", "head 3"]
    for row, image in enumerate(images):
        shown = [np.asarray(axes.images[0].get_array()) for axes in grid[row]]
        assert (shown[0] == np.asarray(enlarged(image, 240))).all()
        for head in range(3):
            expected = np.asarray(overlay(enlarged(image, 240), maps[row, head]))
            assert (shown[head + 1] == expected).all()
    # The pictures do not make room for the captions, which end above the next row.
    boxes = [axes.get_window_extent() for axes in grid[0]]
    assert boxes[1].x0 - boxes[0].x1 == pytest.approx(boxes[2].x0 - boxes[1].x1, abs=1)
    for row in range(2):
        caption = grid[row][0].texts[0].get_window_extent()
        assert caption.y1 <= grid[row][0].get_window_extent().y0
        assert caption.y0 >= (grid[row + 1][0].get_window_extent().y1 if row == 0 else 0)


def test_an_embedding_is_coloured_by_class():
    points = np.arange(12.0).reshape(6, 2)
    labels = np.array([0, 1, 0, 1, 1, 0])
    figure = embedding_figure([("a", points), ("b", -points)], labels, ("x", "y"), "title")
    for axes, drawn in zip(figure.axes, (points, -points), strict=True):
        for label, dots in enumerate(axes.collections):
            assert (dots.get_offsets() == drawn[labels == label]).all()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["x", "y"]


def test_heads_are_drawn_as_mean_and_deviation():
    last, best = {1: [0.4], 4: [0.6, 0.7, 0.5]}, {1: [0.5], 4: [0.6, 0.7, 0.9]}
    (axes,) = heads_figure({"data": {"last": last, "best": best}}).axes
    for drawn, values in zip(axes.containers, (last, best), strict=True):
        line, _, (bars,) = drawn
        assert line.get_ydata() == pytest.approx([100 * np.mean(v) for v in values.values()])
        deviation = 100 * statistics.stdev(values[4])
        low, high = bars.get_segments()[1][:, 1]
        assert high - low == pytest.approx(2 * deviation)
    assert [t.get_text() for t in axes.get_xticklabels()] == ["1\n1 seed", "4\n3 seeds"]


def test_curves_are_the_rows_of_the_runs():
    rows = [{"epoch": 1, "loss": 3, "accuracy": 0.5, "mean_class_accuracy": 0.25}]
    loss, scores = curves_figure({"$run$_": rows}).axes
    assert [line.get_ydata() for line in loss.lines] == [[3]]
    assert [list(line.get_ydata()) for line in scores.lines] == [[50], [25]]
    with pytest.raises(InputError, match="no epoch"):
        curves_figure({"run": []})


def test_equal_figures_are_equal_files(tmp_path):
    rows = [{"epoch": 1, "loss": 3, "accuracy": 0.5, "mean_class_accuracy": 0.25}]
    first = save_figure(curves_figure({"run": rows}), tmp_path / "a/b.c")
    second = save_figure(curves_figure({"run": rows}), tmp_path / "d")
    assert [path.name for path in first] == ["b.c.png", "b.c.pdf"]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert first[0].read_bytes().startswith(b"\x89PNG")
    assert first[1].read_bytes().startswith(b"%PDF")
    assert save_figure(curves_figure({"run": rows}), tmp_path / "e", kinds=("png",)) == [
        tmp_path / "e.png"
    ]
