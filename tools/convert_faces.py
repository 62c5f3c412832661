"""Put faces of one data set into the layout of another, to try its script on real faces.

    python -m tools.convert_faces fer2013 datasets/fer2013 sfew datasets/fer-as-sfew
    python -m tools.convert_faces ferplus datasets/fer2013 affectnet-csv datasets/fer-as-affectnet

Labels are translated by their meaning; images of a class that the other data set lacks are left
out. Numbers on such a copy belong to the faces, not to the data set whose layout they are in.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from common.cli import Parser, call_main
from common.errors import InputError
from datasets import DATASETS, FaceDataset
from datasets.affectnet import ANNOTATIONS, CSV, CSV_COLUMNS, FOLDERS, IMAGE_FOLDER, LAYOUTS
from datasets.affectnet import EXPRESSIONS as AFFECTNET_EXPRESSIONS
from datasets.sfew import SFEW

MEANINGS = {
    "anger": ("anger", "angry"),
    "contempt": ("contempt",),
    "disgust": ("disgust",),
    "fear": ("fear",),
    "happiness": ("happiness", "happy"),
    "neutral": ("neutral",),
    "sadness": ("sadness", "sad"),
    "surprise": ("surprise",),
}
Face = tuple[Image.Image, int]
PICTURE = 2  # layout csv: side of the picture in sides of the face that is in it


def meaning(name: str) -> str:
    """One name for what the data sets call Happy, happiness, Happiness."""
    for common, names in MEANINGS.items():
        if name.lower() in names:
            return common
    raise InputError(f"class {name!r} has no counterpart; known are {', '.join(MEANINGS)}")


def convert(source: FaceDataset, classes: Sequence[str], limit: int, seed: int) -> list[Face]:
    """Faces of a data set with labels among `classes`, `limit` of them drawn at random (0: all)."""
    target = {meaning(name): label for label, name in enumerate(classes)}
    order = np.random.default_rng(seed).permutation(len(source)).tolist()
    known = [i for i in order if meaning(source.classes[source.labels[i]]) in target]
    chosen = sorted(known[: limit or None])
    return [
        (source.read_image(i), target[meaning(source.classes[source.labels[i]])])
        for i in tqdm(chosen, desc=f"reading {source.split}", disable=None)
    ]


def write_annotations(root: Path, split: str, faces: Sequence[Face]) -> None:
    """AffectNet's 4 GB release."""
    part = root / LAYOUTS[ANNOTATIONS][split]
    (part / "images").mkdir(parents=True)
    (part / "annotations").mkdir()
    for number, (image, label) in enumerate(faces):
        image.save(part / "images" / f"{number}.jpg", quality=95)
        np.save(part / "annotations" / f"{number}_exp.npy", np.array(str(label)))


def write_folders(root: Path, split: str, faces: Sequence[Face]) -> None:
    """AffectNet in class folders."""
    for label in range(len(AFFECTNET_EXPRESSIONS)):
        (root / LAYOUTS[FOLDERS][split] / str(label)).mkdir(parents=True)
    for number, (image, label) in enumerate(faces):
        image.save(root / LAYOUTS[FOLDERS][split] / str(label) / f"{number}.jpg", quality=95)


def write_csv(root: Path, split: str, faces: Sequence[Face]) -> None:
    """AffectNet's 120 GB release: faces somewhere in larger pictures, and their boxes."""
    rng = np.random.default_rng(0 if split == "train" else 1)
    rows = []
    for number, (image, label) in enumerate(faces):
        name = f"{number % 10}/{split}{number}.jpg"
        x, y = rng.integers(0, (PICTURE - 1) * image.width, 2).tolist()
        picture = Image.new("RGB", (PICTURE * image.width, PICTURE * image.height), "gray")
        picture.paste(image, (x, y))
        path = root / IMAGE_FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, quality=95)
        rows.append((name, x, y, image.width, image.height, "", label, 0, 0))
    with (root / LAYOUTS[CSV][split]).open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow((*CSV_COLUMNS[:-1], "facial_landmarks", "expression", "valence", "arousal"))
        writer.writerows(rows)


def write_sfew(root: Path, split: str, faces: Sequence[Face]) -> None:
    """SFEW's class folders."""
    for name in SFEW.classes:
        (root / split.capitalize() / name).mkdir(parents=True)
    for number, (image, label) in enumerate(faces):
        image.save(root / split.capitalize() / SFEW.classes[label] / f"{number:05d}.png")


WRITERS: dict[str, tuple[Sequence[str], Callable[[Path, str, Sequence[Face]], None]]] = {
    "affectnet-annotations": (AFFECTNET_EXPRESSIONS, write_annotations),
    "affectnet-folders": (AFFECTNET_EXPRESSIONS, write_folders),
    "affectnet-csv": (AFFECTNET_EXPRESSIONS, write_csv),
    "sfew": (SFEW.classes, write_sfew),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Convert as the command line says; raises InputError."""
    parser = Parser(__doc__)
    parser.add_argument("source", choices=list(DATASETS), help="data set to read")
    parser.add_argument("data", type=Path, metavar="SRC", help="its folder")
    parser.add_argument("layout", choices=list(WRITERS), help="layout to write")
    parser.add_argument("root", type=Path, metavar="DST", help="new or empty folder")
    parser.add_argument("--train", type=int, default=0, metavar="N", help="faces (0: all) [0]")
    parser.add_argument("--val", type=int, default=0, metavar="N", help="faces (0: all) [0]")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="which faces [0]")
    args = parser.parse_args(arguments)
    if args.root.exists() and any(args.root.iterdir()):
        raise InputError(f"{args.root} is not empty; give a new folder")
    args.root.mkdir(parents=True, exist_ok=True)
    kind = DATASETS[args.source]
    classes, write = WRITERS[args.layout]
    for split, theirs in (("train", "train"), ("val", kind.evaluated_split)):
        source = kind(args.data, theirs)
        faces = convert(source, classes, getattr(args, split), args.seed)
        write(args.root, split, faces)
        print(f"{args.root}: {len(faces):,} faces of {args.source} {theirs} as {split}")


if __name__ == "__main__":
    call_main(main)
