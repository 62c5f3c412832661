"""What every data set is: class names in label order and a list of (image, label)."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from common.errors import InputError

Counts = tuple[int, ...]
ALPHA_MODES = ("RGBA", "RGBa", "LA", "PA")


def open_rgb(path: Path) -> Image.Image:
    """Decode an image file of any PIL mode as 8-bit RGB, upright.

    Camera rotation (EXIF) is applied, 16-bit grey is scaled to 8 bits, transparency is laid on
    white, an animation gives its first frame.

    Raises InputError that names the file where it is missing, truncated or no image.
    """
    try:
        with Image.open(path) as image:
            image.load()
            # Damaged EXIF data raise anything; the pixels are fine then.
            upright = image
            with contextlib.suppress(Exception):
                upright = ImageOps.exif_transpose(image)
            return to_rgb(upright)
    except FileNotFoundError as error:
        raise InputError(f"image {path} does not exist") from error
    except (
        OSError,
        RuntimeError,  # of the AVIF decoder
        SyntaxError,
        ValueError,
        UnidentifiedImageError,
        Image.DecompressionBombError,
    ) as error:
        raise InputError(
            f"image {path} cannot be decoded ({error}); replace it or take it out of the data set"
        ) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any PIL mode to 8-bit RGB; see `open_rgb`."""
    if image.mode.startswith("I") or image.mode == "F":
        # PIL would clip at 255; 16-bit samples, which is what these modes hold, reach 65,535.
        wide = np.nan_to_num(np.asarray(image, dtype=np.float64))
        grey = np.clip(wide / 257 if image.mode != "F" else wide, 0, 255).round()
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.mode in ALPHA_MODES or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


class FaceDataset:
    """Images of one split with their labels; indexing gives (transformed image, label).

    A subclass sets the class attributes and fills `samples` (or overrides `read_image` and
    `describe` where images are not files).
    """

    name: ClassVar[str]
    #: Names in label order: index 0 is what the network's first logit stands for.
    classes: ClassVar[tuple[str, ...]]
    #: Folder that the train scripts read where --data is not given.
    default_root: ClassVar[Path]
    #: The splits that `split` may name; "test" always names the one that is evaluated.
    splits: ClassVar[tuple[str, ...]] = ("train", "test")
    #: Published images per class, in label order; a split may be in use in several sizes.
    published_counts: ClassVar[dict[str, tuple[Counts, ...]]] = {}

    def __init__(
        self,
        root: str | Path,
        split: str,
        transform: Callable[[Image.Image], Any] | None = None,
    ):
        """Read the labels of a split below `root`; images are opened when they are asked for.

        Raises InputError where the folder, its layout or a label is wrong.
        """
        if split not in self.splits:
            raise InputError(
                f"{self.name} has no split {split!r}; expected one of {', '.join(self.splits)}"
            )
        self.root = Path(root)
        self.split = split
        self.transform = transform
        if not self.root.is_dir():
            raise InputError(
                f"data folder {self.root} does not exist or is no folder; give --data DIR with "
                f"{self.name}: {self.layout_help()}"
            )
        self.samples: list[tuple[Path, int]] = []
        self.labels: list[int] = []
        self.load()
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
        return open_rgb(self.samples[index][0])

    def describe(self, index: int) -> str:
        """Where image `index` comes from, for messages and reports."""
        return str(self.samples[index][0])

    def class_counts(self) -> Counts:
        """Images per class, in label order."""
        counts = [0] * len(self.classes)
        for label in self.labels:
            counts[label] += 1
        return tuple(counts)

    def is_published(self) -> bool:
        """Whether the images per class are those that were published for this split."""
        return self.class_counts() in self.published_counts.get(self.split, ())

    def set_samples(self, samples: Sequence[tuple[Path, int]]) -> None:
        """Take a list of (file, label) as this split."""
        self.samples = list(samples)
        self.labels = [label for _, label in self.samples]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = self.read_image(index)
        return (image if self.transform is None else self.transform(image)), self.labels[index]

    def _check_filled(self) -> None:
        if not self.labels:
            raise InputError(
                f"{self.name}: split {self.split} below {self.root} holds no images; expected "
                f"{self.layout_help()}"
            )
        published = self.published_counts.get(self.split, ())
        if published and self.class_counts() not in published:
            warnings.warn(
                f"{self.name} {self.split}: {len(self):,} images, per class "
                f"{_list(self.class_counts())}; "
                f"published are {sum(published[0]):,}, per class {_list(published[0])}: another "
                "release, a subset, or files missing",
                stacklevel=2,
            )


def class_folder_samples(folder: Path, classes: Sequence[str]) -> list[tuple[Path, int]]:
    """(file, label) of every file in the class folders of `folder`, in a fixed order.

    Names of folders are compared without regard to case; label = position in `classes`.

    Raises InputError where a class has no folder.
    """
    entries = sorted(entry for entry in folder.iterdir() if entry.is_dir())
    present = {entry.name.lower(): entry for entry in entries}
    twins = [entry.name for entry in entries if present[entry.name.lower()] is not entry]
    if twins:
        raise InputError(
            f"{folder} has class folders that differ in case alone: {twins[0]} and "
            f"{present[twins[0].lower()].name}; join them"
        )
    missing = [name for name in classes if name.lower() not in present]
    if missing:
        raise InputError(
            f"{folder} has no folder {', '.join(missing)}; expected one folder per class: "
            f"{', '.join(classes)}"
        )
    return [
        (path, label)
        for label, name in enumerate(classes)
        for path in sorted(present[name.lower()].iterdir())
        if not path.name.startswith(".")
    ]


def _list(counts: Counts) -> str:
    return " ".join(f"{count}" for count in counts)
