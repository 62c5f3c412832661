"""Line charts as inline SVG whose colours are the page's, in its light and in its dark scheme."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

from matplotlib import cycler, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .text import printable, without_math

#: What matplotlib draws with -> what it becomes on the page (page.css).
COLORS = {
    "#000001": "var(--quiet)",
    "#000002": "var(--rule)",
    "#000003": "var(--accent)",
    "#000004": "var(--series-1)",
    "#000005": "var(--series-2)",
    "#000006": "var(--series-3)",
}
QUIET, RULE, *SERIES = COLORS
#: Series differ in dashes too, and beyond the fourth in their marks.
LINES = cycler(marker=["o", "s"]) * (
    cycler(color=SERIES) + cycler(linestyle=["-", (0, (4, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2))])
)
STYLE = {
    "figure.figsize": (4.7, 3.1),  # inches of 72 SVG units, as wide as a phone
    "font.sans-serif": ["DejaVu Sans"],  # to measure with; page.css says what is shown
    "font.size": 10,
    "svg.fonttype": "none",  # text stays text
    "axes.prop_cycle": LINES,
    "lines.linewidth": 1.75,
    "lines.markersize": 3,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": RULE,
    **{f"axes.spines.{side}": False for side in ("left", "right", "top", "bottom")},
    **{f"{axis}tick.color": QUIET for axis in "xy"},
    "xtick.bottom": False,
    "ytick.left": False,
    "legend.frameon": False,
    "legend.labelcolor": QUIET,
    "legend.handlelength": 3,
    "legend.borderaxespad": 0,
}


def line_chart(epochs: Sequence[int], series: Mapping[str, Sequence[float]], *, label: str) -> str:
    """Series by epoch as an SVG element; values that are not finite are left out.

    label: the chart's text for screen readers. Equal arguments give equal text.
    """

    def draw(axes: Axes) -> None:
        for name, values in series.items():
            axes.plot(epochs, values, label=without_math(name))
        axes.xaxis.get_major_locator().set_params(integer=True)

    return _chart(draw, label)


def reliability_chart(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, label: str
) -> str:
    """Accuracy over confidence, (x, y) in percent for each series, as an SVG element.

    Perfect calibration is the diagonal. Values that are not finite are left out; label as in
    `line_chart`.
    """

    def draw(axes: Axes) -> None:
        axes.axline((0, 0), (100, 100), color=RULE)
        for name, (confidences, accuracies) in series.items():
            axes.plot(confidences, accuracies, label=without_math(name))
        axes.set(xlim=(0, 100), ylim=(0, 100))

    return _chart(draw, label)


def interval_chart(
    rows: Sequence[str],
    series: Mapping[str, Sequence[tuple[float, float, float] | None]],
    *,
    label: str,
) -> str:
    """Values with their intervals, (value, low, high) for each row, from top to bottom, as SVG.

    The upright line is zero. A row may be None, where nothing is known; label as in `line_chart`.
    """

    def draw(axes: Axes) -> None:
        axes.axvline(0, color=QUIET, linewidth=1)
        for number, (name, values) in enumerate(series.items()):
            shift = 0.6 * ((number + 0.5) / len(series) - 0.5)
            known = [(i + shift, *value) for i, value in enumerate(values) if value]
            places, middles, lows, highs = zip(*known, strict=True) if known else ((),) * 4
            reach = [
                [a - b for a, b in zip(middles, lows, strict=True)],
                [b - a for a, b in zip(middles, highs, strict=True)],
            ]
            bars = axes.errorbar(middles, places, xerr=reach, label=without_math(name))
            bars.lines[0].set_linestyle("none")
        axes.set_yticks(range(len(rows)), [without_math(row) for row in rows])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.grid(axis="x")

    height = 1.0 + 0.16 * len(rows) * (1 + len(series))  # inches
    return _chart(draw, label, {"figure.figsize": (4.7, height)})


def _chart(draw: Callable[[Axes], None], label: str, style: Mapping[str, Any] | None = None) -> str:
    label = printable(label)
    with rc_context({**STYLE, **(style or {}), "svg.hashsalt": label}):
        figure = Figure(layout="constrained")
        draw(figure.add_subplot())
        figure.legend(loc="outside lower left", ncols=2)
        buffer = io.StringIO()
        no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
    return _inline(buffer.getvalue(), label)


def _inline(svg: str, label: str) -> str:
    """An SVG file of matplotlib as an element of a page, as wide as there is room."""
    root = ElementTree.fromstring(svg)
    root.remove(root.find("{*}defs"))  # a style sheet, which would hold for the whole page
    for node in root.iter():
        node.tag = node.tag.rpartition("}")[2]
        # Names such as line2d_1 stand in every chart; those of marks and clip paths are needed.
        node.attrib = {
            name.rpartition("}")[2]: value
            for name, value in node.attrib.items()
            if not (name == "id" and "_" in value)
        }
    root.attrib = {"viewBox": root.get("viewBox"), "role": "img", "aria-label": label}
    text = ElementTree.tostring(root, encoding="unicode")
    for drawn, shown in COLORS.items():
        text = text.replace(drawn, shown)
    return text
