"""A method: its trained networks, one for each seed, and which images they have right."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.errors import InputError
from datasets import FaceDataset
from engine.folds import fold_of

from .runs import result_settings
from .trained import Trained, open_dataset, predictions_of, read_trained

#: What may differ between the runs of a method; every seed may have a backbone of its own.
NOT_METHOD = ("seed", "fold", "pretrained")


@dataclass(frozen=True)
class TrainedMethod:
    """Checkpoints that differ in their seed alone, and in their fold where there are folds."""

    name: str  # the place, as it was given
    #: By seed (None: the file does not say); for each its checkpoint, or those of all folds.
    checkpoints: dict[int | None, list[Path]]
    dataset: str | None  # on which they were trained
    classes: list[str]

    @property
    def folds(self) -> int:
        """Networks for each seed."""
        return len(next(iter(self.checkpoints.values())))


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


def read_method(place: str, file: str = "last.pth") -> TrainedMethod:
    """The method at a place as in `checkpoints_at`.

    Raises InputError where its runs differ in more than seed and fold, where one is there twice,
    and where a fold is missing.
    """
    first: Trained | None = None
    by_seed: dict[int | None, dict[str, Path]] = {}
    for path in checkpoints_at(place, file):
        trained = read_trained(path)
        first = first or trained
        differing = _differing(first.settings, trained.settings)
        if trained.dataset != first.dataset or differing:
            raise InputError(
                f"{place} mixes methods: {first.path} and {path} differ in "
                f"{', '.join(differing) or 'their data set'}; give the runs of one method, which "
                "differ in --seed and --fold alone"
            )
        seed = trained.settings.get("seed")
        earlier = by_seed.setdefault(seed, {}).setdefault(trained.fold, path)
        if earlier != path:
            raise InputError(
                f"{place} holds {earlier} and {path}, both of "
                f"{'an unknown seed' if seed is None else f'seed {seed}'}"
                f"{trained.fold and f', fold {trained.fold}'}; expected each once"
            )
        _warn_if_unfinished(trained, file)
    checkpoints = {seed: _all_folds(place, found) for seed, found in by_seed.items()}
    return TrainedMethod(place, checkpoints, first.dataset, first.class_names())


def _warn_if_unfinished(trained: Trained, file: str) -> None:
    epochs = trained.settings.get("epochs", trained.epoch)
    if file == "last.pth" and trained.epoch < epochs:
        warnings.warn(
            f"{trained.path} is of an unfinished run: epoch {trained.epoch} of {epochs}",
            stacklevel=3,
        )


def _all_folds(place: str, found: Mapping[str, Path]) -> list[Path]:
    """The checkpoints of a seed in the order of their folds; one where there are no folds.

    Raises InputError where some of the folds are missing, or are of several divisions.
    """
    _, folds = fold_of(next(iter(found))) or (1, 1)
    wanted = [f"{i}/{folds}" for i in range(1, folds + 1)] if folds > 1 else [""]
    if missing := [fold for fold in wanted if fold not in found]:
        raise InputError(
            f"{place} holds the folds {', '.join(sorted(found))} and not {', '.join(missing)}; "
            "train them, with the same seed"
        )
    if len(found) > len(wanted):
        raise InputError(
            f"{place} holds the folds {', '.join(sorted(found))}; expected those of one division"
        )
    return [found[fold] for fold in wanted]


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The flags that affect the result and have other values in two runs.

    A flag that an older run does not know counts as off.
    """
    one, other = result_settings(one), result_settings(other)
    names = sorted(one.keys() | other.keys())
    return [
        f"--{name.replace('_', '-')}"
        for name in names
        if name not in NOT_METHOD and (one.get(name) or None) != (other.get(name) or None)
    ]


def check_comparable(methods: Sequence[TrainedMethod], dataset: str | None) -> None:
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
    method: TrainedMethod,
    device: torch.device,
    *,
    opening: Mapping[str, Any],
    predicting: Mapping[str, Any],
) -> Answers:
    """Evaluate a method's networks; options as of `open_dataset` and `predictions_of`.

    Raises InputError where they do not all see the same images.
    """
    answers: list[Answers] = []
    for paths in method.checkpoints.values():
        parts = [_answers_of_checkpoint(path, device, opening, predicting) for path in paths]
        answers.append(_joined(parts))
        check_same_images(answers[0], answers[-1])
    return replace(answers[0], correct=np.concatenate([each.correct for each in answers]))


def _answers_of_checkpoint(
    path: Path, device: torch.device, opening: Mapping[str, Any], predicting: Mapping[str, Any]
) -> Answers:
    trained = read_trained(path)
    dataset = open_dataset(trained, **opening)
    logits, labels, indices = predictions_of(trained, dataset, device, **predicting)
    right = (logits.argmax(dim=1) == labels).numpy()
    names = [dataset.describe(i).removeprefix(f"{dataset.root}") for i in indices]
    return Answers(dataset, names, labels.numpy(), right[None])


def _joined(parts: Sequence[Answers]) -> Answers:
    """The answers of a seed's folds as one, in the order of the images' names."""
    if len(parts) == 1:
        return parts[0]
    names = [name for part in parts for name in part.names]
    if len(set(names)) < len(names):
        raise InputError(
            "the runs held out folds of the training split, and are to be evaluated on other "
            "images; leave --split and --dataset out"
        )
    order = sorted(range(len(names)), key=names.__getitem__)
    labels = np.concatenate([part.labels for part in parts])[order]
    correct = np.concatenate([part.correct for part in parts], axis=1)[:, order]
    return Answers(parts[0].dataset, [names[i] for i in order], labels, correct)


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
