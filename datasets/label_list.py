"""A file with a label for every image of a split: fixed lists of noisy labels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from common.errors import InputError

from .reading import read_lines

ALIGNED = "_aligned"  # RAF-DB's ending of the aligned image of a name


def listed_labels(dataset: Any, path: Path) -> list[int]:
    """The label of every image of a split, in the split's order, from lines 'image label'.

    Between the two stands a space or a comma. An image is named as in `dataset.list_names`, with or
    without folders, the suffix and "_aligned". A label is a class name, or a number as in the data
    set's own files. A head `image label` and images of other splits are left out.

    Raises InputError for a file that is empty, no text, or not of these images, and for a label
    that is none.
    """
    find = image_finder(dataset)
    elsewhere = tuple(split for split in dataset.splits if split != dataset.split)
    found: dict[int, int] = {}
    for number, line in enumerate(read_lines(path), start=1):
        words = [word.strip() for word in line.rsplit("," if "," in line else None, maxsplit=1)]
        if not any(words) or words == ["image", "label"]:
            continue
        where = f"line {number} of {path}"
        if len(words) != 2:
            raise InputError(f"{where} is {line.strip()!r}; expected an image and its label")
        name, label = words
        index = find(PurePosixPath(name).stem.removesuffix(ALIGNED), name)
        if index is None:
            if name.startswith(elsewhere):
                continue
            raise InputError(
                f"{where} names {name}, which is no image of the split {dataset.split} of "
                f"{dataset.name} below {dataset.root}; expected names such as "
                f"{dataset.list_names(0)[-1]}"
            )
        if index in found:
            raise InputError(f"{where} names {name} once more; expected a line an image")
        found[index] = _label(dataset, label, where)
    if len(found) < len(dataset):
        first = next(index for index in range(len(dataset)) if index not in found)
        raise InputError(
            f"{path} has labels for {len(found):,} of the {len(dataset):,} images of the split "
            f"{dataset.split} of {dataset.name}; the first without one is "
            f"{dataset.describe(first)}"
        )
    return [found[index] for index in range(len(dataset))]


def image_finder(dataset: Any) -> Callable[[str, str], int | None]:
    """A function of a name (without suffix and "_aligned") and path that gives an image's index.

    The path may be any end of the image's; it decides between images of one name, which class
    folders may have. None where there is no such image, or several.
    """
    known: dict[str, list[int]] = {}
    for index in range(len(dataset)):
        for name in dataset.list_names(index):
            known.setdefault(name.removesuffix(ALIGNED), []).append(index)

    def find(name: str, path: str) -> int | None:
        found = known.get(name, [])
        if len(found) > 1:
            found = [i for i in found if f"/{dataset.describe(i)}".endswith(f"/{path}")]
        return found[0] if len(found) == 1 else None

    return find


def _label(dataset: Any, text: str, where: str) -> int:
    """A class name or number as a label from 0."""
    known = {name.lower(): label for label, name in enumerate(dataset.classes)}
    known |= {str(label + dataset.first_label): label for label in range(len(dataset.classes))}
    if text.lower() not in known:
        last = dataset.first_label + len(dataset.classes) - 1
        raise InputError(
            f"{where} has the label {text}; expected {dataset.first_label} to {last}, or "
            f"{', '.join(dataset.classes)}"
        )
    return known[text.lower()]
