"""Lists of test images, such as RAN's of occluded and turned faces (Wang et al., TIP 2020).

A line names an image, and may give its label and more. The forms in circulation:

    test_0003_aligned 4 2                   RAF-DB: name, label, type of occlusion
    4/test_0004_aligned.jpg                 RAF-DB, FER+, AffectNet: label/name
    3_fer0034656.png 8 1                    FER+: label in the name; the numbers are no labels
    val/3/<hash>/, 3/<hash>/8.jpg           AffectNet: label and name of the release
    test_0003.jpg                           a name alone

The first line may be numbers (images, classes) or the names of columns; commas separate as blanks
do; an image that is listed twice counts once. Labels are numbers from 0 in the data set's order, or
from 1 where only that agrees with it, or names of expressions. The data set's own are evaluated.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from common.errors import InputError

from .base import FaceDataset
from .expressions import WORDS, meaning
from .label_list import ALIGNED, image_finder
from .reading import PICTURE_SUFFIXES

# What follows a name, which may have blanks itself: numbers and expressions.
FIELDS = re.compile(rf"(?:[\s,;]+(?:-?\d+(?:\.\d+)?|{'|'.join(WORDS)}))+[\s,;]*$", re.IGNORECASE)
COLUMNS = re.compile(r"\"?(image|name|file|filename|path|img)\b[\w\"]*\s*(,|;|\t|$)", re.IGNORECASE)
LABEL_IN_NAME = re.compile(r"(\d+)_(fer\d+)$")
HASH = re.compile(r"[0-9a-f]{32,}$")  # AffectNet's names


class Entry(NamedTuple):
    """A line of a list."""

    line: int  # as an editor numbers them
    text: str
    name: str  # without folders, suffix and RAF-DB's ending
    path: str  # as it stands there
    label: str | None  # a number or an expression


@dataclass
class Subset:
    """The images of a data set that a list names, and what does not match."""

    path: Path
    lines: int = 0  # that name an image
    indices: list[int] = field(default_factory=list)  # of the images, in the data set's order
    first_label: int = 0  # the list's number of the first class
    duplicates: list[str] = field(default_factory=list)  # lines, each as "line 3, '...'"
    unmatched: list[str] = field(default_factory=list)
    contradicting: list[str] = field(default_factory=list)

    def text(self) -> list[str]:
        """A line for each thing about the list that its user should know."""
        told = [
            (self.duplicates, "name an image again, which counts once"),
            (self.unmatched, "name no image of this split"),
            (
                self.contradicting,
                "have another label than the data set, whose own label is evaluated",
            ),
        ]
        lines = [
            f"{self.path}: {len(found):,} of {self.lines:,} lines {what}; the first: {found[0]}"
            for found, what in told
            if found
        ]
        if self.first_label:
            lines.append(f"{self.path}: its labels count from {self.first_label}")
        return lines

    def json(self) -> dict[str, Any]:
        """What `text` tells, as numbers."""
        return {
            "list": str(self.path),
            "lines": self.lines,
            "duplicates": len(self.duplicates),
            "unmatched": len(self.unmatched),
            "contradicting": len(self.contradicting),
        }


def read_subset(path: Path, dataset: FaceDataset) -> Subset:
    """The images of `dataset` that the list names.

    Raises InputError where it cannot be read, names no image of the data set, or gives one of them
    a label that is out of range.
    """
    entries = read_list(path)
    find = image_finder(dataset)
    subset, matched = Subset(path, lines=len(entries)), {}
    for entry in entries:
        index = find(entry.name, entry.path)
        if index is None:
            subset.unmatched.append(_shown(entry))
        elif index in matched:
            subset.duplicates.append(_shown(entry))
        else:
            matched[index] = entry
    if not matched:
        raise InputError(
            f"none of the {len(entries):,} lines of {path} names an image of {dataset.name} "
            f"{dataset.split}, {dataset.root}: the first is {entries[0].text!r}; the images there "
            f"have names such as {dataset.list_names(0)[-1]}; give the list of this data set and "
            "split"
        )
    subset.indices = sorted(matched)
    _check_labels(subset, matched, dataset)
    return subset


def read_list(path: Path) -> list[Entry]:
    """The lines of a list that name images; raises InputError where there is none."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not a text file ({error.reason} at byte {error.start}); expected a list "
            "of images, one a line"
        ) from error
    except OSError as error:
        raise InputError(f"cannot read the list {path}: {error.strerror}") from error
    numbered = [(i, line.strip()) for i, line in enumerate(lines, start=1)]
    numbered = [(i, line) for i, line in numbered if line and not line.startswith("#")]
    if numbered and _is_head(numbered[0][1], [line for _, line in numbered[1:]]):
        numbered = numbered[1:]
    if not numbered:
        raise InputError(f"the list {path} names no image; expected one a line")
    return [parse_line(line, number) for number, line in numbered]


def _is_head(first: str, others: Sequence[str]) -> bool:
    """Whether the first line is column names, or numbers where the other lines are not."""
    if COLUMNS.match(first):
        return True
    return _is_numbers(first) and not any(map(_is_numbers, others[:1]))


def _is_numbers(line: str) -> bool:
    return all(word.isdecimal() for word in line.split())


def parse_line(line: str, number: int = 1) -> Entry:
    """A line, not empty, as name and label."""
    found = FIELDS.search(line)
    path = (line[: found.start()] if found else line).strip("\"' \t,;")
    fields = re.split(r"[\s,;]+", found.group().strip(" \t,;")) if found else []
    parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".")]
    *folders, last = parts or [path]
    # Some lists have a folder per image of AffectNet, with its crops.
    hashes = [part for part in parts if HASH.match(_without_suffix(part))]
    name = _without_suffix(hashes[-1] if hashes else last)
    labels = [part for part in folders if part.isdecimal() or part.lower() in WORDS]
    label = labels[-1] if labels else None
    if inside := LABEL_IN_NAME.match(name):
        label, name = inside.groups()
    elif label is None and fields:
        label = fields[0]
    return Entry(number, line, name.removesuffix(ALIGNED), "/".join(parts), label)


def _without_suffix(name: str) -> str:
    path = PurePosixPath(name)
    return path.stem if path.suffix.lower() in PICTURE_SUFFIXES else name


def _check_labels(subset: Subset, matched: dict[int, Entry], dataset: FaceDataset) -> None:
    """Find the labels that contradict the data set's; raises InputError for any out of range."""
    meanings = [meaning(name) for name in dataset.classes]
    labelled = {i: entry for i, entry in matched.items() if entry.label is not None}

    def disagreeing(first: int) -> list[Entry]:
        return [
            entry
            for i, entry in labelled.items()
            if entry.label != str(dataset.labels[i] + first)
            and meaning(entry.label) != meanings[dataset.labels[i]]
        ]

    wrong = disagreeing(0)
    if wrong and not disagreeing(1):
        subset.first_label, wrong = 1, []
    for entry in wrong:
        known = entry.label.isdecimal() and int(entry.label) < len(meanings)
        if not known and meaning(entry.label) not in meanings:
            raise InputError(
                f"line {entry.line} of {subset.path}, {entry.text!r}, has the label "
                f"{entry.label}; expected 0 to {len(meanings) - 1} ({', '.join(dataset.classes)})"
            )
    subset.contradicting = [_shown(entry) for entry in wrong]


def _shown(entry: Entry) -> str:
    return f"line {entry.line}, {entry.text!r}"
