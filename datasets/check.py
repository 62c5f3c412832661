"""Find what is wrong with a data set on disk: opens every image, checks every entry."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from common.errors import InputError

from .base import Counts, FaceDataset, Problem
from .reading import open_image

# What to do about each kind of finding.
REPAIRS = {
    "missing": "unpack the archives again, or remove the lines that list these images",
    "label": "correct these labels, or remove their images from the list",
    "folder": "move these images to the folder of their label, or correct or delete the csv",
    "box": "correct these boxes, or remove their rows",
    "path": "remove these rows; a list may only name images in its folder",
    "unreadable": "download or unpack these files again",
    "not listed": "harmless; they are in no list or class folder and are not used",
    "across splits": "delete the copies in the training split, or the accuracy is inflated",
    "other label": "an image has one label; delete all copies but the right one",
    "copies": "harmless, but these images count more than once; delete the copies to avoid that",
    "counts": "another release, a subset, or missing files; compare with the release's readme",
    "sizes": "are these the aligned faces? other crops change the accuracy by points",
}
#: Findings that change results; the others are only reported.
SERIOUS = (
    "missing",
    "label",
    "folder",
    "box",
    "path",
    "unreadable",
    "across splits",
    "other label",
)


class OpenedImage(NamedTuple):
    """What opening one image showed."""

    digest: str  # of the decoded pixels; "" where it cannot be decoded
    size: tuple[int, int]
    mode: str
    error: str


class Entry(NamedTuple):
    """One image of a split."""

    split: str
    where: str
    label: int


@dataclass
class Report:
    """The result of a check."""

    dataset: str
    root: str
    classes: tuple[str, ...]
    layouts: dict[str, str] = field(default_factory=dict)  # split -> layout
    counts: dict[str, Counts] = field(default_factory=dict)  # split -> images per class
    published: dict[str, Counts] = field(default_factory=dict)
    published_totals: dict[str, int] = field(default_factory=dict)
    sizes: Counter = field(default_factory=Counter)  # (width, height) -> images
    modes: Counter = field(default_factory=Counter)
    findings: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    leaked: int = 0  # images of the evaluated split that are also in the training split

    @property
    def serious(self) -> list[str]:
        """Kinds of findings that change results."""
        return [kind for kind in SERIOUS if self.findings.get(kind)]

    def as_json(self) -> dict[str, Any]:
        """The report as plain types."""
        return {
            "dataset": self.dataset,
            "root": self.root,
            "classes": list(self.classes),
            "layouts": self.layouts,
            "images_per_class": {split: list(counts) for split, counts in self.counts.items()},
            "published_per_class": {
                split: list(counts) for split, counts in self.published.items()
            },
            "published_images": self.published_totals,
            "sizes": {f"{w}x{h}": n for (w, h), n in self.sizes.most_common()},
            "modes": dict(self.modes.most_common()),
            "evaluated_images_also_in_training": self.leaked,
            "findings": {kind: found for kind, found in self.findings.items() if found},
            "repairs": {kind: REPAIRS[kind] for kind, found in self.findings.items() if found},
            "ok": not self.serious,
        }


def check(kind: type[FaceDataset], root: Path, *, workers: int = 1, **options: Any) -> Report:
    """Check the train and the evaluated split of a data set.

    Raises InputError where not even its layout is found.
    """
    report = Report(kind.name, str(root), kind.classes)
    problems: list[Problem] = []
    splits = [
        kind(root, split, problems=problems, **options) for split in ("train", kind.evaluated_split)
    ]
    for dataset in splits:
        _count(report, dataset)
    for problem in dict.fromkeys(problems):
        report.findings[problem.kind].append(problem.message)
    report.findings["not listed"] = list(_unlisted(splits))
    entries = [
        Entry(dataset.split, dataset.describe(index).removeprefix(f"{root}/"), label)
        for dataset in splits
        for index, label in enumerate(dataset.labels)
    ]
    seen = _look_at_all(splits, workers)
    _sizes(report, seen, kind)
    _duplicates(report, entries, seen)
    return report


def _count(report: Report, dataset: FaceDataset) -> None:
    split, counts = dataset.split, dataset.class_counts()
    report.layouts[split] = dataset.layout
    report.counts[split] = counts
    published = dataset.published_counts.get(split, ())
    if published:
        report.published[split] = counts if counts in published else published[0]
    total = dataset.published_totals.get(split, sum(report.published.get(split, counts)))
    report.published_totals[split] = total
    if (published and counts not in published) or sum(counts) != total:
        report.findings["counts"].append(
            f"{split} has {sum(counts):,} images; published are {total:,}"
        )
    if not sum(counts):
        report.findings["missing"].append(f"{split} holds no images")


def _unlisted(splits: Sequence[FaceDataset]) -> Iterator[str]:
    """Files in the image folders that are neither samples nor images of other labels."""
    listed = {str(path) for dataset in splits for path, _ in dataset.samples}
    listed |= {str(path) for dataset in splits for path in dataset.unused}
    folders = dict.fromkeys(folder for dataset in splits for folder in dataset.image_folders())
    for folder in folders:
        for place, inner, names in os.walk(folder):
            inner[:] = sorted(name for name in inner if not name.startswith("."))
            for name in sorted(names):
                path = f"{place}/{name}"
                if path not in listed and not name.startswith("."):
                    yield path


def _look_at_all(splits: Sequence[FaceDataset], workers: int) -> list[OpenedImage]:
    """Open every image, with a progress bar, in `workers` processes."""
    jobs = [(number, index) for number, data in enumerate(splits) for index in range(len(data))]
    bar = partial(tqdm, total=len(jobs), desc="opening", unit=" images", disable=None)
    if workers <= 1:
        return [_look(splits, job) for job in bar(jobs)]
    with ProcessPoolExecutor(workers, initializer=_keep, initargs=(splits,)) as pool:
        return list(bar(pool.map(_look_kept, jobs, chunksize=64)))


_kept: list[Sequence[FaceDataset]] = []  # in a worker process: sent once, not with every job


def _keep(splits: Sequence[FaceDataset]) -> None:
    _kept.append(splits)


def _look_kept(job: tuple[int, int]) -> OpenedImage:
    return _look(_kept[0], job)


def _look(splits: Sequence[FaceDataset], job: tuple[int, int]) -> OpenedImage:
    """Decode one image; size and mode are those on disk, not what training sees."""
    dataset, index = splits[job[0]], job[1]
    try:
        # First as training reads it, to find every image that training cannot use.
        image = dataset.read_image(index)
        path = dataset.samples[index][0]
        size, mode = image.size, "L"
        if dataset.describe(index) == str(path):
            with open_image(path) as stored:
                size, mode = stored.size, stored.mode
    except InputError as error:
        return OpenedImage("", (0, 0), "", str(error))
    digest = hashlib.blake2b(image.tobytes(), digest_size=16)
    digest.update(repr(image.size).encode())
    return OpenedImage(digest.hexdigest(), size, mode, "")


def _sizes(report: Report, seen: Sequence[OpenedImage], kind: type[FaceDataset]) -> None:
    readable = [one for one in seen if not one.error]
    report.findings["unreadable"] += [one.error for one in seen if one.error]
    report.sizes.update(one.size for one in readable)
    report.modes.update(one.mode for one in readable)
    expected = kind.published_size
    others = sum(n for size, n in report.sizes.items() if size != expected)
    if expected and others:
        report.findings["sizes"].append(
            f"{others:,} images are not {expected[0]} x {expected[1]} pixels, as published"
        )


def _duplicates(report: Report, entries: Sequence[Entry], seen: Sequence[OpenedImage]) -> None:
    """Groups of images with the same pixels, under the most serious kind that fits."""
    groups: dict[str, list[Entry]] = defaultdict(list)
    for entry, one in zip(entries, seen, strict=True):
        if one.digest:
            groups[one.digest].append(entry)
    for group in groups.values():
        if len(group) < 2:
            continue
        labels = {entry.label for entry in group}
        text = " = ".join(f"{e.where} ({report.classes[e.label]})" for e in group)
        if len({entry.split for entry in group}) > 1:
            report.findings["across splits"].append(text)
            report.leaked += sum(entry.split != "train" for entry in group)
        if len(labels) > 1:
            report.findings["other label"].append(text)
        elif len({entry.split for entry in group}) == 1:
            report.findings["copies"].append(text)


def report_text(report: Report, *, examples: int = 3) -> str:
    """The report as text: a table per split, then the findings with a few examples each."""
    lines = [f"{report.dataset} in {report.root}"]
    for split, counts in report.counts.items():
        lines += ["", f"{split}: {sum(counts):,} images, layout {report.layouts[split]}"]
        lines += _table(report, split, counts)
    lines += ["", f"sizes: {_most_common(report.sizes)}", f"modes: {_most_common(report.modes)}"]
    for kind, found in sorted(report.findings.items(), key=lambda item: item[0] not in SERIOUS):
        if found:
            mark = "PROBLEM" if kind in SERIOUS else "note"
            lines += ["", f"{mark}: {_headline(kind, found, report)}", f"    {REPAIRS[kind]}"]
            lines += [f"    - {_shortened(line)}" for line in found[:examples]]
            lines += [f"    - and {len(found) - examples:,} more"] * (len(found) > examples)
    verdict = f"problems: {', '.join(report.serious)}" if report.serious else "no problems found"
    return "\n".join([*lines, "", verdict])


def _table(report: Report, split: str, counts: Counts) -> Iterator[str]:
    width = max(len(name) for name in report.classes)
    published = report.published.get(split)
    for label, (name, count) in enumerate(zip(report.classes, counts, strict=True)):
        line = f"  {label} {name:<{width}} {count:>8,}"
        if published:
            line += f"   published {published[label]:>8,}  {count - published[label]:+,}"
        yield line


def _most_common(counter: Counter) -> str:
    shown = [f"{_size(key)} {count:,}" for key, count in counter.most_common(4)]
    rest = len(counter) - len(shown)
    return ", ".join(shown) + (f", and {rest:,} others" if rest > 0 else "") or "none"


def _size(key: Any) -> str:
    return f"{key[0]}x{key[1]}" if isinstance(key, tuple) else key


def _shortened(line: str, most: int = 3) -> str:
    """A line that lists identical images, shortened to the first few of them."""
    images = line.split(" = ")
    rest = len(images) - most
    return line if rest <= 0 else f"{' = '.join(images[:most])} = {rest} more"


def _headline(kind: str, found: Sequence[str], report: Report) -> str:
    count = len(found)
    return {
        "missing": f"{count:,} images listed but missing",
        "label": f"{count:,} labels out of range",
        "folder": f"{count:,} images whose class folder and csv disagree",
        "box": f"{count:,} face boxes that are invalid",
        "path": f"{count:,} entries that point outside the data folder",
        "unreadable": f"{count:,} images cannot be used",
        "not listed": f"{count:,} files present but not listed",
        "across splits": f"{count:,} images are in more than one split: {report.leaked:,} "
        "evaluated files are copies of training files",
        "other label": f"{count:,} images have more than one label",
        "copies": f"{count:,} images are more than once in a split, with the same label",
        "counts": "counts differ from the published ones",
        "sizes": "image sizes differ from the published ones",
    }[kind]
