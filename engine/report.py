"""A confusion matrix as text, as JSON and as a picture."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.files import write_whole

from .evaluate import ConfusionMatrix

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def metrics_text(matrix: ConfusionMatrix, classes: Sequence[str]) -> str:
    """Accuracy with its interval, mean class accuracy, a line per class, and the matrix."""
    low, high = matrix.accuracy_interval()
    width = max(len("class"), *(len(name) for name in classes))
    lines = [
        f"accuracy             {_percent(matrix.accuracy)} %  "
        f"(95 % interval {_percent(low)} to {_percent(high)}, {matrix.total:,} images)",
        f"mean class accuracy  {_percent(matrix.mean_class_accuracy)} %",
        f"macro F1             {_percent(matrix.macro_f1)} %",
        "",
        f"{'class':<{width}}  images  recall  precision      F1",
    ]
    rows = zip(
        classes,
        matrix.counts.sum(1).tolist(),
        matrix.recalls(),
        matrix.precisions(),
        matrix.f1_scores(),
        strict=True,
    )
    lines += [
        f"{name:<{width}}  {count:6}  {_percent(recall)}     {_percent(precision)}  {_percent(f1)}"
        for name, count, recall, precision, f1 in rows
    ]
    return "\n".join([*lines, "", *_matrix_lines(matrix, classes, width)])


def metrics_json(matrix: ConfusionMatrix, classes: Sequence[str]) -> dict[str, Any]:
    """Every metric as plain types; fractions from 0 to 1, None where there is nothing to divide."""
    return {
        "classes": list(classes),
        "images": matrix.total,
        "accuracy": _known(matrix.accuracy),
        "accuracy_interval_95": list(matrix.accuracy_interval()),
        "mean_class_accuracy": _known(matrix.mean_class_accuracy),
        "macro_f1": _known(matrix.macro_f1),
        "per_class_recall": [_known(value) for value in matrix.recalls()],
        "per_class_precision": [_known(value) for value in matrix.precisions()],
        "per_class_f1": [_known(value) for value in matrix.f1_scores()],
        "confusion_matrix": matrix.fractions(),
        "confusion_counts": matrix.counts.tolist(),
    }


def save_confusion_picture(
    path: Path, matrix: ConfusionMatrix, classes: Sequence[str], title: str
) -> None:
    """Draw the matrix, percent of each true class, as a PNG."""
    buffer = io.BytesIO()
    confusion_figure(matrix, classes, title).savefig(buffer, format="png", dpi=150)
    write_whole(path, lambda stream: stream.write(buffer.getvalue()))


def confusion_figure(matrix: ConfusionMatrix, classes: Sequence[str], title: str) -> Figure:
    """The matrix, percent of each true class, as a matplotlib figure."""
    # Figure instead of pyplot: no window system and no global state are touched.
    from matplotlib.figure import Figure

    size = 2.2 + 0.72 * len(classes)
    figure = Figure(figsize=(size + 0.6, size), layout="constrained")
    axes = figure.add_subplot()
    percents = [[100 * value for value in row] for row in matrix.fractions()]
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
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    axes.set_yticks(range(len(classes)), classes)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true class")
    # A file's name with two dollar signs is no formula.
    axes.set_title(title, fontsize=10, parse_math=False)
    figure.colorbar(image, ax=axes, label="% of the true class", fraction=0.046)
    return figure


def _matrix_lines(matrix: ConfusionMatrix, classes: Sequence[str], width: int) -> list[str]:
    column = max(6, *(len(name) for name in classes))
    head = " ".join(f"{name:>{column}}" for name in classes)
    lines = [
        "confusion matrix, % of the true class (rows true, columns predicted)",
        f"{'':<{width}} {head}",
    ]
    for name, row in zip(classes, matrix.fractions(), strict=True):
        cells = " ".join(f"{100 * value:>{column}.1f}" for value in row)
        lines.append(f"{name:<{width}} {cells}")
    return lines


def _percent(fraction: float) -> str:
    return "    -" if math.isnan(fraction) else f"{100 * fraction:5.2f}"


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
