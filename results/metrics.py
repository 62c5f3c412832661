"""The metrics of an evaluation as text, and the confusion matrix as a figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from engine.evaluate import Metrics

from .text import without_math


def metrics_text(metrics: Metrics, classes: Sequence[str]) -> str:
    """Accuracy with its interval, mean class accuracy, a line per class, and the matrix."""
    low, high = metrics.accuracy_interval
    width = max(len("class"), *(len(name) for name in classes))
    lines = [
        f"accuracy             {_percent(metrics.accuracy)} %  "
        f"(95 % interval {_percent(low)} to {_percent(high)}, {metrics.images:,} images)",
        f"mean class accuracy  {_percent(metrics.mean_class_accuracy)} %",
        f"macro F1             {_percent(metrics.macro_f1)} %",
        "",
        f"{'class':<{width}}  images  recall  precision      F1",
    ]
    rows = zip(
        classes,
        metrics.counts.sum(axis=1).tolist(),
        metrics.recalls,
        metrics.precisions,
        metrics.f1_scores,
        strict=True,
    )
    lines += [
        f"{name:<{width}}  {count:6}  {_percent(recall)}     {_percent(precision)}  {_percent(f1)}"
        for name, count, recall, precision, f1 in rows
    ]
    return "\n".join([*lines, "", *_matrix_lines(metrics, classes, width)])


def metrics_json(metrics: Metrics) -> dict[str, Any]:
    """Every metric as plain types; None where there is nothing to divide by."""
    return {
        "images": metrics.images,
        "accuracy": metrics.accuracy,
        "accuracy_interval_95": list(metrics.accuracy_interval),
        "mean_class_accuracy": metrics.mean_class_accuracy,
        "macro_f1": metrics.macro_f1,
        "per_class_recall": _known(metrics.recalls),
        "per_class_precision": _known(metrics.precisions),
        "per_class_f1": _known(metrics.f1_scores),
        "confusion_matrix": metrics.fractions().tolist(),
        "confusion_counts": metrics.counts.tolist(),
    }


def confusion_figure(
    fractions: Sequence[Sequence[float]], classes: Sequence[str], title: str
) -> Figure:
    """A confusion matrix (C, C), fractions of each true class, as a matplotlib figure."""
    size = 2.2 + 0.72 * len(classes)
    figure = Figure(figsize=(size + 0.6, size), layout="constrained")
    axes = figure.add_subplot()
    percents = [[100 * value for value in row] for row in fractions]
    image = axes.imshow(percents, cmap="Blues", vmin=0, vmax=100)
    for row, values in enumerate(percents):
        for column, value in enumerate(values):
            axes.text(
                column,
                row,
                f"{value:.1f}",
                ha="center",
                va="center",
                fontsize=9,
                color="white" if value > 55 else "black",
            )
    names = [without_math(name) for name in classes]
    axes.set_xticks(range(len(classes)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(classes)), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true class")
    axes.set_title(without_math(title), fontsize=10)
    figure.colorbar(image, ax=axes, label="% of the true class", fraction=0.046)
    return figure


def _matrix_lines(metrics: Metrics, classes: Sequence[str], width: int) -> list[str]:
    column = max(6, *(len(name) for name in classes))
    head = " ".join(f"{name:>{column}}" for name in classes)
    lines = [
        "confusion matrix, % of the true class (rows true, columns predicted)",
        f"{'':<{width}} {head}",
    ]
    for name, row in zip(classes, metrics.fractions(), strict=True):
        cells = " ".join(f"{100 * value:>{column}.1f}" for value in row)
        lines.append(f"{name:<{width}} {cells}")
    return lines


def _percent(fraction: float) -> str:
    return "    -" if math.isnan(fraction) else f"{100 * fraction:5.2f}"


def _known(values: np.ndarray) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values.tolist()]
