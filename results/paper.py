"""Reading results/paper.csv."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

CSV = Path(__file__).with_name("paper.csv")


class PublishedNumber(NamedTuple):
    """One number of the paper."""

    table: str  # "1" to "6", or "text"
    dataset: str
    method: str
    metric: str  # "accuracy" or "mean_class_accuracy"
    percent: float
    source: str


def published() -> list[PublishedNumber]:
    """Every number of the paper's tables and text, in the order of the file."""
    with CSV.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    return [PublishedNumber(**{**row, "percent": float(row["percent"])}) for row in rows]


def published_for(dataset: str, method: str) -> list[PublishedNumber]:
    """The numbers of the paper's result tables (3 to 6) and text for a method on a data set."""
    return [
        number
        for number in published()
        if number.table not in "12" and (number.dataset, number.method) == (dataset, method)
    ]
