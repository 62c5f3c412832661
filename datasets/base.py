"""The base of every data set: class names in label order and a list of (image, label)."""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from PIL import Image
from torch import Tensor

from common.batch import Sample
from common.errors import InputError

from .framing import Framing
from .label_list import listed_labels
from .reading import open_rgb
from .targets import TARGETS, AddTargets

Counts = tuple[int, ...]
#: `datasets.demo` writes it beside its synthetic faces; it marks them as such.
DEMO_FILE = "demo.json"


class Problem(NamedTuple):
    """One entry of a data set that cannot be used."""

    kind: str  # "missing", "label", "folder", "box" or "path"
    message: str


class FaceDataset:
    """Images of one split with their labels; indexing gives a `Sample`.

    A subclass sets the class attributes and fills `samples` (or overrides `read_image` and
    `describe` where images are not files).
    """

    name: ClassVar[str]
    #: Names in label order: index 0 is what the network's first logit stands for.
    classes: ClassVar[tuple[str, ...]]
    #: Folder that the train scripts read if --data is not given.
    default_root: ClassVar[Path]
    #: The splits that `split` may name, and the one that the published numbers are on.
    splits: ClassVar[tuple[str, ...]] = ("train", "test")
    evaluated_split: ClassVar[str] = "test"
    #: Published images per class, in label order; a split may be in use in several sizes.
    published_counts: ClassVar[dict[str, tuple[Counts, ...]]] = {}
    #: Published images per split, where no counts per class are published.
    published_totals: ClassVar[dict[str, int]] = {}
    #: Width and height in pixels of every published image, if they are all equal.
    published_size: ClassVar[tuple[int, int] | None] = None
    #: How its images frame a face.
    framing: Framing = Framing()
    #: Keyword arguments of the constructor that change the images or where they are read; an
    #: evaluation takes them from the training run's settings.
    option_names: ClassVar[tuple[str, ...]] = ()
    #: What its own files call the first of `classes`, if they number them.
    first_label: ClassVar[int] = 0
    #: Whether a list or csv names the images, which then must lie in the image folders.
    listed: bool = False
    #: The layout that was found, if a data set has several; for logs.
    layout: str = ""

    def __init__(
        self,
        root: str | Path,
        split: str,
        transform: Callable[..., Any] | None = None,
        *,
        problems: list[Problem] | None = None,
    ):
        """Read the labels of a split below `root`; images are opened when they are indexed.

        transform(image) -> image, or transform(image, targets) -> both where there are targets.

        Raises InputError where the folder, its layout or an entry is invalid. With a list
        `problems`, invalid entries are added to it and left out instead.
        """
        if split not in self.splits:
            raise InputError(
                f"{self.name} has no split {split!r}; expected one of {', '.join(self.splits)}"
            )
        self.root = Path(root)
        self.folder = self.root  # the layout's own, where it may lie deeper than the root
        self.split = split
        self.transform = transform
        self.problems = problems
        if not self.root.is_dir():
            raise InputError(
                f"data folder {self.root} does not exist or is not a folder; give --data DIR with "
                f"{self.name}: {self.layout_help()}"
            )
        self.samples: list[tuple[Path, int]] = []
        self.labels: list[int] = []
        self.unused: list[Path] = []  # images whose label is none of `classes`
        self._more_targets: list[AddTargets] = []
        self._inside: set[Path] = set()  # folders and links already checked by _check_inside
        with _no_garbage_collection():
            self.load()
        if problems is None:
            self._check_filled()

    def load(self) -> None:
        """Fill `samples` and `labels` from the layout under `root`."""
        raise NotImplementedError

    @classmethod
    def layout_help(cls) -> str:
        """The layouts that `load` reads, in words, for messages."""
        raise NotImplementedError

    def read_image(self, index: int) -> Image.Image:
        """Image `index` as RGB, before the transform."""
        path = self.samples[index][0]
        if self.listed and path.exists():  # open_rgb reports a missing file
            self._check_inside(path)
        return open_rgb(path)

    def _check_inside(self, path: Path) -> None:
        """Raises InputError where a link leads out of the image folders."""
        # For a file that is not a link, checking its folder is enough, and folders are few.
        place = path if path.is_symlink() else path.parent
        if place in self._inside:
            return
        # The folders themselves may be links that the user has set, such as to another disk.
        folders = [os.path.realpath(folder) + os.sep for folder in self.image_folders()]
        if not (os.path.realpath(place) + os.sep).startswith(tuple(folders)):
            raise InputError(
                f"image {path} is a link to {os.path.realpath(path)}, outside the data folder; "
                "put the file itself there"
            )
        self._inside.add(place)

    def targets(self, index: int) -> dict[str, Tensor]:
        """Annotations of image `index` besides its label, by name: see `common.batch.Batch`."""
        return {}

    def add_targets(self, names: Sequence[str]) -> None:
        """Give samples more targets, by name: see `datasets.targets`.

        Raises InputError where the data have none of a kind, or damaged ones.
        """
        self._more_targets = [TARGETS[name](self) for name in names]

    def describe(self, index: int) -> str:
        """Where image `index` comes from, for messages and reports."""
        return str(self.samples[index][0])

    def persons(self) -> list[str] | None:
        """Who is seen on each image, if the data set knows: no person is in two folds."""
        return None

    def with_clear_label(self, indices: Sequence[int]) -> list[int]:
        """Those of these images whose label is clear enough to be evaluated on; here all."""
        return list(indices)

    def list_names(self, index: int) -> tuple[str, ...]:
        """The names, without suffix, by which lists of images know image `index`."""
        return (self.samples[index][0].stem,)

    def listed_labels(self, path: Path) -> list[int]:
        """The label of every image from a list such as one of noisy labels.

        Raises InputError for a list that does not fit; see `datasets.label_list`.
        """
        return listed_labels(self, path)

    def reject(self, kind: str, message: str) -> None:
        """Report an invalid entry: add it to `problems`, or raise InputError without that list."""
        if self.problems is None:
            raise InputError(message)
        self.problems.append(Problem(kind, " ".join(message.split())))

    def image_folders(self) -> list[Path]:
        """Folders in which every file should be a sample of some split."""
        return []

    def description(self) -> dict[str, Any]:
        """What a checkpoint stores of the data set, so that it can be used without it."""
        return {
            "dataset": self.name,
            "class_names": list(self.classes),
            "framing": self.framing.as_dict(),
        }

    def class_counts(self) -> Counts:
        """Images per class, in label order."""
        counts = [0] * len(self.classes)
        for label in self.labels:
            counts[label] += 1
        return tuple(counts)

    def is_published(self) -> bool:
        """Whether the images per class, or in total, are as published for this split.

        Synthetic faces never are, whatever their number.
        """
        if (self.folder / DEMO_FILE).exists():
            return False
        counts = self.published_counts.get(self.split)
        if counts is None:
            return len(self) == self.published_totals.get(self.split)
        return self.class_counts() in counts

    def set_samples(self, samples: Sequence[tuple[Path, int]]) -> None:
        """Set the samples and labels of this split from a list of (file, label)."""
        self.samples = list(samples)
        self.labels = [label for _, label in self.samples]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Sample:
        return self.sample(index, self.read_image(index))

    def sample(self, index: int, image: Image.Image) -> Sample:
        """The sample of image `index`, given that image; it may have been resized."""
        targets = dict(self.targets(index))
        for add in self._more_targets:
            targets |= add(index, image)
        if self.transform is not None and targets:
            image, targets = self.transform(image, targets)
        elif self.transform is not None:
            image = self.transform(image)
        return Sample(image, self.labels[index], targets)

    def _check_filled(self) -> None:
        if not self.labels:
            raise InputError(
                f"{self.name}: split {self.split} below {self.root} holds no images; expected "
                f"{self.layout_help()}"
            )
        total = self.published_totals.get(self.split, len(self))
        if len(self) != total:
            warnings.warn(
                f"{self.name} {self.split}: {len(self):,} images; published are {total:,}: another "
                "release, a subset, or missing files",
                stacklevel=2,
            )
        published = self.published_counts.get(self.split, ())
        if published and self.class_counts() not in published:
            warnings.warn(
                f"{self.name} {self.split}: {len(self):,} images, per class "
                f"{_list(self.class_counts())}; "
                f"published are {sum(published[0]):,}, per class {_list(published[0])}: another "
                "release, a subset, or missing files",
                stacklevel=2,
            )


class DatasetChoice:
    """A recipe's data set whose class depends on flags; subclasses add `dataset` and `__call__`."""

    dataset: type[FaceDataset]

    @property
    def default_root(self) -> Path:
        """Folder that is read if --data is not given."""
        return self.dataset.default_root

    @property
    def evaluated_split(self) -> str:
        """The split that is evaluated."""
        return self.dataset.evaluated_split


def file_names(folder: Path) -> list[str]:
    """Names of everything in a folder, as strings: 290,000 Path objects would take seconds.

    Raises InputError where the folder cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries]
    except OSError as error:
        raise InputError(f"cannot read {folder}: {error.strerror}") from error


def class_folder_samples(
    folder: Path,
    classes: Sequence[str],
    spellings: Mapping[str, Sequence[str]] | None = None,
    *,
    optional: Sequence[str] = (),
) -> list[tuple[Path, int]]:
    """(file, label) of every file in the class folders of `folder`, by class, then by name.

    label = position in `classes`. A folder may also be named as one of the `spellings` of its
    class, and all of them in any case.

    Raises InputError where there is no folder for a class that is not optional, or more than one.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist; expected a folder with a folder per class")
    entries = sorted(entry for entry in folder.iterdir() if entry.is_dir())
    names = {name: (name, *(spellings or {}).get(name, ())) for name in classes}
    samples, missing = [], []
    for label, name in enumerate(classes):
        known = {spelling.lower() for spelling in names[name]}
        found = [entry for entry in entries if entry.name.lower() in known]
        if len(found) > 1:
            raise InputError(
                f"{folder} has more than one folder for the class {name}: "
                f"{', '.join(entry.name for entry in found)}; join them"
            )
        missing += [] if found or name in optional else [name]
        for entry in found:
            files = sorted(file for file in file_names(entry) if not file.startswith("."))
            samples += [(entry / file, label) for file in files]
    if missing:
        raise InputError(
            f"{folder} has no folder {', '.join(missing)}; expected one folder per class: "
            f"{', '.join(' or '.join(names[name]) for name in classes)}"
        )
    return samples


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Turn garbage collection off: it doubles the time to make hundreds of thousands of objects."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _list(counts: Counts) -> str:
    return " ".join(f"{count}" for count in counts)
