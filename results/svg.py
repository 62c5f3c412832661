"""Line charts as inline SVG; colours and fonts come from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple
from xml.etree.ElementTree import Element

from .html import element

WIDTH, HEIGHT = 340, 200
LEFT, RIGHT, TOP, BOTTOM = 40, 8, 10, 26  # margins, for the numbers at the axes


class Line(NamedTuple):
    """A named series of a chart."""

    name: str
    values: Sequence[float]  # one per place on the horizontal axis


def line_chart(
    places: Sequence[int], lines: Sequence[Line], *, label: str, decimals: int = 0
) -> Element:
    """Lines over whole numbers `places`; `label` is what a screen reader says of the chart.

    Line i has the class `series-i`. Values that are not finite are left out.
    """
    known = [value for line in lines for value in line.values if math.isfinite(value)]
    ticks = nice_ticks(min(known, default=0.0), max(known, default=1.0))
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    first, last = places[0], places[-1]

    def x(place: float) -> float:
        return LEFT + width * ((place - first) / (last - first) if last > first else 0.5)

    def y(value: float) -> float:
        return TOP + height * (1 - (value - ticks[0]) / (ticks[-1] - ticks[0]))

    parts = [
        part
        for tick in ticks
        for part in (
            _line(LEFT, y(tick), WIDTH - RIGHT, y(tick)),
            _text(LEFT - 6, y(tick) + 4, f"{tick:.{_decimals(ticks, decimals)}f}", "end"),
        )
    ]
    parts += [_text(x(place), HEIGHT - 8, str(place), "middle") for place in _some(places)]
    for number, line in enumerate(lines):
        points = [
            (x(p), y(v)) for p, v in zip(places, line.values, strict=True) if math.isfinite(v)
        ]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
        parts.append(element("polyline", points=path, class_=f"series-{number}"))
        parts += [
            element("circle", cx=f"{px:.1f}", cy=f"{py:.1f}", r="2.5", class_=f"series-{number}")
            for px, py in points
        ]
    return element("svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=label)


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About `count` steps of 1, 2 or 5 times a power of ten that reach from low to high."""
    spread = high - low or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(spread / count))
    step = next(m * power for m in (1, 2, 5, 10) if m * power * count >= spread)
    start, end = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [step * number for number in range(start, max(end, start + 1) + 1)]


def _decimals(ticks: Sequence[float], least: int) -> int:
    return max(least, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9))


def _some(places: Sequence[int], most: int = 8) -> Sequence[int]:
    return places[:: math.ceil(len(places) / most)]


def _line(x1: float, y1: float, x2: float, y2: float) -> Element:
    return element("line", x1=f"{x1:.1f}", y1=f"{y1:.1f}", x2=f"{x2:.1f}", y2=f"{y2:.1f}")


def _text(x: float, y: float, words: str, anchor: str) -> Element:
    return element("text", words, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor)
