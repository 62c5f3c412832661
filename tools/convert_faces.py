"""Put faces of one data set into the layout of another, to try its script on real faces.

    python -m tools.convert_faces fer2013 datasets/fer2013 rafdb build/fer2013-as-rafdb
    python -m tools.convert_faces fer2013 datasets/fer2013 sfew build/fer2013-as-sfew
    python -m tools.convert_faces ferplus datasets/fer2013 affectnet-csv build/ferplus-as-affectnet

Labels are translated by their meaning; images of a class that the other data set lacks are left
out. Each layout of AffectNet gets the same faces, pixel for pixel. The copies are the first data
set's under another name: no number from them is one of the other data set.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from common.cli import Parser, call_main
from common.errors import InputError
from common.files import make_folder, write_text
from datasets import DATASETS, RAFDB, SFEW, AffectNet8, FaceDataset, rafdb
from datasets.affectnet import (
    ANNOTATIONS,
    CSV,
    CSV_COLUMNS,
    FOLDERS,
    IMAGE_FOLDER,
    LABEL_SUFFIX,
    LAYOUTS,
)

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
PICTURE = 2  # layout csv: side of the picture in sides of the face that is in it
#: Faces with their labels, by split of the layout that is written.
Faces = Mapping[str, Iterable[tuple[Image.Image, int]]]


def meaning(name: str) -> str:
    """One name for what the data sets call Happy, happiness, Happiness."""
    for common, names in MEANINGS.items():
        if name.lower() in names:
            return common
    raise InputError(f"class {name!r} has no counterpart; known are {', '.join(MEANINGS)}")


def translated(source: FaceDataset, classes: Sequence[str]) -> list[tuple[int, int]]:
    """(position in the data set, label among `classes`) of every face that has one there."""
    target = {meaning(name): label for label, name in enumerate(classes)}
    meanings = [meaning(name) for name in source.classes]
    return [(i, target[meanings[k]]) for i, k in enumerate(source.labels) if meanings[k] in target]


def some(entries: Sequence[tuple[int, int]], limit: int, seed: int) -> list[tuple[int, int]]:
    """`limit` of the entries, drawn at random (0: all), in their order."""
    chosen = np.random.default_rng(seed).permutation(len(entries))[: limit or None]
    return [entries[i] for i in sorted(chosen.tolist())]


def read(
    source: FaceDataset, entries: Sequence[tuple[int, int]]
) -> Iterator[tuple[Image.Image, int]]:
    """The faces, read one at a time under a progress bar."""
    bar = tqdm(entries, desc=f"copying {source.split}", unit=" faces", disable=None)
    return ((source.read_image(i), label) for i, label in bar)


def write_rafdb(root: Path, faces: Faces) -> None:
    """RAF-DB's aligned faces, 100 x 100.

    The label list is written last, so a copy that was cut short is not taken for a whole one.
    """
    make_folder(root / rafdb.IMAGE_FOLDER)
    make_folder((root / rafdb.LABEL_FILE).parent)
    lines = []
    for split, images in faces.items():
        for number, (image, label) in enumerate(images, start=1):
            name = rafdb.image_name(split, number)
            path = root / rafdb.IMAGE_FOLDER / f"{name}_aligned.jpg"
            image.resize(RAFDB.published_size, Image.Resampling.BILINEAR).save(path, quality=95)
            lines.append(f"{name}.jpg {label + 1}\n")
    write_text(root / rafdb.LABEL_FILE, "".join(lines))


def write_annotations(root: Path, faces: Faces) -> None:
    """AffectNet's 4 GB release."""
    for split, images in faces.items():
        part = root / LAYOUTS[ANNOTATIONS][split]
        make_folder(part / "images")
        make_folder(part / "annotations")
        for number, (image, label) in enumerate(images):
            image.save(part / "images" / f"{number:06d}.png")
            np.save(part / "annotations" / f"{number:06d}{LABEL_SUFFIX}", np.array(str(label)))


def write_folders(root: Path, faces: Faces) -> None:
    """AffectNet in class folders."""
    for split, images in faces.items():
        part = root / LAYOUTS[FOLDERS][split]
        _class_folders(part, [str(label) for label in range(len(AffectNet8.classes))], images)


def write_csv(root: Path, faces: Faces) -> None:
    """AffectNet's 120 GB release: faces somewhere in larger pictures, and their boxes."""
    rng = np.random.default_rng(0)
    for split, images in faces.items():
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow((*CSV_COLUMNS[:-1], "facial_landmarks", "expression", "valence", "arousal"))
        for number, (image, label) in enumerate(images):
            name = f"{number % 10}/{split}{number:06d}.png"
            x, y = rng.integers(0, (PICTURE - 1) * image.width, 2).tolist()
            picture = Image.new("RGB", (PICTURE * image.width, PICTURE * image.height), "gray")
            picture.paste(image, (x, y))
            make_folder((root / IMAGE_FOLDER / name).parent)
            picture.save(root / IMAGE_FOLDER / name)
            writer.writerow((name, x, y, image.width, image.height, "", label, 0, 0))
        write_text(root / LAYOUTS[CSV][split], text.getvalue())


def write_sfew(root: Path, faces: Faces) -> None:
    """SFEW's class folders."""
    for split, images in faces.items():
        _class_folders(root / split.capitalize(), SFEW.classes, images)


def _class_folders(
    part: Path, names: Sequence[str], images: Iterable[tuple[Image.Image, int]]
) -> None:
    for name in names:
        make_folder(part / name)
    for number, (image, label) in enumerate(images):
        image.save(part / names[label] / f"{number:06d}.png")


WRITERS: dict[str, tuple[type[FaceDataset], Callable[[Path, Faces], None]]] = {
    "rafdb": (RAFDB, write_rafdb),
    "affectnet-annotations": (AffectNet8, write_annotations),
    "affectnet-folders": (AffectNet8, write_folders),
    "affectnet-csv": (AffectNet8, write_csv),
    "sfew": (SFEW, write_sfew),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Convert as the command line says; raises InputError."""
    parser = Parser(__doc__)
    parser.add_argument("source", choices=list(DATASETS), help="data set to read")
    parser.add_argument("data", type=Path, metavar="SRC", help="its folder")
    parser.add_argument("layout", choices=list(WRITERS), help="layout to write")
    parser.add_argument("root", type=Path, metavar="DST", help="new or empty folder")
    for name, split in (("--train", "training"), ("--val", "evaluated")):
        parser.add_argument(
            name, type=int, default=0, metavar="N", help=f"{split} faces (0: all) [0]"
        )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="which faces [0]")
    args = parser.parse_args(arguments)
    if min(args.train, args.val, args.seed) < 0:
        raise InputError("--train, --val and --seed must not be negative")
    if args.root.exists() and not (args.root.is_dir() and not any(args.root.iterdir())):
        raise InputError(f"{args.root} is a file or not empty; give a new folder")
    kind, write = WRITERS[args.layout]
    original, faces, counts = DATASETS[args.source], {}, []
    splits = (("train", "train"), (original.evaluated_split, kind.evaluated_split))
    for (theirs, split), limit in zip(splits, (args.train, args.val), strict=True):
        source = original(args.data, theirs)
        entries = some(translated(source, kind.classes), limit, args.seed)
        faces[split] = read(source, entries)
        counts.append(f"{len(entries):,} faces of {args.source} {theirs} as {split}")
    write(args.root, faces)
    print(f"{args.root}: {', '.join(counts)}")


if __name__ == "__main__":
    call_main(main)
