"""A method: its trained networks, one for each seed, and which images they have right."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.errors import InputError
from datasets import FaceDataset

from .runs import result_settings
from .trained import open_dataset, predictions_of, read_trained

#: What may differ between the runs of a method; every seed may have a backbone of its own.
NOT_METHOD = ("seed", "pretrained")


@dataclass(frozen=True)
class Method:
    """Checkpoints that differ in their seed alone."""

    name: str  # the place, as it was given
    checkpoints: list[Path]
    seeds: list[int | None]  # of the checkpoints; None: the file does not say
    dataset: str | None  # on which they were trained
    classes: list[str]


@dataclass(frozen=True)
class Answers:
    """Which images a method has right."""

    dataset: FaceDataset
    names: list[str]  # of the images, below the data folder
    labels: np.ndarray  # (N,)
    correct: np.ndarray  # (S, N) bool, by seed and image


def checkpoints_at(place: str, file: str) -> list[Path]:
    """Checkpoints by the name of one, of a run folder, of a folder of those, or of a pattern.

    file: which checkpoint of a run folder, last.pth or best.pth.

    Raises InputError where there is none.
    """
    found: list[Path] = []
    given = Path(place)
    for path in [given] if given.exists() else sorted(given.parent.glob(given.name)):
        if path.is_file():
            found.append(path)
        else:
            runs = [path] if (path / file).exists() else sorted(path.iterdir())
            found += [run / file for run in runs if (run / file).is_file()]
    if not found:
        raise InputError(
            f"{place} holds no {file}; expected a checkpoint, a run folder, a folder of run "
            "folders, or a pattern of them in quotes, such as 'runs/rafdb/dan-seed*'"
        )
    return found


def read_method(place: str, file: str = "last.pth") -> Method:
    """The method at a place as in `checkpoints_at`.

    Raises InputError where its runs differ in more than their seed, or a seed is there twice.
    """
    paths = checkpoints_at(place, file)
    read = [read_trained(path) for path in paths]
    first = read[0]
    for other in read[1:]:
        differing = _differing(first.settings, other.settings)
        if other.dataset != first.dataset or differing:
            raise InputError(
                f"{place} mixes methods: {first.path} and {other.path} differ in "
                f"{', '.join(differing) or 'their data set'}; give the runs of one method, which "
                "differ in --seed alone"
            )
    seeds = [trained.settings.get("seed") for trained in read]
    for position, seed in enumerate(seeds):
        if seed in seeds[:position]:
            earlier = paths[seeds.index(seed)]
            raise InputError(
                f"{place} holds {earlier} and {paths[position]}, both of "
                f"{'an unknown seed' if seed is None else f'seed {seed}'}; expected each seed once"
            )
    for trained in read:
        epochs = trained.settings.get("epochs", trained.epoch)
        if file == "last.pth" and trained.epoch < epochs:
            warnings.warn(
                f"{trained.path} is of an unfinished run: epoch {trained.epoch} of {epochs}",
                stacklevel=2,
            )
    return Method(place, paths, seeds, first.dataset, first.class_names())


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The flags that affect the result and have other values in two runs."""
    one, other = result_settings(one), result_settings(other)
    names = sorted(one.keys() | other.keys())
    return [
        f"--{name.replace('_', '-')}"
        for name in names
        if name not in NOT_METHOD and one.get(name) != other.get(name)
    ]


def check_comparable(methods: Sequence[Method], dataset: str | None) -> None:
    """Raise InputError for methods with other classes, or of other data sets than each other's.

    dataset: a name that was given, on which all are evaluated; None: each on its own.
    """
    first = methods[0]
    for other in methods[1:]:
        if other.classes != first.classes:
            raise InputError(
                f"{first.name} and {other.name} have other classes: {', '.join(first.classes)}; "
                f"{', '.join(other.classes)}; a comparison needs the same, in the same order"
            )
        if dataset is None and other.dataset != first.dataset:
            raise InputError(
                f"{first.name} is of {first.dataset or 'an unknown data set'}, {other.name} of "
                f"{other.dataset or 'an unknown one'}; give --dataset to evaluate both on one"
            )


def answers_of(
    method: Method,
    device: torch.device,
    *,
    opening: Mapping[str, Any],
    predicting: Mapping[str, Any],
) -> Answers:
    """Evaluate a method's networks; options as of `open_dataset` and `predictions_of`.

    Raises InputError where they do not all see the same images.
    """
    answers: list[Answers] = []
    for path in method.checkpoints:
        trained = read_trained(path)
        dataset = open_dataset(trained, **opening)
        logits, labels, indices = predictions_of(trained, dataset, device, **predicting)
        right = (logits.argmax(dim=1) == labels).numpy()
        names = [dataset.describe(i).removeprefix(f"{dataset.root}") for i in indices]
        answers.append(Answers(dataset, names, labels.numpy(), right[None]))
        check_same_images(answers[0], answers[-1])
    return Answers(
        answers[0].dataset,
        answers[0].names,
        answers[0].labels,
        np.concatenate([each.correct for each in answers]),
    )


def check_same_images(one: Answers, other: Answers) -> None:
    """Raise InputError where two methods or seeds were not evaluated on the same images."""
    same_labels = np.array_equal(one.labels, other.labels)
    if one.names == other.names and same_labels:
        return
    what = "labels" if one.names == other.names else "images"
    raise InputError(
        f"other {what}: {len(one.names):,} of {one.dataset.root}, {one.dataset.split}, against "
        f"{len(other.names):,} of {other.dataset.root}, {other.dataset.split}; a paired comparison "
        "needs the same: give --data, and --split where there are several"
    )
