"""RAF-DB, the seven basic expressions: as released, or in class folders."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from common.errors import InputError

from .base import FaceDataset, class_folder_samples
from .reading import read_csv, read_lines

LABEL_FILE = Path("EmoLabel/list_patition_label.txt")  # spelled so in the release
IMAGE_FOLDER = Path("Image/aligned")
OFFICIAL, FOLDERS = "official", "class folders"
FOLDER_NAMES = tuple("1234567")


class RAFDB(FaceDataset):
    """RAF-DB basic, aligned 100x100 faces (Li, Deng and Du, CVPR 2017).

    Labels 1..7 in files and names of folders become 0..6 in the order of `classes`. Class folders
    are read in the order of the file names, which is that of the official list.
    """

    name = "rafdb"
    classes = ("Surprise", "Fear", "Disgust", "Happiness", "Sadness", "Anger", "Neutral")
    default_root = Path("datasets/raf-basic")
    listed = True
    first_label = 1
    published_size = (100, 100)
    published_counts = {
        "train": ((1290, 281, 717, 4772, 1982, 705, 2524),),
        "test": ((329, 74, 160, 1185, 478, 162, 680),),
    }

    @classmethod
    def layout_help(cls) -> str:
        return (
            f"{LABEL_FILE} (lines 'train_00001.jpg 5') and {IMAGE_FOLDER}/train_00001_aligned.jpg, "
            "or class folders train/1 ... train/7 and test/1 ... test/7"
        )

    def load(self) -> None:
        self.layout, self.folder = self._find_layout()
        if self.layout == OFFICIAL:
            self._load_list()
        else:
            self._load_folders()

    def _find_layout(self) -> tuple[str, Path]:
        """The layout and its folder: the root, or one below it that archives unpack to."""
        splits = [Path(split, name) for split in self.splits for name in FOLDER_NAMES]
        official = [self.root / name for name in ("", "raf-basic", "basic")]
        official = [place for place in official if (place / LABEL_FILE).is_file()]
        folders = [self.root / name for name in ("", "DATASET")]
        folders = [place for place in folders if any((place / name).is_dir() for name in splits)]
        if official and folders:
            raise InputError(
                f"{self.root} holds both {official[0] / LABEL_FILE} and class folders in "
                f"{folders[0]}; keep only one of them"
            )
        if official:
            return OFFICIAL, official[0]
        if folders:
            return FOLDERS, folders[0]
        raise InputError(
            f"{self.root / LABEL_FILE} not found (nor below raf-basic/ or basic/), and no class "
            f"folders (nor below DATASET/); {self.name} is read from {self.layout_help()}"
        )

    def image_folders(self) -> list[Path]:
        return [self.folder / (IMAGE_FOLDER if self.layout == OFFICIAL else self.split)]

    def _load_folders(self) -> None:
        self.listed = False
        samples = class_folder_samples(self.folder / self.split, FOLDER_NAMES)
        samples.sort(key=lambda sample: sample[0].name)
        name = f"{self.split}_labels.csv"
        tables = [place / name for place in (self.folder, self.root) if (place / name).is_file()]
        self.set_samples(self._as_listed(samples, tables[0]) if tables else samples)

    def _as_listed(self, samples: list[tuple[Path, int]], table: Path) -> list[tuple[Path, int]]:
        """The samples whose label agrees with the csv; reports the others."""
        rows = read_csv(table, ("image", "label"), dtype=str).dropna(how="all")
        numbers = pd.to_numeric(rows["label"], errors="coerce")
        listed = dict(zip(rows["image"].astype(str).str.strip(), numbers, strict=True))
        agreed = []
        for path, label in samples:
            if listed.get(path.name) == label + 1:
                agreed.append((path, label))
                continue
            says = f"gives it {listed[path.name]:g}" if path.name in listed else "does not list it"
            self.unused.append(path)
            self.reject(
                "folder",
                f"image {path} lies in the folder of label {label + 1} ({self.classes[label]}), "
                f"but {table} {says}; expected the same label in both: move the image, correct "
                "the csv, or delete the csv, which is not needed",
            )
        present = {path.name for path, _ in samples}
        for name in (name for name in listed if name not in present):
            self.reject(
                "missing",
                f"image {name} lies in none of the class folders of {self.folder / self.split}, "
                f"but {table} lists it; unpack them again, or remove its line",
            )
        return agreed

    def _load_list(self) -> None:
        label_file, folder = self.folder / LABEL_FILE, self.folder / IMAGE_FOLDER
        if not folder.is_dir():
            raise InputError(
                f"{folder} does not exist; {self.name} needs the aligned faces (unpack "
                f"aligned.zip): {self.layout_help()}"
            )
        # One directory listing instead of a check per file: the list names 15,339 of them.
        present = {path.name for path in folder.iterdir()}
        samples = []
        for number, line in enumerate(read_lines(label_file), start=1):
            if not line.strip():
                continue
            name, label = self._parse(line, label_file, number)
            if not name.startswith(self.split):
                continue
            if name not in present:
                self.reject(
                    "missing",
                    f"image {folder / name} does not exist, but line {number} of {label_file} "
                    "lists it; unpack aligned.zip again",
                )
            elif label is not None:
                samples.append((folder / name, label))
        self.set_samples(samples)

    def _parse(self, line: str, path: Path, number: int) -> tuple[str, int | None]:
        """A line of the label file -> (name of the aligned image, label from 0 or None)."""
        fields = line.split()
        if len(fields) != 2 or not fields[0].startswith(self.splits):
            raise InputError(
                f"line {number} of {path} is {line.strip()!r}; expected 'train_00001.jpg 5' or "
                "'test_0001.jpg 5'"
            )
        image = Path(fields[0])
        if image.name != fields[0]:
            raise InputError(f"line {number} of {path} names {fields[0]!r}; expected a file name")
        aligned = f"{image.stem}_aligned{image.suffix}"
        if not fields[1].isdecimal() or not 1 <= int(fields[1]) <= len(self.classes):
            if fields[0].startswith(self.split):
                self.reject(
                    "label",
                    f"label {fields[1]!r} on line {number} of {path} is out of range; expected 1 "
                    f"to {len(self.classes)} ({', '.join(self.classes)})",
                )
            return aligned, None
        return aligned, int(fields[1]) - 1


def image_name(split: str, number: int) -> str:
    """The release's name, without suffix, of an image; numbers start at 1."""
    return f"{split}_{number:0{5 if split == 'train' else 4}}"
