"""A report as one HTML file that needs nothing else: no network, no script, no other file."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from common.files import write_json, write_text

from .charts import line_chart, reliability_chart
from .evidence import Attention, Look
from .metrics import confusion_figure
from .pictures import enlarged, overlay, save_figure
from .report import Report
from .robustness import robustness_charts, robustness_summary, robustness_table
from .subsets import subset_table
from .text import printable

FOLDER = Path(__file__).parent
PICTURE_SIDE = 160  # pixels at most
METRICS = {
    "accuracy": "Accuracy",
    "mean_class_accuracy": "Mean class accuracy",
    "macro_f1": "Macro F1",
}
NOT_TERMS = ("epoch", "lr", "loss", *METRICS)


def write_report(folder: Path, report: Report) -> tuple[Path, Path, Path]:
    """Write report.json, confusion_matrix.png and index.html; returns their paths.

    Raises InputError where one cannot be written.
    """
    numbers = report.numbers
    json, html = folder / "report.json", folder / "index.html"
    write_json(json, numbers)
    title = f"{Path(numbers['checkpoint']).name} on {numbers['dataset']} {numbers['split']}"
    figure = confusion_figure(numbers["confusion_matrix"], numbers["classes"], title)
    (png,) = save_figure(figure, folder / "confusion_matrix", kinds=("png",))
    write_text(html, page(report))
    return json, png, html


def page(report: Report) -> str:
    """The report as HTML; every text in it is escaped."""
    numbers, attention = report.numbers, report.attention
    template = page_environment().get_template("page.html.j2")
    return template.render(
        title=f"{report.network} on {numbers['dataset']} {numbers['split']}",
        report=report,
        numbers=numbers,
        right=sum(row[i] for i, row in enumerate(numbers["confusion_counts"])),
        metrics=METRICS,
        curves=Curves.of(report.history) if report.history else None,
        reliability=_reliability(numbers["calibration"]),
        bins=_bins(numbers["calibration"]),
        robustness=_robustness(numbers["corruptions"]) if "corruptions" in numbers else None,
        subsets=subset_table(numbers.get("subsets", ()), numbers),
        **(_attention(attention, numbers["classes"]) if attention else {}),
    )


def page_environment(*folders: Path) -> Environment:
    """Templates of these folders, and of this one, with the filters below; texts are escaped."""
    environment = Environment(
        loader=FileSystemLoader([*folders, FOLDER]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # What a template has escaped already is of a class of its own.
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    for made in (percent, share, counted, embedded):
        environment.filters[made.__name__] = made
    return environment


# --------------------------------------------------------------------------------------------
# Filters of the template


def percent(fraction: float | None) -> str:
    """A fraction as percent, without the sign; a dash where there is no number."""
    return "–" if fraction is None else f"{100 * fraction:.2f}"


def share(probability: float) -> str:
    """A probability as percent, with the sign."""
    # A no-break space: the sign stays with its number.
    return "under 0.1\xa0%" if probability < 0.001 else f"{100 * probability:.1f}\xa0%"


def counted(number: int, noun: str) -> str:
    """A number of things in words: 1 image, 2,000 images."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


class Embedded(NamedTuple):
    """A picture inside a page."""

    uri: str
    width: int  # pixels
    height: int


def embedded(image: Image.Image) -> Embedded:
    """A picture as a data URI, at most PICTURE_SIDE pixels wide and high."""
    small = image.convert("RGB")
    small.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=88)
    data = base64.b64encode(buffer.getvalue()).decode()
    return Embedded(f"data:image/jpeg;base64,{data}", *small.size)


# --------------------------------------------------------------------------------------------
# Training curves


class Curves(NamedTuple):
    """The history of a run as charts and as a table."""

    charts: list[tuple[str, str]]  # caption, SVG
    columns: list[str]
    rows: list[list[str]]
    best: Mapping[str, float]  # row of metrics.csv, the first of equals
    last: Mapping[str, float]

    @classmethod
    def of(cls, history: Sequence[Mapping[str, float]]) -> Curves:
        """The curves of one epoch or more, rows of metrics.csv."""
        epochs = [int(row["epoch"]) for row in history]
        scores = {
            METRICS[name].lower(): [100 * row[name] for row in history]
            for name in ("accuracy", "mean_class_accuracy")
        }
        terms = [name for name in history[0] if name not in NOT_TERMS]
        losses = {"loss": [row["loss"] for row in history]} if "loss" in history[0] else {}
        if len(terms) > 1:  # a single term is the loss
            losses |= {f"{name} term": [row[name] for row in history] for name in terms}
        charts = [("Evaluated split, percent, by epoch", scores)]
        if losses:
            charts.append(("Training loss and its terms, by epoch", losses))
        rows = [
            [str(epoch), *(f"{values[i]:.2f}" for values in scores.values())]
            + [f"{values[i]:.4f}" for values in losses.values()]
            for i, epoch in enumerate(epochs)
        ]
        return cls(
            charts=[(caption, _chart(epochs, caption, series)) for caption, series in charts],
            columns=["epoch", *scores, *losses],
            rows=rows,
            best=max(history, key=lambda row: row["accuracy"]),
            last=history[-1],
        )


def _robustness(content: Mapping[str, Any]) -> dict[str, Any]:
    """Table, charts and means of an evaluation on corrupted images."""
    return {
        "table": robustness_table(content),
        "charts": robustness_charts(content),
        "summary": robustness_summary(content),
    }


def _reliability(calibration: Mapping[str, Any]) -> str:
    """The reliability diagram before and, where there is a temperature, after calibration."""
    series = {
        f"{name} calibration" if len(calibration) > 1 else "accuracy": tuple(
            [float("nan") if share is None else 100 * share for share in made[axis]]
            for axis in ("confidences", "accuracies")
        )
        for name, made in calibration.items()
    }
    errors = (f"{name} {100 * made['ece']:.2f} %" for name, made in calibration.items())
    label = f"Accuracy by top probability; expected calibration error: {', '.join(errors)}"
    return reliability_chart(series, label=label)


def _bins(calibration: Mapping[str, Any]) -> dict[str, list[list[str]]]:
    """Before and after calibration, a row for each bin that has images."""
    tables = {}
    for name, made in calibration.items():
        columns = (made[each] for each in ("counts", "confidences", "accuracies"))
        tables[name] = [
            [
                f"{100 * i / len(made['counts']):.1f} to {100 * (i + 1) / len(made['counts']):.1f}",
                *(f"{count:,}", percent(confidence), percent(accuracy)),
                f"{100 * (accuracy - confidence):+z.2f}",
            ]
            for i, (count, confidence, accuracy) in enumerate(zip(*columns, strict=True))
            if count
        ]
    return tables


def _chart(epochs: Sequence[int], caption: str, series: Mapping[str, Sequence[float]]) -> str:
    ends = (f"{name} {values[0]:.2f} to {values[-1]:.2f}" for name, values in series.items())
    return line_chart(epochs, series, label=f"{caption}: {', '.join(ends)}")


# --------------------------------------------------------------------------------------------
# Attention maps


class Face(NamedTuple):
    """A picture in a row of attention maps."""

    name: str
    image: Image.Image
    alt: str


def _attention(attention: Attention, classes: Sequence[str]) -> dict[str, Any]:
    """`looks`, rows of faces with a caption, and `overlaps`, a row of text for each head."""
    return {
        "looks": [
            {"caption": f"{classes[look.label]}, {look.source}", "faces": _faces(look, classes)}
            for look in attention.looks
        ],
        "overlaps": [
            [f"head {number}", *(f"{value:.3f}" for value in row)]
            for number, row in enumerate(attention.overlaps, start=1)
        ],
    }


def _faces(look: Look, classes: Sequence[str]) -> list[Face]:
    """The image, then each head's map over it; `alt` says where the map is strongest."""
    large = enlarged(look.image, PICTURE_SIDE)
    maps = [
        Face(
            f"head {number}",
            overlay(large, heat),
            f"head {number} over {look.source}: strongest {where_strongest(heat)}",
        )
        for number, heat in enumerate(look.maps, start=1)
    ]
    return [Face("image", look.image, f"{look.source}: {classes[look.label]}"), *maps]


def where_strongest(heat: np.ndarray) -> str:
    """In words, the third of the image in each direction that the peak of a map (h, w) lies in."""
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    down = ("at the top", "in the middle", "at the bottom")[_third(row, heat.shape[0])]
    across = ("left", "centre", "right")[_third(column, heat.shape[1])]
    return f"{down}, {across}"


def _third(position: int, length: int) -> int:
    return int(3 * (position + 0.5) / length)
