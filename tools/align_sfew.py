"""Find the faces in a folder of pictures and write aligned crops into the same folders.

    python -m tools.align_sfew SFEW2.0 datasets/sfew-aligned
    python -m tools.align_sfew SFEW2.0 datasets/sfew-aligned --detector mtcnn
    python -m tools.align_sfew SFEW2.0 datasets/sfew-aligned --landmarks landmarks.csv

Made for SFEW 2.0, but any folder of pictures will do. Of several faces the one with the largest
box area times score is taken. Beside the crops it writes faces.csv (box, score and landmarks of
every picture), without_face.txt (pictures that were kept out) and alignment.json (the settings).
A run that was interrupted goes on where it stopped when the same command is given again.

Exit status: 0 all pictures were aligned, 1 some were kept out, 2 nothing could be done.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from common.cli import Parser, call_main
from common.errors import InputError
from common.files import make_folder, write_json, write_text, write_whole
from datasets.alignment import (
    CHOICES,
    DEFAULT_SIZE,
    FITS,
    POINT_COLUMNS,
    Detector,
    Face,
    align,
    choose_face,
)
from datasets.base import DEMO_FILE
from datasets.detectors import DETECTORS, make_detector
from datasets.reading import PICTURE_SUFFIXES, open_rgb

BOX_COLUMNS = ("left", "top", "right", "bottom")
COLUMNS = ("image", "result", "faces", "score", *BOX_COLUMNS, *POINT_COLUMNS)
SETTINGS = "alignment.json"
ALIGNED, NO_FACE, UNREADABLE = "aligned", "no face", "unreadable"
Row = dict[str, str]


def main(arguments: Sequence[str] | None = None) -> int:
    """Align as the command line says; returns the exit status; raises InputError."""
    args = parse_arguments(arguments)
    pictures = find_pictures(args.source, args.target)
    settings = run_settings(args)
    done = claim(args.target, settings)
    todo = [picture for picture in pictures if not is_done(picture, done, args.target)]
    if done:
        print(f"{args.target}: {len(pictures) - len(todo):,} pictures were done before")
    rows = {name: done[name] for name in map(str, pictures) if name in done}
    if todo:
        find = given_landmarks(args.landmarks) if args.landmarks else detected(args)
        # Not before the detector is there: a start that fails claims no folder.
        make_folder(args.target)
        write_json(args.target / SETTINGS, settings)
        if (args.source / DEMO_FILE).is_file():  # crops of synthetic faces are synthetic too
            shutil.copyfile(args.source / DEMO_FILE, args.target / DEMO_FILE)
        rows |= {row["image"]: row for row in process(todo, find, args)}
    return summarize(args.target, [rows[str(picture)] for picture in pictures])


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("source", type=Path, metavar="SRC", help="folder with pictures, in folders of any depth")
    add("target", type=Path, metavar="DST", help="folder to write")
    add(
        "--detector",
        choices=DETECTORS,
        default="retinaface",
        help="retinaface (the paper's), yunet (the quickest) or mtcnn (needs no download) "
        "[retinaface]",
    )
    add("--weights", type=Path, metavar="FILE", help="RetinaFace's or YuNet's weights [downloaded]")
    add(
        "--landmarks",
        type=Path,
        metavar="CSV",
        help="take landmarks from here instead of a detector: columns image (path below SRC), "
        f"{', '.join(POINT_COLUMNS)}; a faces.csv will do",
    )
    add(
        "--choose",
        choices=list(CHOICES),
        default="size-score",
        help="which of several faces: largest area times score, largest, best score, or closest "
        "to the middle [size-score]",
    )
    add(
        "--fit",
        choices=list(FITS),
        default="eyes",
        help="eyes: both eyes exactly in place; five: least squares over five points [eyes]",
    )
    add("--size", type=int, default=DEFAULT_SIZE, metavar="N", help="side of a crop [224]")
    add("--min-score", type=float, default=0.5, metavar="X", help="fainter faces are none [0.5]")
    add("--device", default="cpu", metavar="D", help="for the detector: cpu, cuda, cuda:1 [cpu]")
    args = parser.parse_args(arguments)
    if not 8 <= args.size <= 4096:
        raise InputError(f"--size is {args.size}; expected 8 to 4096")
    if args.landmarks and args.weights:
        raise InputError("--landmarks and --weights exclude each other; give one of them")
    return args


def find_pictures(source: Path, target: Path) -> list[Path]:
    """Paths of all pictures below a folder, relative to it, sorted."""
    if not source.is_dir():
        raise InputError(f"folder {source} does not exist; expected SFEW's Train/ and Val/ in it")
    inner, outer = target.resolve(), source.resolve()
    if inner == outer or outer in inner.parents:
        raise InputError(
            f"{target} lies in {source}; choose a folder outside, or crops of crops follow"
        )
    pictures = sorted(
        path.relative_to(source)
        for path in source.rglob("*")
        if path.suffix.lower() in PICTURE_SUFFIXES and not path.name.startswith(".")
    )
    if not pictures:
        raise InputError(f"{source} holds no pictures ({', '.join(sorted(PICTURE_SUFFIXES))})")
    crops: dict[Path, Path] = {}
    for picture in pictures:
        other = crops.setdefault(crop_path(target, picture), picture)
        if other != picture:
            raise InputError(
                f"{source / other} and {source / picture} would both become "
                f"{crop_path(target, picture)}; rename or remove one of them"
            )
    return pictures


def run_settings(args: argparse.Namespace) -> dict[str, Any]:
    """What decides the crops; a folder holds crops of one kind."""
    found_by = {"landmarks": args.landmarks.name} if args.landmarks else {
        "detector": args.detector,
        "weights": args.weights.name if args.weights else None,
        "choose": args.choose,
        "min_score": args.min_score,
    }  # fmt: skip
    return {**found_by, "fit": args.fit, "size": args.size}


def claim(target: Path, settings: dict[str, Any]) -> dict[str, Row]:
    """How far an interrupted run had come in the target folder; writes nothing.

    Raises InputError where it holds something else.
    """
    note = target / SETTINGS
    if target.exists() and not target.is_dir():
        raise InputError(f"{target} is a file; expected a folder")
    if target.is_dir() and any(target.iterdir()):
        try:
            before = json.loads(note.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise InputError(
                f"{target} is not empty and was not written by this command (it has no readable "
                f"{SETTINGS}); choose a new folder"
            ) from None
        if before != settings:
            raise InputError(
                f"{target} was aligned with {json.dumps(before)}, now asked for is "
                f"{json.dumps(settings)}; choose a new folder"
            )
        return read_rows(target / "faces.csv")
    return {}


def read_rows(path: Path) -> dict[str, Row]:
    """Complete rows of a faces.csv by image; a truncated last row is left out."""
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    rows = csv.DictReader(io.StringIO(whole))
    return {row["image"]: row for row in rows if None not in row.values() and None not in row}


def is_done(picture: Path, done: dict[str, Row], target: Path) -> bool:
    """Whether a picture needs no more work; one that could not be read is tried again."""
    row = done.get(str(picture))
    if row is None or row["result"] == UNREADABLE:
        return False
    return row["result"] != ALIGNED or crop_path(target, picture).is_file()


def crop_path(target: Path, picture: Path) -> Path:
    """Where the crop of a picture goes: the same folder and name, lossless."""
    return target / picture.with_suffix(".png")


def detected(args: argparse.Namespace) -> Callable[[Path, Image.Image], list[Face]]:
    """The faces of a picture from a detector."""
    try:
        detector: Detector = make_detector(
            args.detector, weights=args.weights, device=args.device, min_score=args.min_score
        )
    except InputError as error:
        raise InputError(f"{error}; or give the landmarks in a csv with --landmarks") from error
    return lambda picture, image: list(detector(image))


def given_landmarks(path: Path) -> Callable[[Path, Image.Image], list[Face]]:
    """The faces of a picture from a csv of landmarks; raises InputError for a bad csv."""
    if not path.is_file():
        raise InputError(f"landmarks {path} do not exist")
    with path.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        missing = {"image", *POINT_COLUMNS} - set(reader.fieldnames or ())
        if missing:
            raise InputError(
                f"{path} has no column {', '.join(sorted(missing))}; expected image, "
                f"{', '.join(POINT_COLUMNS)}"
            )
        found = {
            row["image"]: face
            for number, row in enumerate(reader, start=2)
            if (face := face_of_row(row, f"row {number} of {path}")) is not None
        }
    return lambda picture, image: [found[str(picture)]] if str(picture) in found else []


def face_of_row(row: Row, where: str) -> Face | None:
    """The face in a row of a csv; None where its landmarks are empty."""
    values = [row[column] or "" for column in POINT_COLUMNS]
    if not any(values):
        return None
    try:
        points = np.array([float(value) for value in values]).reshape(-1, 2)
    except ValueError:
        raise InputError(
            f"{where} holds landmarks that are not numbers: {', '.join(values)}"
        ) from None
    box = (*points.min(axis=0).tolist(), *points.max(axis=0).tolist())
    return Face(box, 1.0, points)


def process(
    pictures: Sequence[Path],
    find: Callable[[Path, Image.Image], list[Face]],
    args: argparse.Namespace,
) -> Iterator[Row]:
    """Align pictures; yields the row of each after it was appended to faces.csv."""
    path = args.target / "faces.csv"
    write_rows(path, list(read_rows(path).values()))  # drops a row that was cut off
    with path.open("a", newline="", encoding="utf-8") as stream:
        for picture in tqdm(pictures, desc="aligning", unit=" pictures", disable=None):
            row = process_one(picture, find, args)
            append_row(stream, row)
            yield row


def process_one(
    picture: Path, find: Callable[[Path, Image.Image], list[Face]], args: argparse.Namespace
) -> Row:
    """Align one picture and write its crop."""
    row = dict.fromkeys(COLUMNS, "") | {"image": str(picture), "faces": "0"}
    try:
        image = open_rgb(args.source / picture)
    except InputError as error:
        tqdm.write(f"{error}")
        return row | {"result": UNREADABLE}
    faces = find(picture, image)
    face = choose_face(faces, image, args.choose)
    if face is None:
        return row | {"result": NO_FACE}
    try:
        crop = align(image, face.landmarks, size=args.size, fit=args.fit)
    except InputError as error:
        raise InputError(f"{args.source / picture}: {error}") from error
    path = crop_path(args.target, picture)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda stream: crop.save(stream, "png"))
    numbers = [face.score, *face.box, *face.landmarks.ravel()]
    found = dict(zip(COLUMNS[3:], (f"{value:.4f}" for value in numbers), strict=True))
    return row | {"result": ALIGNED, "faces": str(len(faces))} | found


def append_row(stream: IO[str], row: Row) -> None:
    """Add a row and hand it to the system, so that an interruption keeps it."""
    csv.DictWriter(stream, COLUMNS, lineterminator="\n").writerow(row)
    stream.flush()


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write a whole faces.csv."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def summarize(target: Path, rows: Sequence[Row]) -> int:
    """Write the lists, say what happened; returns the exit status."""
    kept_out = [row for row in rows if row["result"] != ALIGNED]
    write_rows(target / "faces.csv", rows)
    lines = [f"{row['image']}\t{row['result']}\n" for row in kept_out]
    write_text(target / "without_face.txt", "".join(lines))
    several = sum(int(row["faces"]) > 1 for row in rows)
    unreadable = sum(row["result"] == UNREADABLE for row in rows)
    print(
        f"{target}: {len(rows) - len(kept_out):,} of {len(rows):,} pictures aligned, {several:,} "
        f"of them had several faces; {len(kept_out) - unreadable:,} without a face and "
        f"{unreadable:,} unreadable were kept out"
        f"{f' (listed in {target}/without_face.txt)' if kept_out else ''}"
    )
    return 1 if kept_out else 0


if __name__ == "__main__":
    call_main(main)
