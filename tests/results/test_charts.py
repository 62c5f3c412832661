"""Charts of the page: values where they belong, colours of the page, text as text."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from results.charts import COLORS, interval_chart, line_chart, reliability_chart


def parsed(*args, **options) -> ElementTree.Element:
    return ElementTree.fromstring(line_chart(*args, **options))


def marks(chart: ElementTree.Element) -> dict[str, list[tuple[float, float]]]:
    """Colour -> the places (x, y) of its marks in the axes, in order; without the legend's."""
    axes = chart.find("g/g[2]")
    found: dict[str, list[tuple[float, float]]] = {}
    for use in axes.iter("use"):
        color = re.search(r"fill: (\S+?)[;\"]", use.get("style") + ";")[1]
        found.setdefault(color, []).append((float(use.get("x")), float(use.get("y"))))
    return found


def test_values_stand_where_they_belong():
    series = {"a": [0.0, 5.0, 10.0], "b": [10.0, float("nan"), 0.0]}
    first, second = marks(parsed([1, 2, 3], series, label="x")).values()
    (x1, y1), (x2, y2), (x3, y3) = first
    assert x2 - x1 == pytest.approx(x3 - x2)
    assert y1 - y2 == pytest.approx(y2 - y3)  # up the screen is a smaller y
    assert y3 < y1
    assert second == [(x1, y3), (x3, y1)]


@pytest.mark.parametrize(
    "values",
    [[1.0], [2.0, 2.0], [float("nan")] * 2, [float("inf"), 1.0], [1e-9, 1e9]],
    ids=["one epoch", "constant", "none", "infinite", "wide"],
)
def test_any_values_can_be_drawn(values, recwarn):
    epochs = list(range(1, len(values) + 1))
    assert parsed(epochs, {"a": values}, label="x").get("viewBox")
    assert not recwarn.list


def test_colours_are_those_of_the_page():
    made = line_chart([1, 2], {name: [1, 2] for name in "abcd"}, label="x")
    assert not re.search(r"#[0-9a-f]{6}\b", made)
    assert set(re.findall(r"var\([\w-]+\)", made)) == set(COLORS.values())


def test_eight_series_can_be_told_apart():
    made = parsed([1, 2], {name: [i, i] for i, name in enumerate("abcdefgh")}, label="x")
    looks = [
        (use.get("href"), use.get("style")) for use in made.find("g/g[3]").iter("use")
    ]  # of the legend
    assert len(set(looks)) == 8


def test_text_is_text_and_names_are_no_markup():
    made = parsed([1], {"<b>$x$": [1.0], "f\udce4": [1.0]}, label='"<\udce4>')
    words = [text.text for text in made.iter("text")]
    assert {"<b>$x$", "f\\udce4"} <= set(words)
    assert made.get("role") == "img"
    assert made.get("aria-label") == '"<\\udce4>'


def test_nothing_in_a_chart_holds_for_another():
    one, other = (parsed([1, 2], {"a": [1, 2]}, label=label) for label in ("x", "y"))
    assert not list(one.iter("style"))
    ids = [{node.get("id") for node in chart.iter() if node.get("id")} for chart in (one, other)]
    assert ids[0]
    assert not ids[0] & ids[1]


def test_a_reliability_diagram_has_its_points_over_the_diagonal():
    nan = float("nan")
    series = {"before": ([50.0, 100.0], [0.0, 100.0]), "after": ([25.0, nan], [25.0, nan])}
    made = ElementTree.fromstring(reliability_chart(series, label="x"))
    before, after = marks(made).values()
    (x1, y1), (x2, y2) = before
    ((x, y),) = after
    assert x2 - x1 == pytest.approx(2 * (x1 - x))  # 50 is halfway to 100, 25 to 50
    assert (y1 - y2) == pytest.approx(4 * (y1 - y))
    assert made.get("aria-label") == "x"


def test_intervals_lie_beside_their_rows_from_top_to_bottom():
    series = {"a": [(1.0, 0.0, 2.0), None, (-1.0, -2.0, 0.0)], "b": [(0.0, -1.0, 1.0)] * 3}
    chart = ElementTree.fromstring(interval_chart(["all", "x", "y"], series, label="words"))
    first, second = marks(chart).values()
    assert (len(first), len(second)) == (2, 3)
    (x1, y1), (x2, y2) = first
    middles = [x for x, _ in second]
    assert middles == [middles[0]] * 3
    assert x1 - middles[0] == pytest.approx(middles[0] - x2, abs=1e-3)
    assert x1 > x2
    assert second[0][1] > y1  # beside it, below
    assert second[0][1] < y2
    assert [text.text for text in chart.iter("text")][-5:] == ["all", "x", "y", "a", "b"]
    assert chart.get("aria-label") == "words"


def test_intervals_may_all_be_unknown():
    assert "<svg" in interval_chart(["all"], {"a": [None]}, label="x")
