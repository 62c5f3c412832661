"""Drawn faces in the layouts of AffectNet and SFEW 2.0; see `datasets.demo` for the faces.

python -m datasets.demo affectnet datasets/demo/affectnet
python -m datasets.demo affectnet datasets/demo/affectnet-csv --layout csv
python -m datasets.demo sfew datasets/demo/sfew
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from common.errors import InputError
from common.files import make_folder, write_json, write_text

from .affectnet import ANNOTATIONS, BOX_COLUMNS, CSV, FOLDERS, IMAGE_FOLDER, LAYOUTS, AffectNet8
from .demo import (
    VERSION,
    DrawnFace,
    _check_numbers,
    _in_processes,
    _is_finished,
    _shares,
    _write_landmarks,
    draw_face,
)
from .sfew import FRAME_SIZE, SFEW

SPLITS = ("train", "val")
# What AffectNet and SFEW call the expressions of `demo.EXPRESSIONS`.
DRAWN_AS = {"Happy": "Happiness", "Sad": "Sadness", "Angry": "Anger"}
FACE_SIZE = 100  # pixels, AffectNet's crops and the faces in its pictures
PICTURE_SIZE = 160  # pixels, the pictures around them (layout csv)
SFEW_FACE_SIZE = 240  # pixels, before it is turned and scaled into its frame
SFEW_SCALE = (0.6, 1.4)
SFEW_TURN = 30  # degrees to either side

Job = tuple[str, int, int]  # split, number from 1, label


def write_affectnet(
    root: Path,
    *,
    layout: str = ANNOTATIONS,
    train: int = 3000,
    val: int = 800,
    seed: int = 0,
    workers: int | None = None,
) -> None:
    """Draws faces in one of AffectNet's layouts: 8 classes, its frequencies, val balanced.

    A finished drawing of the same settings is left as it is, an unfinished one is started again.

    Raises:
        InputError: an unknown layout, a count below 8, a negative seed, fewer than one worker, or
            a root that holds something else.
    """
    if layout not in LAYOUTS:
        raise InputError(f"layout is {layout!r}; known: {', '.join(LAYOUTS)}")
    jobs = _jobs({"train": train, "val": val}, AffectNet8.published_counts, seed)
    about = {"layout": f"affectnet {layout}", "seed": seed, "train": train, "val": val}
    draw = partial(_write_affectnet_face, Path(root), layout, seed)
    rows = _write(Path(root), about, jobs, draw, workers)
    if rows and layout == CSV:
        _write_tables(Path(root), rows)
    _finish(Path(root), rows)


def write_sfew(
    root: Path, *, train: int = 420, val: int = 140, seed: int = 0, workers: int | None = None
) -> None:
    """Draws 720x576 frames in SFEW's folders, each with a face turned, scaled and shifted.

    landmarks.csv holds the five landmarks of each frame, as tools.align_sfew reads them.

    Raises:
        InputError: a count below 7, a negative seed, fewer than one worker, or a root that holds
            something else.
    """
    equal = {split: ((1,) * len(SFEW.classes),) for split in SPLITS}
    jobs = _jobs({"train": train, "val": val}, equal, seed)
    about = {"layout": "sfew", "seed": seed, "train": train, "val": val}
    draw = partial(_write_sfew_frame, Path(root), seed)
    _finish(Path(root), _write(Path(root), about, jobs, draw, workers))


def face_in_frame(face: DrawnFace, rng: np.random.Generator) -> tuple[Image.Image, np.ndarray]:
    """A 720x576 frame with the face somewhere in it, and its landmarks (5, 2) there, pixels.

    The face is turned by up to SFEW_TURN degrees and scaled by SFEW_SCALE; it lies in the frame
    as a whole.
    """
    width, height = FRAME_SIZE
    scale = rng.uniform(*SFEW_SCALE) * SFEW_FACE_SIZE / face.image.width
    angle = np.deg2rad(rng.uniform(-SFEW_TURN, SFEW_TURN))
    turn = scale * np.array([(np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))])
    reach = scale * face.image.width / 2
    center = np.array([rng.uniform(reach, side - reach) for side in FRAME_SIZE])
    middle = np.array(face.image.size) / 2
    forward = np.vstack([np.column_stack([turn, center - turn @ middle]), (0, 0, 1)])
    backward = np.linalg.inv(forward)[:2].ravel().tolist()
    mask = Image.new("L", face.image.size)
    ImageDraw.Draw(mask).ellipse((0, 0, face.image.width - 1, face.image.height - 1), fill=255)
    layers = [
        layer.transform(FRAME_SIZE, Image.Transform.AFFINE, backward, Image.Resampling.BICUBIC)
        for layer in (face.image, mask)
    ]
    far = face.image.resize((32, 26)).filter(ImageFilter.GaussianBlur(3))
    frame = far.resize((width, height), Image.Resampling.BILINEAR)
    frame.paste(layers[0], mask=layers[1])
    return frame, face.landmarks @ turn.T + forward[:2, 2]


def _jobs(
    counts: Mapping[str, int], weights: Mapping[str, Sequence[Sequence[int]]], seed: int
) -> list[Job]:
    """What to draw: labels in proportion to the weights, in an order shuffled by the seed."""
    _check_numbers(seed)
    jobs = []
    for number, split in enumerate(SPLITS):
        shares = _shares(weights[split][0], counts[split])
        labels = np.repeat(np.arange(len(shares)), shares)
        np.random.default_rng([seed, number, 0]).shuffle(labels)
        jobs += [(split, i, label) for i, label in enumerate(labels.tolist(), start=1)]
    return jobs


def _write(
    root: Path, about: Mapping, jobs: Sequence[Job], draw: Callable, workers: int | None
) -> list[list]:
    """Draws all jobs; returns their rows of landmarks.csv, none where they were drawn before."""
    _check_numbers(about["seed"], workers)
    about = {"drawn_by": "datasets.demo_layouts", "version": VERSION, **about}
    if _is_finished(root, about, root / "landmarks.csv"):
        print(f"{root} already holds this drawing ({len(jobs)} faces, seed {about['seed']})")
        return []
    make_folder(root)
    write_json(root / "demo.json", about)
    return list(_in_processes(draw, jobs, workers=workers, label=f"drawing {root}"))


def _finish(root: Path, rows: Sequence[Sequence]) -> None:
    """landmarks.csv comes last: while it is missing, the drawing is unfinished."""
    if rows:
        _write_landmarks(root / "landmarks.csv", [row[:11] for row in rows])


def _drawn(
    expressions: Sequence[str], seed: int, job: Job, **options
) -> tuple[DrawnFace, np.random.Generator]:
    split, number, label = job
    rng = np.random.default_rng([seed, SPLITS.index(split), number])
    name = expressions[label]
    return draw_face(DRAWN_AS.get(name, name), rng, **options), rng


def _write_affectnet_face(root: Path, layout: str, seed: int, job: Job) -> list:
    """Draws and saves a face; returns its row of landmarks.csv, and with csv its box and label."""
    split, number, label = job
    part = LAYOUTS[layout][split]
    name = {
        ANNOTATIONS: f"{part}/images/{number}.jpg",
        FOLDERS: f"{part}/{label}/{number}.jpg",
        CSV: f"{IMAGE_FOLDER}/{number % 10}/{split}{number:05d}.jpg",
    }[layout]
    whole = layout == CSV
    options = {"size": PICTURE_SIZE, "zoom": FACE_SIZE / PICTURE_SIZE} if whole else {}
    face, _ = _drawn(AffectNet8.classes, seed, job, **options)
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    face.image.save(path, quality=face.jpeg_quality)
    if layout == ANNOTATIONS:
        (root / part / "annotations").mkdir(exist_ok=True)
        np.save(root / part / "annotations" / f"{number}_exp.npy", np.array(str(label)))
    edge = (PICTURE_SIZE - FACE_SIZE) // 2
    return [*_row(name, face.landmarks), split, edge, edge, FACE_SIZE, FACE_SIZE, label]


def _write_tables(root: Path, rows: Sequence[Sequence]) -> None:
    """training.csv and validation.csv."""
    columns = ("subDirectory_filePath", *BOX_COLUMNS)
    rest = ("facial_landmarks", "expression", "valence", "arousal")
    for split, table in LAYOUTS[CSV].items():
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow((*columns, *rest))
        for name, *points, part, x, y, width, height, label in rows:
            if part == split:
                where = name.removeprefix(f"{IMAGE_FOLDER}/")
                # The release's landmarks are 68; nothing reads them.
                flat = ";".join(points)
                writer.writerow((where, x, y, width, height, flat, label, 0, 0))
        write_text(root / table, text.getvalue())


def _write_sfew_frame(root: Path, seed: int, job: Job) -> list:
    """Draws and saves a frame; returns its row of landmarks.csv."""
    split, number, label = job
    face, rng = _drawn(SFEW.classes, seed, job, size=SFEW_FACE_SIZE)
    frame, landmarks = face_in_frame(face, rng)
    name = f"{split.capitalize()}/{SFEW.classes[label]}/{number:05d}.png"
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.save(path, compress_level=1)
    return _row(name, landmarks)


def _row(name: str, landmarks: np.ndarray) -> list:
    return [name, *(f"{value:.2f}" for value in landmarks.ravel())]


def add_commands(commands: argparse._SubParsersAction) -> None:
    """The sub-commands affectnet and sfew of `python -m datasets.demo`."""
    defaults = argparse.ArgumentDefaultsHelpFormatter
    for name, title, write, train, val in (
        ("affectnet", "AffectNet's layouts", write_affectnet, 3000, 800),
        ("sfew", "SFEW's layout", write_sfew, 420, 140),
    ):
        parser = commands.add_parser(name, help=title, formatter_class=defaults)
        parser.add_argument("root", type=Path, metavar="DIR", help="new or empty folder")
        parser.add_argument("--train", type=int, default=train, help="training images")
        parser.add_argument("--val", type=int, default=val, help="validation images")
        parser.add_argument("--seed", type=int, default=0, help="seed of the data set")
        parser.add_argument("--workers", type=int, help="processes; None is one per core")
        if name == "affectnet":
            parser.add_argument(
                "--layout", choices=list(LAYOUTS), default=ANNOTATIONS, help="which of its layouts"
            )
        parser.set_defaults(run=partial(_run, write))


def _run(write: Callable, args: argparse.Namespace) -> None:
    options = {
        key: value for key, value in vars(args).items() if key not in ("run", "root", "command")
    }
    write(args.root, **options)
