"""Tables as text, markdown, csv or json."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .runs import FinishedRun
from .tables import Beside, Line, Printed, in_no_table
from .text import columns, markdown_table

HEAD = ("method", "paper", "last epoch", "best epoch", "95 % interval", "mean class", "seeds")

#: Further columns of a comparison of methods.
BESIDE = (
    "parameters",
    "multiply-adds",
    "images/s",
    "difference",
    "p",
    "p, Holm",
    "published",
)

LEGEND = (
    "Percent. Ours: mean ± standard deviation over seeds of the accuracy after the last epoch and "
    "at the best epoch (chosen on the evaluated split, the paper's way); 95 % interval of the last "
    "epoch's mean for this many test images; mean class accuracy after the last epoch. (n): not "
    "run yet; the command below fills it."
)


BESIDE_LEGEND = (
    "Comparisons: parameters in training; multiply-adds of one image at test; images/s in "
    "training, the median over the seeds of each run's median epoch, beside whatever else the "
    "machine did; the difference in accuracy after the last epoch, in points, with its 95 % "
    "interval and p-value, on the same images, with images and seeds as samples, then corrected by "
    "Holm's method for all tests of the table."
)


def as_text(tables: Sequence[Printed]) -> str:
    """Plain text in columns."""
    return "\n\n".join([*(_text_table(table) for table in tables), *_legends(tables)])


def as_markdown(tables: Sequence[Printed]) -> str:
    """GitHub's markdown."""
    return "\n\n".join([*(_markdown_table(table) for table in tables), *_legends(tables)])


def _legends(tables: Sequence[Printed]) -> list[str]:
    return [LEGEND, BESIDE_LEGEND] if any(map(_is_comparison, tables)) else [LEGEND]


def _is_comparison(table: Printed) -> bool:
    return any(line.beside for line in table.lines)


def as_json(tables: Sequence[Printed]) -> str:
    """A list of rows, every number by name."""
    return json.dumps(records(tables), indent=1)


def as_csv(tables: Sequence[Printed]) -> str:
    """The rows of `as_json`."""
    rows = records(tables)
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        lists = {name: " ".join(map(str, v)) for name, v in row.items() if isinstance(v, list)}
        writer.writerow({**row, **lists})
    return buffer.getvalue().rstrip("\n")


FORMATS: dict[str, Callable[[Sequence[Printed]], str]] = {
    "text": as_text,
    "markdown": as_markdown,
    "csv": as_csv,
    "json": as_json,
}


def remarks(
    finished: Sequence[FinishedRun], unfinished: Sequence[Path], tables: Sequence[Printed]
) -> list[str]:
    """Lines on runs that the tables do not show."""
    lines = []
    rest = in_no_table(finished, tables)
    if rest:
        lines.append(
            "finished runs that are in no table (backbones, single rows, other combinations of "
            f"flags): {len(rest)}, the first is {rest[0].folder}"
        )
    if unfinished:
        lines.append(f"unfinished runs: {len(unfinished)}, the first is {unfinished[0]}")
    return lines


def records(tables: Sequence[Printed]) -> list[dict[str, Any]]:
    """Every row of every table with the same keys; None where there is no number."""
    return [_record(table, line) for table in tables for line in table.lines]


def _record(table: Printed, line: Line) -> dict[str, Any]:
    ours = line.ours
    row: dict[str, Any] = {
        "table": table.name,
        "title": table.title,
        "dataset": table.dataset,
        "beside_the_paper": table.is_papers,
        "method": line.method,
        "paper_accuracy": line.paper.get("accuracy"),
        "paper_mean_class_accuracy": line.paper.get("mean_class_accuracy"),
    }
    for epoch in ("last", "best"):
        for metric in ("accuracy", "mean_class_accuracy"):
            spread = getattr(ours, epoch)[metric] if ours else None
            row[f"{epoch}_{metric}"] = spread and spread.mean
            row[f"{epoch}_{metric}_deviation"] = spread and spread.deviation
    return {
        **row,
        "interval_low": ours and ours.interval[0],
        "interval_high": ours and ours.interval[1],
        "seeds": ours.seeds if ours else [],
        "best_epochs": ours.best_epochs if ours else [],
        "runs": ours.folders if ours else [],
        "command": line.command or None,
        **_beside_record(line.beside),
    }


def _beside_record(beside: Beside | None) -> dict[str, Any]:
    against = beside and beside.against
    return {
        "parameters": beside and beside.parameters,
        "multiply_adds": beside and beside.multiply_adds,
        "images_per_second": beside and beside.images_per_second,
        "difference": against and 100 * against.difference,
        "difference_low": against and 100 * against.interval[0],
        "difference_high": against and 100 * against.interval[1],
        "p_value": against and against.p_value,
        "p_value_holm": beside and beside.corrected,
        "published": beside and beside.published,
    }


def _cells(table: Printed) -> tuple[list[list[str]], list[str]]:
    """The head and the rows of a table as text, and the commands that its (n) stand for."""
    commands: list[str] = []
    rows = [list(HEAD)]
    for line in table.lines:
        if line.command:
            commands.append(line.command)
        rows.append(_row(line, len(commands) if line.command else 0))
    if not table.is_papers:
        rows = [[row[0], *row[2:]] for row in rows]
    if _is_comparison(table):
        further = [BESIDE, *(_beside_cells(line.beside) for line in table.lines)]
        rows = [[*row, *more] for row, more in zip(rows, further, strict=True)]
    return rows, commands


def _beside_cells(beside: Beside | None) -> list[str]:
    if beside is None:
        return [""] * len(BESIDE)
    against, speed = beside.against, beside.images_per_second
    tested = ["", "", ""]
    if against:
        points = [100 * value for value in (against.difference, *against.interval)]
        p_values = [f"{p:.3g}" for p in (against.p_value, beside.corrected)]
        tested = ["{:+.2f} ({:+.2f} to {:+.2f})".format(*points), *p_values]
    return [
        f"{beside.parameters / 1e6:.1f} M",
        f"{beside.multiply_adds / 1e9:.3f} G",
        "" if speed is None else f"{speed:.0f}",
        *tested,
        beside.published,
    ]


def _row(line: Line, note: int) -> list[str]:
    values = [f"{percent:.2f}" for percent in line.paper.values()]
    paper = f"{values[0]} ({values[1]})" if len(values) > 1 else "".join(values)
    ours = line.ours
    if ours is None:
        return [line.method, paper, f"({note})" if note else "", "", "", "", ""]
    return [
        line.method,
        paper,
        str(ours.last["accuracy"]),
        str(ours.best["accuracy"]),
        "{:.2f} to {:.2f}".format(*ours.interval),
        str(ours.last["mean_class_accuracy"]),
        str(len(ours.seeds)),
    ]


def _text_table(table: Printed) -> str:
    rows, commands = _cells(table)
    lines = [table.title]
    if table.protocol:
        lines.append(f"run with: {table.protocol}")
    lines += [*columns(rows), *(f"note: {note}" for note in table.notes)]
    return "\n".join([*lines, *(f"({i}) {text}" for i, text in enumerate(commands, 1))])


def _markdown_table(table: Printed) -> str:
    rows, commands = _cells(table)
    lines = [f"**{table.title}**", ""]
    if table.protocol:
        lines += [f"Run with `{table.protocol}`.", ""]
    lines += markdown_table(rows)
    lines += [line for note in table.notes for line in ("", f"Note: {note}.")]
    if commands:
        lines += ["", *(f"{i}. `{text}`" for i, text in enumerate(commands, 1))]
    return "\n".join(lines)
