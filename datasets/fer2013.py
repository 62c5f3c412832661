"""FER2013: class folders as on Kaggle, or the original csv."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from common.errors import InputError

from .base import FaceDataset, class_folder_samples
from .framing import Framing
from .reading import read_csv

CSV_NAMES = ("fer2013.csv", "icml_face_data.csv")
CSV_COLUMNS = ("emotion", "pixels", "Usage")
SIZE = 48  # pixels, both sides
# Where the landmarks of a mean face lie: the mean, made symmetric, of what YuNet and RetinaFace
# found in 1,500 training faces (seed 0), and MTCNN in 400, enlarged to 192 pixels and padded by 64.
# The faces are not aligned, so that their mean is 2.2 % smaller than they are; this is made up for.
# The detectors differ by up to 0.03; the faces' standard deviation is 0.06 to 0.11.
TEMPLATE = ((0.320, 0.371), (0.680, 0.371), (0.5, 0.591), (0.355, 0.772), (0.645, 0.772))

# The challenge's two test parts; the class folders' test/ holds both or either.
_PUBLIC = (467, 56, 496, 895, 653, 415, 607)
_PRIVATE = (491, 55, 528, 879, 594, 416, 626)
USAGE = {"train": "Training", "public": "PublicTest", "private": "PrivateTest"}


class FER2013(FaceDataset):
    """FER2013 (Goodfellow et al., 2013), 48x48 grayscale faces found by web search.

    Splits: "train"; "test" (both test parts, or the one that is present); "public" and "private",
    the parts on their own, distinguished by the csv's Usage or by the files' names.
    """

    name = "fer2013"
    classes = ("Angry", "Disgust", "Fear", "Happy", "Sad", "Surprise", "Neutral")
    default_root = Path("datasets/fer2013")
    splits = ("train", "test", "public", "private")
    published_size = (SIZE, SIZE)
    framing = Framing(TEMPLATE, SIZE, grey=True, fit="five")
    published_counts = {
        "train": ((3995, 436, 4097, 7215, 4830, 3171, 4965),),
        "test": (
            tuple(a + b for a, b in zip(_PUBLIC, _PRIVATE, strict=True)),
            _PUBLIC,
            _PRIVATE,
        ),
        "public": (_PUBLIC,),
        "private": (_PRIVATE,),
    }

    @classmethod
    def layout_help(cls) -> str:
        return (
            "class folders train/angry ... train/surprise and test/angry ..., or "
            f"{' or '.join(CSV_NAMES)} with the columns {', '.join(CSV_COLUMNS)}"
        )

    def load(self) -> None:
        self.pixels: np.ndarray | None = None  # (N, 48, 48) uint8 where the csv is read
        table = self.find_csv()
        folder = self.root / ("train" if self.split == "train" else "test")
        if table is not None and any((self.root / name).is_dir() for name in ("train", "test")):
            raise InputError(
                f"{self.root} holds both {table.name} and class folders; keep only one of them"
            )
        self.layout = "class folders" if table is None else "csv"
        if table is not None:
            self._load_csv(table)
        elif folder.is_dir():
            self._load_folders(folder)
        else:
            raise InputError(
                f"{self.root} holds neither {folder.name}/ nor {CSV_NAMES[0]}; {self.name} is "
                f"read from {self.layout_help()}"
            )

    def image_folders(self) -> list[Path]:
        return [] if self.layout == "csv" else [self.root / "train", self.root / "test"]

    def _load_folders(self, folder: Path) -> None:
        samples = class_folder_samples(folder, self.classes)
        if self.split in ("public", "private"):
            prefix = USAGE[self.split]
            samples = [sample for sample in samples if sample[0].name.startswith(prefix)]
        self.set_samples(samples)

    def find_csv(self) -> Path | None:
        """The csv with the faces, where there is one."""
        return next((self.root / name for name in CSV_NAMES if (self.root / name).is_file()), None)

    def usages(self) -> list[str]:
        """What the split is called in the csv files."""
        parts = ("public", "private") if self.split == "test" else (self.split,)
        return [USAGE[part] for part in parts]

    def _load_csv(self, table: Path) -> None:
        rows = read_csv(table, CSV_COLUMNS)
        rows = rows[rows["Usage"].isin(self.usages())]
        emotions = rows["emotion"]
        labels = pd.to_numeric(emotions, errors="coerce").to_numpy()
        right = np.isin(labels, np.arange(len(self.classes)))
        for row, emotion in emotions[~right].items():
            self.reject(
                "label",
                f"row {row + 2} of {table} has emotion {emotion}; expected 0 to "
                f"{len(self.classes) - 1} ({', '.join(self.classes)})",
            )
        rows, labels = rows[right], labels[right]
        self.labels = [int(label) for label in labels]
        self.samples = [(table, label) for label in self.labels]
        self._rows = [int(row) + 2 for row in rows.index]  # as an editor numbers them
        self.pixels = decode_pixels(rows["pixels"], self._rows, table)

    def read_image(self, index: int) -> Image.Image:
        if self.pixels is None:
            return super().read_image(index)
        return Image.fromarray(self.pixels[index]).convert("RGB")

    def describe(self, index: int) -> str:
        if self.pixels is None:
            return super().describe(index)
        return f"{self.samples[index][0]} row {self._rows[index]}"

    def list_names(self, index: int) -> tuple[str, ...]:
        """FER+'s name for a row of the csv; the file's otherwise."""
        if self.pixels is None:
            return super().list_names(index)
        return (f"fer{self._rows[index] - 2:07}",)


def decode_pixels(column: pd.Series, numbers: list[int], table: Path) -> np.ndarray:
    """The pixels column, 2,304 numbers a row, as (N, 48, 48) uint8."""
    images = np.empty((len(numbers), SIZE, SIZE), np.uint8)
    for position, (text, number) in enumerate(zip(column, numbers, strict=True)):
        try:
            values = np.array(str(text).split(), dtype=np.int64)
            if values.size != SIZE * SIZE or values.min() < 0 or values.max() > 255:
                raise ValueError
        except (ValueError, OverflowError):
            raise InputError(
                f"row {number} of {table} does not hold {SIZE * SIZE} pixel values from 0 to 255"
            ) from None
        images[position] = values.reshape(SIZE, SIZE)
    return images
