"""Folds of the training split: the flag --fold, such as 2/5, and the images that it stands for."""

from __future__ import annotations

import re
import warnings
import zlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from common.errors import InputError

#: The folds are the same for every seed of a comparison.
FOLD_SEED = 0


def fold_of(text: str) -> tuple[int, int] | None:
    """(2, 5) of "2/5"; None where a text is no fold."""
    found = re.fullmatch(r"([1-9]\d{0,3})/([1-9]\d{0,3})", text)
    number, folds = map(int, found.groups()) if found else (0, 0)
    return (number, folds) if number <= folds and folds >= 2 else None


def is_fold(text: str) -> bool:
    """For `check` of the flag: a fold, or empty."""
    return text == "" or fold_of(text) is not None


def fold_images(dataset: Any, fold: str) -> tuple[list[int], list[int]]:
    """Indices of a data set's images outside the fold, and those in it, in order.

    dataset: with `labels`, and `persons()`: None, or who is seen on each image. The classes are
    spread over the folds in proportion; no person is in two folds.

    Raises InputError where a class has fewer images, or the data set fewer persons, than folds.
    """
    number, folds = fold_of(fold)
    labels, persons = dataset.labels, dataset.persons()
    label, fewest = min(Counter(labels).items(), key=lambda pair: pair[1])
    if fewest < folds:
        raise InputError(
            f"--fold {fold}: the class {dataset.classes[label]} has {fewest} of the "
            f"{len(labels):,} training images; expected at least as many as folds"
        )
    if persons is not None and len(set(persons)) < folds:
        raise InputError(
            f"--fold {fold}: the training images show {len(set(persons))} persons; expected at "
            "least as many as folds"
        )
    kind = StratifiedKFold if persons is None else StratifiedGroupKFold
    splitter = kind(n_splits=folds, shuffle=True, random_state=FOLD_SEED)
    with warnings.catch_warnings():
        # A class of fewer persons than folds; the images were counted above.
        warnings.simplefilter("ignore", UserWarning)
        parts = list(splitter.split(labels, labels, persons))
    kept, held_out = parts[number - 1]
    if not len(held_out) or len(kept) < 2:
        raise InputError(
            f"--fold {fold} has {len(held_out)} images and leaves {len(kept)} to train on; give "
            "fewer folds"
        )
    return kept.tolist(), held_out.tolist()


def fold_checksum(dataset: Any, held_out: Sequence[int]) -> int:
    """CRC-32 of the names and labels of a fold's images, to recognise them later."""
    root = str(dataset.root)
    lines = (f"{dataset.describe(i).removeprefix(root)} {dataset.labels[i]}" for i in held_out)
    return zlib.crc32("\n".join(lines).encode(errors="surrogateescape"))
