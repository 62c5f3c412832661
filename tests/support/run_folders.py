"""Helper of the tests: finished run folders, written without training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.flags import settings
from results.experiments import SCRIPTS, as_flags, recipe_with


def write_run(
    folder: Path,
    dataset: str,
    accuracies: Sequence[float],
    *,
    published: bool = True,
    images: tuple[int, int] = (12_271, 3_068),
    **flags: Any,
) -> Path:
    """A run folder as a train script leaves it; `accuracies` are fractions, one an epoch.

    The mean class accuracy is a tenth lower than the accuracy. `flags` are settings.
    """
    given = {**SCRIPTS[dataset].flags, "epochs": len(accuracies), **flags}
    recipe = recipe_with(dataset, as_flags(given))
    folder.mkdir(parents=True)
    config = {
        "dataset": dataset,
        "settings": settings(recipe),
        "training_images": images[0],
        "evaluated_images": images[1],
        "evaluated_split": "test",
        "published_images": published,
    }
    (folder / "config.json").write_text(json.dumps(config))
    write_metrics(folder, accuracies)
    return folder


def write_metrics(folder: Path, accuracies: Sequence[float]) -> None:
    """metrics.csv with these accuracies."""
    rows = [
        f"{epoch},0.1,1.5,{value!r},{value - 0.1!r},{value!r}"
        for epoch, value in enumerate(accuracies, 1)
    ]
    head = "epoch,lr,loss,accuracy,mean_class_accuracy,macro_f1"
    (folder / "metrics.csv").write_text("\n".join([head, *rows]) + "\n")
