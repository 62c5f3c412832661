"""AffectNet with seven or eight expressions, in the three layouts in use."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from common.errors import InputError
from common.flags import flag, not_negative

from .base import DatasetChoice, FaceDataset, class_folder_samples, file_names
from .framing import Framing
from .label_index import NO_NUMBER, indexed_labels
from .reading import read_csv

EXPRESSIONS = (
    "Neutral",
    "Happy",
    "Sad",
    "Surprise",
    "Fear",
    "Disgust",
    "Anger",
    "Contempt",
)
#: Other names of class folders.
FOLDER_NAMES = {
    "Neutral": ("0",),
    "Happy": ("1", "happiness"),
    "Sad": ("2", "sadness"),
    "Surprise": ("3",),
    "Fear": ("4",),
    "Disgust": ("5",),
    "Anger": ("6", "angry"),
    "Contempt": ("7",),
}
# The other labels in the csv files of the 120 GB release: none, uncertain, no face.
OTHER_LABELS = (8, 9, 10)

ANNOTATIONS, FOLDERS, CSV = "annotations", "folders", "csv"
#: The name of each split in each layout.
LAYOUTS = {
    ANNOTATIONS: {"train": "train_set", "val": "val_set"},
    FOLDERS: {"train": "train", "val": "val"},
    CSV: {"train": "training.csv", "val": "validation.csv"},
}
LABEL_SUFFIX = "_exp.npy"
INDEX_NAME = ".expression_index.npz"
IMAGE_FOLDER = "Manually_Annotated_Images"
BOX_COLUMNS = ("face_x", "face_y", "face_width", "face_height")
NUMBER_COLUMNS = (*BOX_COLUMNS, "expression")
CSV_COLUMNS = ("subDirectory_filePath", *NUMBER_COLUMNS)
#: The first line of training.csv, which the release's validation.csv lacks.
RELEASE_COLUMNS = (*CSV_COLUMNS[:5], "facial_landmarks", "expression", "valence", "arousal")

_TRAIN = (74874, 134415, 25459, 14090, 6378, 3803, 24882, 3750)
_VAL = (500,) * 8
# Copies with 3,999 validation images are in use as well.
_VAL_LESS_ONE = tuple(tuple(500 - (i == j) for i in range(8)) for j in range(8))


class AffectNet8(FaceDataset):
    """AffectNet (Mollahosseini, Hasani and Mahoor, 2017) with eight expressions.

    layout: "annotations" (the 4 GB release: cropped faces with .npy files), "folders" (class
        folders, named 0 to 7 or by expression), "csv" (the 120 GB release: whole pictures, cropped
        here to the face box), or "auto", which takes the one that is there.
    box_margin: with "csv", how far the crop goes beyond the face box on each side, as a share of
        the box; it ends at the picture's edge.
    """

    name = "affectnet8"
    classes = EXPRESSIONS
    default_root = Path("datasets/affectnet")
    splits = ("train", "val")
    evaluated_split = "val"
    framing = Framing(template=None, size=224)  # the release's face box
    option_names = ("layout", "box_margin")
    published_counts = {"train": (_TRAIN,), "val": (_VAL, *_VAL_LESS_ONE)}

    def __init__(
        self,
        root: str | Path,
        split: str,
        transform: Callable[[Image.Image], Any] | None = None,
        *,
        layout: str = "auto",
        box_margin: float = 0.0,
        **options: Any,
    ):
        if layout not in ("auto", *LAYOUTS):
            raise InputError(f"layout is {layout!r}; expected auto, {', '.join(LAYOUTS)}")
        if not (isinstance(box_margin, int | float) and 0 <= box_margin < float("inf")):
            raise InputError(f"box_margin is {box_margin!r}; expected a number from 0 up")
        self.layout = layout
        self.box_margin = box_margin
        self.framing = replace(self.framing, margin=float(box_margin))
        self.boxes: np.ndarray | None = None  # (N, 4) x, y, width, height in pixels; with "csv"
        super().__init__(root, split, transform, **options)

    @classmethod
    def layout_help(cls) -> str:
        last = len(cls.classes) - 1
        return (
            f"train_set/images/N.jpg with train_set/annotations/N{LABEL_SUFFIX} and val_set/ "
            f"likewise (layout {ANNOTATIONS}), class folders train/0 ... train/{last} (or "
            f"train/neutral ...) and val/ likewise ({FOLDERS}), or training.csv and validation.csv "
            f"with {IMAGE_FOLDER}/ ({CSV})"
        )

    def load(self) -> None:
        self.layout = find_layout(self.root, self.layout, type(self))
        part = self.root / LAYOUTS[self.layout][self.split]
        if not part.exists():
            raise InputError(
                f"{part} does not exist, though {self.root} holds the layout {self.layout}; "
                f"{self.name} is read from {self.layout_help()}"
            )
        if self.layout == ANNOTATIONS:
            self._load_annotations(part)
        elif self.layout == FOLDERS:
            self._load_folders(part)
        else:
            self._load_csv(part)

    def image_folders(self) -> list[Path]:
        part = self.root / LAYOUTS[self.layout][self.split]
        inside = {ANNOTATIONS: part / "images", FOLDERS: part, CSV: self.root / IMAGE_FOLDER}
        return [inside[self.layout]]

    def _load_folders(self, part: Path) -> None:
        """Class folders; where there are seven classes, that of contempt may be there or not."""
        used = len(self.classes)
        images = class_folder_samples(part, EXPRESSIONS, FOLDER_NAMES, optional=EXPRESSIONS[used:])
        self.set_samples([(path, label) for path, label in images if label < used])
        self.unused = [path for path, label in images if label >= used]

    def _load_annotations(self, part: Path) -> None:
        """The 4 GB release: an image and a file with its label, found by their number."""
        annotations, folder = part / "annotations", part / "images"
        for needed in (annotations, folder):
            if not needed.is_dir():
                raise InputError(f"{needed} does not exist; expected {self.layout_help()}")
        numbers, labels = indexed_labels(annotations, LABEL_SUFFIX, part / INDEX_NAME)
        images = {name.rpartition(".")[0]: name for name in file_names(folder)}
        samples = []
        for number, label in zip(numbers, labels.tolist(), strict=True):
            if not 0 <= label < len(EXPRESSIONS):
                self._reject_label(annotations / f"{number}{LABEL_SUFFIX}", label)
            elif number not in images:
                self.reject(
                    "missing",
                    f"image {folder / number}.jpg does not exist, but {annotations}/{number}"
                    f"{LABEL_SUFFIX} does; unpack the images again or delete that file",
                )
            elif label < len(self.classes):
                samples.append((folder / images[number], label))
            else:
                self.unused.append(folder / images[number])
        self.set_samples(samples)

    def _reject_label(self, path: Path, label: int) -> None:
        found = "no whole number" if label == NO_NUMBER else f"the label {label}"
        self.reject(
            "label",
            f"{path} holds {found}; expected 0 to {len(EXPRESSIONS) - 1} ("
            f"{', '.join(EXPRESSIONS)}); fetch it again or delete it and its image",
        )

    def _load_csv(self, table: Path) -> None:
        """The 120 GB release: rows with a path, a face box and a label."""
        rows = _read_release(table)
        labels = rows["expression"].to_numpy()
        boxes = rows[list(BOX_COLUMNS)].to_numpy()
        present = _Listings(self.root / IMAGE_FOLDER)
        samples, kept = [], []
        for i, (number, relative) in enumerate(rows["subDirectory_filePath"].items()):
            row = f"row {number} of {table}"
            path = self._path_in_row(str(relative), row)
            if path is None or not self._good_row(labels[i], boxes[i], row):
                continue
            if not 0 <= labels[i] < len(self.classes):
                self.unused.append(path)
            elif path not in present:
                self.reject(
                    "missing",
                    f"image {path} does not exist, but {row} lists it; unpack the part of "
                    f"{IMAGE_FOLDER} with its folder again",
                )
            else:
                samples.append((path, int(labels[i])))
                kept.append(i)
        self.listed = True
        self.boxes = boxes[kept].astype(np.int64)
        self.set_samples(samples)

    def _path_in_row(self, relative: str, row: str) -> Path | None:
        """The image that a row names, or None where it lies outside the image folder."""
        parts = relative.replace("\\", "/").split("/")
        if parts[0] == "" or ".." in parts or ":" in parts[0]:
            self.reject(
                "path",
                f"{row} names {relative!r}, outside {IMAGE_FOLDER}; expected folder/name.jpg",
            )
            return None
        return Path(f"{self.root}/{IMAGE_FOLDER}/{'/'.join(parts)}")

    def _good_row(self, label: float, box: np.ndarray, row: str) -> bool:
        """Whether label and box of a row are usable; complains where they are not."""
        if label not in range(len(EXPRESSIONS) + len(OTHER_LABELS)):
            self.reject(
                "label",
                f"{row} has the expression {label:g}; expected 0 to {len(EXPRESSIONS) - 1} ("
                f"{', '.join(EXPRESSIONS)}), or 8 to 10 for images of no expression",
            )
            return False
        # No picture is as large as the number that a pixel count may have; nan compares false.
        usable = (np.abs(box) < 2**31).all() and (box[2:] >= 1).all()
        if label < len(EXPRESSIONS) and not usable:
            self.reject(
                "box",
                f"{row} has the face box {_text(box)}; expected four whole numbers "
                f"({', '.join(BOX_COLUMNS)}), the last two above 0",
            )
            return False
        return True

    def read_image(self, index: int) -> Image.Image:
        image = super().read_image(index)
        if self.boxes is None:
            return image
        return crop_box(image, self.boxes[index], self.box_margin, self.describe(index))


class AffectNet7(AffectNet8):
    """AffectNet without contempt: the images of `AffectNet8` whose label is below 7."""

    name = "affectnet7"
    classes = EXPRESSIONS[:7]
    published_counts = {"train": (_TRAIN[:7],), "val": (_VAL[:7], *(v[:7] for v in _VAL_LESS_ONE))}


@dataclass(frozen=True, kw_only=True)
class AffectNet(DatasetChoice):
    """AffectNet for a recipe: which classes and which layout, as flags."""

    classes: str = flag(
        "8",
        choices=("7", "8"),
        help="expressions: 8, or 7 as in much of the literature (no contempt)",
    )
    layout: str = flag(
        "auto",
        choices=("auto", *LAYOUTS),
        help="layout of the data folder; auto recognises it",
        affects_result=False,
    )
    box_margin: float = flag(
        0.0,
        check=not_negative,
        help="layout csv: how far the crop goes beyond the face box on each side, as a share of "
        "the box",
    )

    @property
    def dataset(self) -> type[AffectNet8]:
        """The data set with that many classes."""
        return {"7": AffectNet7, "8": AffectNet8}[self.classes]

    def __call__(
        self, root: str | Path, split: str, transform: Callable[[Image.Image], Any] | None = None
    ) -> AffectNet8:
        """A split of it."""
        return self.dataset(root, split, transform, layout=self.layout, box_margin=self.box_margin)


def find_layout(root: Path, wanted: str, kind: type[FaceDataset]) -> str:
    """The layout under a data folder; "auto" recognises it, any other must be there.

    Raises InputError where there is none, or more than one to choose from.
    """
    found = {
        layout: [name for name in parts.values() if (root / name).exists()]
        for layout, parts in LAYOUTS.items()
    }
    there = [layout for layout, names in found.items() if names]
    if wanted in there:
        return wanted
    if wanted == "auto" and len(there) == 1:
        return there[0]
    if wanted == "auto" and there:
        listed = "; ".join(f"{layout} ({', '.join(found[layout])})" for layout in there)
        raise InputError(
            f"{root} holds the layouts {listed}; choose one with --layout, or move the others away"
        )
    missing = "none of its layouts" if wanted == "auto" else f"not the layout {wanted}"
    raise InputError(f"{root} holds {missing}; {kind.name} is read from {kind.layout_help()}")


def crop_box(image: Image.Image, box: Iterable[int], margin: float, where: str) -> Image.Image:
    """The part of an image in a box (x, y, width, height) and a margin around it, in pixels.

    margin is a fraction of the box's sides. What lies outside the image is cut off.

    Raises InputError where nothing is left.
    """
    x, y, width, height = (int(value) for value in box)
    left, top = max(0, round(x - margin * width)), max(0, round(y - margin * height))
    right = min(image.width, round(x + (1 + margin) * width))
    bottom = min(image.height, round(y + (1 + margin) * height))
    if min(image.width, x + width) <= max(0, x) or min(image.height, y + height) <= max(0, y):
        raise InputError(
            f"the face box at x {x}, y {y}, {width} x {height} pixels, lies outside {where}, which "
            f"has {image.width} x {image.height}; correct or delete its row in the csv"
        )
    return image.crop((left, top, right, bottom))


class _Listings:
    """Checks whether files exist with one listing per folder instead of one check per file."""

    def __init__(self, root: Path):
        if not root.is_dir():
            raise InputError(
                f"{root} does not exist; the csv files need the pictures there: unpack all parts "
                f"of {root.name}"
            )
        self.names: dict[str, set[str]] = {}

    def __contains__(self, path: Path) -> bool:
        folder, name = os.path.split(path)
        if folder not in self.names:
            self.names[folder] = set(file_names(folder)) if Path(folder).is_dir() else set()
        return name in self.names[folder]


def _read_release(table: Path) -> pd.DataFrame:
    """The columns that are needed, numbers as float64 and nan where there is no number.

    The index is the row's number in an editor.
    """
    named = _has_column_names(table)
    columns = {} if named else {"header": None, "names": RELEASE_COLUMNS}
    if not named:
        warnings.warn(
            f"{table} has no first line with column names; it is read with the release's "
            f"columns: {', '.join(RELEASE_COLUMNS)}",
            stacklevel=2,
        )
    rows = read_csv(table, CSV_COLUMNS, usecols=lambda name: name.strip() in CSV_COLUMNS, **columns)
    rows.index += 2 if named else 1
    for name in NUMBER_COLUMNS:
        rows[name] = pd.to_numeric(rows[name], errors="coerce").astype(np.float64)
    return rows.dropna(how="all")


def _has_column_names(table: Path) -> bool:
    """Whether a csv's first line is column names, not an image with the release's numbers."""
    first = read_csv(table, (), header=None, nrows=1)
    if len(first.columns) != len(RELEASE_COLUMNS):
        return True
    values = first.iloc[0, [RELEASE_COLUMNS.index(name) for name in NUMBER_COLUMNS]]
    return bool(pd.to_numeric(values, errors="coerce").isna().any())


def _text(box: np.ndarray) -> str:
    return " ".join(f"{value:g}" for value in box)
