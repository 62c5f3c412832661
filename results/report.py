"""From an evaluation to what the page shows: mistakes, maps, history, versions."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
import torchvision
from PIL import Image
from torch import nn

from common.naming import name_of
from datasets.corruptions import SEVERITIES, corrupt
from engine.evaluate import Predictions
from networks import DAN

from .evidence import Attention, Mistake, attention_of, classes_in_turn, worst_mistakes
from .runs import read_metrics

MISTAKES = 12
LOOKS = 6  # images with their maps
MEASURED = 64  # images over which the heads' overlap is averaged
SEED = 0  # chooses those images


@dataclass(frozen=True)
class Report:
    """Everything that the page shows."""

    numbers: Mapping[str, Any]  # report.json's
    network: str  # "DAN", "ResNet18"
    history: Sequence[Mapping[str, float]]  # metrics.csv of the run; empty where there is none
    mistakes: Sequence[Mistake]  # the worst ones
    attention: Attention | None  # None: the network has no heads
    command: str
    facts: Mapping[str, str]  # versions and the like, by name
    corrupted: Mapping[str, Sequence[Image.Image]] = field(default_factory=dict)  # by severity


def make_report(
    numbers: Mapping[str, Any],
    network: nn.Module,
    dataset: Any,
    predictions: Predictions,
    command: str,
    *,
    device: torch.device,
) -> Report:
    """Gather the page of an evaluation.

    numbers: report.json's; network: in its trained form, not fused, which has no maps; dataset:
    the evaluated split with its transform; command: what was typed; device: where the maps are
    computed.

    Raises InputError where the run's metrics.csv is damaged or an image cannot be read.
    """
    checkpoint = Path(numbers["checkpoint"])
    run = checkpoint.parent
    attention = None
    if isinstance(network, DAN):
        labels = predictions.labels.tolist()
        chosen = [predictions.indices[i] for i in classes_in_turn(labels, MEASURED, SEED)]
        attention = attention_of(network, dataset, chosen, device, looks=LOOKS)
        # The evaluated classes may not be the data set's.
        known = dict(zip(predictions.indices, labels, strict=True))
        looks = zip(attention.looks, chosen, strict=False)
        attention = attention._replace(looks=[o._replace(label=known[i]) for o, i in looks])
    return Report(
        numbers=numbers,
        network=name_of(network),
        history=read_metrics(run / "metrics.csv"),
        mistakes=worst_mistakes(dataset, predictions, MISTAKES),
        attention=attention,
        command=command,
        facts={
            "checkpoint": f"{checkpoint}, epoch {numbers['epoch']}",
            "SHA-256": _sha256(checkpoint),
            "trained with": _training_command(run),
            "data": f"{dataset.root}, {dataset.name} {dataset.split}",
            "input size": f"{numbers['image_size']} pixels",
            "device": str(device),
            "Python": platform.python_version(),
            "PyTorch": torch.__version__,
            "torchvision": torchvision.__version__,
            "NumPy": np.__version__,
            "Pillow": PIL.__version__,
        },
        corrupted=_corrupted(numbers, dataset, predictions.indices[0]),
    )


def _corrupted(
    numbers: Mapping[str, Any], dataset: Any, index: int
) -> dict[str, list[Image.Image]]:
    """Image `index` under each corruption that was evaluated, in each severity."""
    names = numbers.get("corruptions", {}).get("by_corruption", {})
    image = dataset.read_image(index) if names else None
    return {name: [corrupt(image, name, s, seed=index) for s in SEVERITIES] for name in names}


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _training_command(run: Path) -> str:
    """The command in the config.json beside the checkpoint, or a text that says it is missing."""
    try:
        command = json.loads((run / "config.json").read_text(encoding="utf-8"))["command"]
    except (OSError, ValueError, KeyError, TypeError):
        return "unknown: there is no valid config.json beside the checkpoint"
    return str(command)
