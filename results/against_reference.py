"""Methods against a reference on the same images: numbers, text and page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.files import write_json, write_text

from .charts import interval_chart
from .methods import Answers, TrainedMethod
from .page import page_environment
from .paired import holm, paired_comparison
from .text import columns

METHOD_HEAD = ("", "seeds", "accuracy, %", "mean class, %")
HEAD = (
    "",
    "images",
    "difference",
    "95 % interval",
    "p",
    "p (Holm)",
    "only method",
    "only reference",
)
UNKNOWN = "–"


def comparison_numbers(
    methods: Sequence[TrainedMethod], answers: Sequence[Answers], classes: Sequence[str]
) -> dict[str, Any]:
    """Every method against the first, as plain types; fractions, not percent.

    Differences are method minus reference. p values are corrected by Holm's method: those of the
    methods as one family, and those of a method's classes as another. A class of fewer than two
    images has only its number of images.

    Raises InputError for fewer than two images.
    """
    reference, labels = answers[0], answers[0].labels
    rows = []
    for method, theirs in zip(methods[1:], answers[1:], strict=True):
        by_class = [
            _row(name, theirs, reference, labels == c, fewest=2) for c, name in enumerate(classes)
        ]
        _correct(by_class)
        whole = _row("all images", theirs, reference, labels >= 0)
        names = {"method": method.name, "reference": methods[0].name}
        rows.append({**names, **whole, "classes": by_class})
    _correct(rows)
    pairs = zip(methods, answers, strict=True)
    return {
        "images": len(labels),
        "methods": [_method_row(method, theirs, len(classes)) for method, theirs in pairs],
        "comparisons": rows,
    }


def _row(
    name: str, method: Answers, reference: Answers, chosen: np.ndarray, *, fewest: int = 0
) -> dict[str, Any]:
    """The comparison on the images of a mask (N,), if they are not too few."""
    row: dict[str, Any] = {"name": name, "images": int(chosen.sum())}
    if row["images"] < fewest:
        return row
    made = paired_comparison(method.correct[:, chosen], reference.correct[:, chosen])
    return {
        **row,
        "difference": made.difference,
        "interval_95": list(made.interval),
        "p_value": made.p_value,
        "only_method": made.only_a,
        "only_reference": made.only_b,
        "how": made.method,
    }


def _correct(rows: Sequence[dict[str, Any]]) -> None:
    """Add Holm's p values to the rows of a family."""
    tested = [row for row in rows if "p_value" in row]
    for row, p_value in zip(tested, holm([row["p_value"] for row in tested]), strict=True):
        row["p_holm"] = p_value


def _method_row(method: TrainedMethod, answers: Answers, classes: int) -> dict[str, Any]:
    """The accuracies of a method's networks, and their mean and sample standard deviation."""
    accuracies = answers.correct.mean(axis=1)
    present = [answers.labels == c for c in range(classes) if (answers.labels == c).any()]
    return {
        "name": method.name,
        "checkpoints": [str(path) for paths in method.checkpoints.values() for path in paths],
        "seeds": list(method.checkpoints),
        "folds": method.folds,
        "accuracies": accuracies.tolist(),
        "accuracy": float(accuracies.mean()),
        "deviation": float(accuracies.std(ddof=1)) if len(accuracies) > 1 else None,
        "mean_class_accuracy": float(np.mean([answers.correct[:, c].mean() for c in present])),
    }


# --------------------------------------------------------------------------------------------
# Cells of the tables


def method_cells(method: Mapping[str, Any]) -> list[str]:
    """A method, as METHOD_HEAD says."""
    spread = "" if method["deviation"] is None else f" ± {100 * method['deviation']:.2f}"
    folds = f" x {method['folds']} folds" if method["folds"] > 1 else ""
    return [
        method["name"],
        f"{len(method['seeds'])}{folds}",
        f"{100 * method['accuracy']:.2f}{spread}",
        f"{100 * method['mean_class_accuracy']:.2f}",
    ]


def difference_cells(row: Mapping[str, Any]) -> list[str]:
    """A difference in points, as HEAD says."""
    start = [row["name"], f"{row['images']:,}"]
    if "difference" not in row:
        return start + [UNKNOWN] * (len(HEAD) - len(start))
    low, high = (100 * end for end in row["interval_95"])
    return [
        *start,
        f"{100 * row['difference']:+z.2f}",
        f"{low:+z.2f} to {high:+z.2f}",
        _p_text(row["p_value"]),
        _p_text(row["p_holm"]),
        f"{row['only_method']:,}",
        f"{row['only_reference']:,}",
    ]


def _p_text(p_value: float) -> str:
    return "<0.001" if p_value < 0.001 else f"{p_value:.3f}"


def legend(comparison: Mapping[str, Any], family: int) -> list[str]:
    """What the cells of a comparison, one of a `family`, stand for, in sentences."""
    tested = sum("p_value" in row for row in comparison["classes"])
    methods = "1 method" if family == 1 else f"{family} methods"
    return [
        f"Interval and p: {comparison['how']}.",
        f"p (Holm): corrected for {methods}; for the classes, for {tested} classes.",
        "Last columns: images that one alone has right, summed over all pairs of seeds.",
    ]


# --------------------------------------------------------------------------------------------
# Text and page


def comparison_text(numbers: Mapping[str, Any]) -> str:
    """The numbers for a terminal, in percent and points."""
    lines = columns([METHOD_HEAD, *map(method_cells, numbers["methods"])], numbers=True)
    for row in numbers["comparisons"]:
        lines += ["", f"{row['method']} minus {row['reference']}, points:"]
        lines += columns([HEAD, *map(difference_cells, (row, *row["classes"]))], numbers=True)
        lines += legend(row, len(numbers["comparisons"]))
    return "\n".join(lines)


def write_comparison(
    folder: Path, numbers: Mapping[str, Any], command: str, facts: Mapping[str, str]
) -> tuple[Path, Path]:
    """Write comparison.json and index.html; returns their paths.

    command: what was typed; facts: versions and the like, by name.

    Raises InputError where one cannot be written.
    """
    json, html = folder / "comparison.json", folder / "index.html"
    write_json(json, numbers)
    template = page_environment().get_template("against_reference.html.j2")
    compared = [
        {
            **{name: row[name] for name in ("method", "reference")},
            "cells": [difference_cells(each) for each in (row, *row["classes"])],
            "legend": legend(row, len(numbers["comparisons"])),
        }
        for row in numbers["comparisons"]
    ]
    page = template.render(
        numbers=numbers,
        methods=[METHOD_HEAD, *map(method_cells, numbers["methods"])],
        head=HEAD,
        compared=compared,
        chart=_chart(numbers),
        command=command,
        facts=facts,
    )
    write_text(html, page)
    return json, html


def _chart(numbers: Mapping[str, Any]) -> str:
    """Differences with their intervals, on all images and by class, in points."""
    rows = numbers["comparisons"]
    series = {row["method"]: [_points(each) for each in (row, *row["classes"])] for row in rows}
    names = [each["name"] for each in (rows[0], *rows[0]["classes"])]
    ends = (f"{row['method']} {100 * row['difference']:+z.2f} points" for row in rows)
    label = f"Differences to {numbers['methods'][0]['name']}, on all images: {', '.join(ends)}"
    return interval_chart(names, series, label=label)


def _points(row: Mapping[str, Any]) -> tuple[float, ...] | None:
    """A difference and the ends of its interval."""
    if "difference" not in row:
        return None
    return tuple(100 * value for value in (row["difference"], *row["interval_95"]))
