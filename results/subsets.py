"""The metrics of a split on the images of lists: occluded faces, turned ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from common.errors import InputError
from datasets.subsets import Subset
from engine.evaluate import Metrics, Predictions

from .metrics import metrics_json
from .text import columns

HEAD = ["images of", "images", "accuracy, %", "95 % interval", "mean class accuracy, %"]


def subset_numbers(subsets: Sequence[Subset], predictions: Predictions) -> list[dict[str, Any]]:
    """The metrics of each list's images, and how the list matched, as plain types.

    Raises InputError where none of a list's images is among the predictions: they cannot be read,
    or are of classes that are left out.
    """
    rows = {index: row for row, index in enumerate(predictions.indices)}
    numbers = []
    for subset in subsets:
        chosen = torch.tensor([rows[i] for i in subset.indices if i in rows], dtype=torch.long)
        if not len(chosen):
            raise InputError(
                f"none of the {len(subset.indices):,} images that {subset.path} names can be "
                "evaluated: they are skipped, or of classes that are left out"
            )
        metrics = Metrics.of(predictions.logits[chosen], predictions.labels[chosen])
        numbers.append({**subset.json(), **metrics_json(metrics)})
    return numbers


def subset_text(
    subsets: Sequence[Subset], numbers: Sequence[dict[str, Any]], whole: Metrics
) -> str:
    """The table of the lists below the whole split, and what did not match."""
    table = columns(subset_table(numbers, metrics_json(whole)))
    return "\n".join(["", *table, *(line for subset in subsets for line in subset.text())])


def subset_table(numbers: Sequence[Mapping[str, Any]], whole: Mapping[str, Any]) -> list[list[str]]:
    """Head and rows, the whole split's first, in percent."""
    rows = [
        [
            row["list"],
            f"{row['images']:,}",
            f"{100 * row['accuracy']:.2f}",
            " to ".join(f"{100 * end:.2f}" for end in row["accuracy_interval_95"]),
            f"{100 * row['mean_class_accuracy']:.2f}",
        ]
        for row in ({**whole, "list": "whole split"}, *numbers)
    ]
    return [HEAD, *rows]
