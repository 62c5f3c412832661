"""Accuracy on corrupted images, and the mean corruption error against a reference network."""

from __future__ import annotations

import time
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.errors import InputError
from common.progress import duration
from datasets import transforms
from datasets.corruptions import CORRUPTIONS, SEVERITIES, CorruptedImages, corrupt
from engine.evaluate import Metrics, Predictions

from .charts import line_chart
from .class_map import map_classes
from .cross import Pair
from .text import columns
from .trained import read_trained


@dataclass(frozen=True)
class Robustness:
    """The accuracies of a network on the images of a split under each corruption."""

    checkpoint: str
    clean: Metrics
    metrics: dict[str, list[Metrics]]  # by corruption, for each severity

    @property
    def mean_accuracy(self) -> float:
        """Over all corruptions and severities."""
        return float(np.mean([m.accuracy for row in self.metrics.values() for m in row]))

    def errors(self, name: str) -> np.ndarray:
        """The error (5,) at each severity, 0 to 1."""
        return np.array([1 - metrics.accuracy for metrics in self.metrics[name]])

    def corruption_errors(self, reference: Robustness) -> dict[str, float | None]:
        """CE: the sum over severities of the error, divided by the reference's.

        Hendrycks and Dietterich (2019), where the reference is AlexNet; 1: as robust as it. None
        where the reference makes no error.
        """
        return {
            name: _divided(self.errors(name).sum(), reference.errors(name).sum())
            for name in self.metrics
        }

    def relative_corruption_errors(self, reference: Robustness) -> dict[str, float | None]:
        """The same of what each error exceeds that on clean images by.

        None where the reference loses nothing.
        """

        def lost(which: Robustness, name: str) -> float:
            return float((which.errors(name) - (1 - which.clean.accuracy)).sum())

        return {name: _divided(lost(self, name), lost(reference, name)) for name in self.metrics}


def corruption_numbers(
    pair: Pair,
    clean: Predictions,
    names: Sequence[str],
    device: torch.device,
    *,
    seconds: float,
    reference: Pair | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Print the cost, evaluate under each corruption, print the table; returns it for the json.

    clean: the pair's predictions without corruption, which took so many seconds.
    options: as in `predictions_of`.
    """
    print(cost_text(pair, clean, names, seconds, 2 if reference else 1), flush=True)
    made = [measure(pair, clean, names, device, **options)]
    if reference:
        own = reference.predict(device, indices=clean.indices, **options)
        made.append(measure(reference, own, names, device, **options))
    content = robustness_json(*made)
    print(robustness_text(content))
    return content


def measure(
    pair: Pair, clean: Predictions, names: Sequence[str], device: torch.device, **options: Any
) -> Robustness:
    """Evaluate a network on the corrupted images of `clean`; options as in `predictions_of`."""
    images = CorruptedImages(pair.dataset, clean.indices, names)
    found = pair.predict(device, images, indices=range(len(images)), **options)
    size, count = len(clean.indices), len(SEVERITIES)
    passes = zip(found.logits.split(size), found.labels.split(size), strict=True)
    turns = [Metrics.of(logits, labels) for logits, labels in passes]
    rows = {name: turns[i * count : (i + 1) * count] for i, name in enumerate(names)}
    return Robustness(str(pair.trained.path), Metrics.of(clean.logits, clean.labels), rows)


def cost_text(
    pair: Pair, clean: Predictions, names: Sequence[str], seconds: float, networks: int
) -> str:
    """What the evaluation takes.

    The estimate is the clean pass's time for each pass, and that of the corruptions of one image.
    """
    images, passes = len(clean.indices), len(names) * len(SEVERITIES)
    image = pair.dataset.read_image(clean.indices[0])
    start = time.perf_counter()
    for name in names:
        corrupt(image, name, 3, seed=0)
    own = (time.perf_counter() - start) * len(SEVERITIES) * images
    twice = ", and again with the reference" if networks > 1 else ""
    return (
        f"\ncorruptions: {len(names)} in {len(SEVERITIES)} severities, {passes} passes over "
        f"{images:,} images, {passes * images:,} images{twice}: about "
        f"{duration(networks * (passes * seconds + own))} at the clean pass's "
        f"{images / seconds:,.0f} images/s"
    )


def reference_pair(path: Path, ours: Pair) -> Pair:
    """A reference checkpoint on the same images, at the size of its own input.

    Raises InputError where it is not one, or is evaluated on other classes.
    """
    trained, dataset = read_trained(path), copy(ours.dataset)
    dataset.transform = transforms.evaluation(trained.image_size)
    made, expected = map_classes(trained, dataset, ours.class_map.unshared), ours.class_map
    if (made.classes, made.labels) != (expected.classes, expected.labels):
        raise InputError(
            f"the reference {path} is evaluated on {', '.join(made.classes)}, the checkpoint on "
            f"{', '.join(expected.classes)}; expected a reference with the same classes"
        )
    return Pair(trained, dataset, made)


def robustness_json(made: Robustness, reference: Robustness | None = None) -> dict[str, Any]:
    """Everything as plain types; errors are fractions, those against the reference ratios."""
    content: dict[str, Any] = {
        "images": made.clean.images,
        "severities": list(SEVERITIES),
        "clean_accuracy": made.clean.accuracy,
        "mean_accuracy": made.mean_accuracy,
        "by_corruption": {
            name: {
                "family": CORRUPTIONS[name].family,
                "unit": CORRUPTIONS[name].unit,
                "levels": list(CORRUPTIONS[name].levels),
                "accuracy": [metrics.accuracy for metrics in row],
                "mean_class_accuracy": [metrics.mean_class_accuracy for metrics in row],
            }
            for name, row in made.metrics.items()
        },
        "reference": None,
    }
    if reference is not None:
        errors = made.corruption_errors(reference)
        relative = made.relative_corruption_errors(reference)
        content["reference"] = {
            "checkpoint": reference.checkpoint,
            "clean_accuracy": reference.clean.accuracy,
            "mean_accuracy": reference.mean_accuracy,
            "corruption_error": errors,
            "mean_corruption_error": _mean(errors),
            "relative_corruption_error": relative,
            "relative_mean_corruption_error": _mean(relative),
        }
    return content


def robustness_table(content: dict[str, Any]) -> list[list[str]]:
    """Head and rows of accuracies in percent, from the json."""
    reference = content["reference"]
    head = ["corruption", *(f"severity {s}" for s in content["severities"]), "mean"]
    rows = [[*head, "CE, %"] if reference else head]
    for name, row in content["by_corruption"].items():
        shares = [*row["accuracy"], float(np.mean(row["accuracy"]))]
        cells = [name, *(f"{100 * share:.2f}" for share in shares)]
        rows.append([*cells, _percent(reference["corruption_error"][name])] if reference else cells)
    return rows


def robustness_summary(content: dict[str, Any]) -> str:
    """The means in a sentence, from the json."""
    text = (
        f"Accuracy {100 * content['clean_accuracy']:.2f} % on clean images, "
        f"{100 * content['mean_accuracy']:.2f} % in the mean over corruptions and severities"
    )
    reference = content["reference"]
    if reference:
        text += (
            f"; mean corruption error {_percent(reference['mean_corruption_error'])} % (relative: "
            f"{_percent(reference['relative_mean_corruption_error'])} %) against "
            f"{reference['checkpoint']}, which has {100 * reference['clean_accuracy']:.2f} % and "
            f"{100 * reference['mean_accuracy']:.2f} %"
        )
    return text


def robustness_text(content: dict[str, Any]) -> str:
    """The table and the means as text."""
    table = columns(robustness_table(content))
    return "\n".join(["", "accuracy on corrupted images, %", *table, robustness_summary(content)])


def _divided(value: float, by: float) -> float | None:
    return float(value / by) if by > 0 else None


def _mean(values: dict[str, float | None]) -> float | None:
    known = [value for value in values.values() if value is not None]
    return float(np.mean(known)) if known else None


def _percent(ratio: float | None) -> str:
    return "-" if ratio is None else f"{100 * ratio:.1f}"


def robustness_charts(content: dict[str, Any]) -> list[tuple[str, str]]:
    """A chart, as caption and SVG, for each family: accuracy by severity, 0 being clean."""
    families: dict[str, dict[str, list[float]]] = {}
    for name, row in content["by_corruption"].items():
        shares = [content["clean_accuracy"], *row["accuracy"]]
        families.setdefault(row["family"], {})[name] = [100 * share for share in shares]
    return [
        (family.capitalize(), line_chart([0, *SEVERITIES], series, label=_label(family, series)))
        for family, series in families.items()
    ]


def _label(family: str, series: dict[str, list[float]]) -> str:
    ends = (f"{name} {values[0]:.2f} to {values[-1]:.2f}" for name, values in series.items())
    return f"Accuracy in percent by severity under {family}: {', '.join(ends)}"
