"""Tiny data sets on disk in every layout but the demo's, and images to know again."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from datasets import FaceDataset
from datasets.ferplus import VOTE_COLUMNS
from datasets.rafdb import IMAGE_FOLDER, LABEL_FILE
from datasets.sfew import SFEW

#: (number, label) of the images of each split; every label occurs, and not in order.
AFFECTNET = {
    "train": [(7, 0), (12, 3), (3, 7), (40, 1), (5, 2), (9, 4), (10, 5), (8, 6), (21, 7), (2, 1)],
    "val": [(101, 1), (102, 7), (103, 0)],
}


def picture(seed: int, size: tuple[int, int] = (20, 20)) -> Image.Image:
    """Noise that no other seed gives."""
    values = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    return Image.fromarray(values)


def grey(level: int, size: tuple[int, int] = (4, 4)) -> Image.Image:
    """An image of one grey level."""
    return Image.new("RGB", size, (level, level, level))


def grey_levels(dataset: FaceDataset) -> list[tuple[int, int]]:
    """(grey level in steps of 20, label) of every image."""
    return [(round(np.asarray(image).mean() / 20), label) for image, label, _ in dataset]


def write_annotations(root: Path) -> Path:
    """AffectNet's 4 GB release."""
    for split, images in AFFECTNET.items():
        part = root / f"{split}_set"
        (part / "images").mkdir(parents=True)
        (part / "annotations").mkdir()
        for number, label in images:
            picture(number).save(part / "images" / f"{number}.jpg")
            np.save(part / "annotations" / f"{number}_exp.npy", np.array(str(label)))
            # Its neighbours, which must not be taken for labels.
            np.save(part / "annotations" / f"{number}_val.npy", np.array("0.5"))
    return root


def write_class_folders(root: Path, names: Sequence[str] = tuple("01234567")) -> Path:
    """AffectNet in class folders with these names; where there are seven, without contempt."""
    for split, images in AFFECTNET.items():
        for name in names:
            (root / split / name).mkdir(parents=True)
        for number, label in images:
            if label < len(names):
                picture(number).save(root / split / names[label] / f"{number}.jpg")
    return root


def write_expression_folders(root: Path) -> Path:
    """AffectNet in class folders named by expression."""
    names = ("Neutral", "happiness", "SAD", "surprise", "fear", "Disgust", "angry", "Contempt")
    return write_class_folders(root, names)


def write_rafdb_folders(official: Path, root: Path, *, csv_in: Path | None = None) -> Path:
    """The faces of RAF-DB's official layout in class folders below `root`.

    csv_in: folder for train_labels.csv and test_labels.csv; None: without them.
    """
    rows: dict[str, list[dict[str, object]]] = {"train": [], "test": []}
    for line in (official / LABEL_FILE).read_text().splitlines():
        name, label = line.replace(".jpg", "_aligned.jpg").split()
        split = name.partition("_")[0]
        folder = root / split / label
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(official / IMAGE_FOLDER / name, folder / name)
        rows[split].append({"image": name, "label": label})
    for split, listed in rows.items() if csv_in else ():
        write_table(csv_in / f"{split}_labels.csv", listed)
    return root


def write_csv(root: Path, changes: Mapping[int, Mapping[str, object]] | None = None) -> Path:
    """AffectNet's 120 GB release; the face is the box (10, 5, 20, 20) of a 40 x 40 picture.

    changes: row of training.csv (from 0) -> columns to overwrite.
    """
    for split, table in (("train", "training.csv"), ("val", "validation.csv")):
        rows = []
        for number, label in [*AFFECTNET[split], (900 + len(split), 9), (950 + len(split), 10)]:
            name = f"{number % 3}/{number}.png"
            path = root / "Manually_Annotated_Images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            whole = picture(number + 1000, (40, 40))
            whole.paste(picture(number), (10, 5))
            whole.save(path)
            box = {"face_x": 10, "face_y": 5, "face_width": 20, "face_height": 20}
            other = {"expression": label, "valence": 0.1, "arousal": -0.2}
            landmarks = {"facial_landmarks": "1;2"}
            rows.append({"subDirectory_filePath": name, **box, **landmarks, **other})
        if split == "train":
            for number, columns in (changes or {}).items():
                rows[number].update(columns)
        write_table(root / table, rows)
    return root


def write_table(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """A csv with the columns of its first row."""
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_sfew(root: Path, size: tuple[int, int] = (24, 24)) -> Path:
    """SFEW: two training images and one validation image per class."""
    for split, count in (("Train", 2), ("Val", 1)):
        for label, name in enumerate(SFEW.classes):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                picture(100 * label + 10 * i + (split == "Val"), size).save(folder / f"f_{i}.png")
    return root


def votes(**given: int) -> list[int]:
    """Ten votes by the names of their columns; 0 for the others."""
    return [given.get(name, 0) for name in VOTE_COLUMNS]


#: FER+: the votes of each image, first those of the training split, and the csv's Usage. The image
#: of row i is of grey level 20 i.
VOTES = (
    votes(happiness=10),
    votes(anger=6, fear=4),
    votes(NF=10),
    votes(anger=4, fear=3, sadness=3),
    votes(neutral=7, unknown=3),
    votes(surprise=9, unknown=1),
    votes(fear=5, anger=5),
    votes(sadness=8, fear=2),
)
USAGES = ("Training",) * 5 + ("PublicTest", "PublicTest", "PrivateTest")


def write_ferplus_rows(root: Path) -> Path:
    """FER+: fer2013.csv and fer2013new.csv."""
    faces, rows = [], []
    for row, usage in enumerate(USAGES):
        pixels = " ".join([str(20 * row)] * 48 * 48)
        faces.append({"emotion": 0, "pixels": pixels, "Usage": usage})
        rows.append({"Usage": usage, "Image name": f"fer{row:07d}.png", **_votes_by_column(row)})
    write_table(root / "fer2013.csv", faces)
    write_table(root / "fer2013new.csv", rows)
    return root


def write_ferplus_images(root: Path) -> Path:
    """FER+: class folders and ferplus_votes.csv."""
    rows = []
    for row, usage in enumerate(USAGES):
        name = f"{'train' if usage == 'Training' else 'test'}/angry/{usage}_{row}.png"
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (48, 48), 20 * row).save(root / name)
        rows.append({"image": name, "usage": usage, **_votes_by_column(row)})
    write_table(root / "ferplus_votes.csv", rows)
    return root


def _votes_by_column(row: int) -> dict[str, int]:
    return dict(zip(VOTE_COLUMNS, VOTES[row], strict=True))
