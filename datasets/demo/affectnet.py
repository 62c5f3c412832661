"""Synthetic faces in AffectNet's three layouts: 8 classes, its frequencies, a balanced val."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from common.errors import InputError

from ..affectnet import (
    ANNOTATIONS,
    BOX_COLUMNS,
    CSV,
    FOLDERS,
    IMAGE_FOLDER,
    LABEL_SUFFIX,
    LAYOUTS,
    AffectNet8,
)
from .writing import Job, Plan, Row, coordinates, save, write_landmarks, write_table

FACE_SIZE = 100  # pixels, the crops and the faces in the pictures
PICTURE_SIZE = 160  # pixels, the pictures around them (layout csv)


def write_affectnet(
    root: Path,
    *,
    layout: str = ANNOTATIONS,
    train: int = 3000,
    val: int = 800,
    seed: int = 0,
    workers: int | None = None,
) -> None:
    """Draw a data set in one of AffectNet's layouts; the arguments are those of `write_rafdb`.

    landmarks.csv comes last: while it is missing, the data set is unfinished.

    Raises:
        InputError: an unknown layout, a count below 8, a negative seed, fewer than one worker, or
            a root that holds something else.
    """
    if layout not in LAYOUTS:
        raise InputError(f"layout is {layout!r}; known: {', '.join(LAYOUTS)}")
    counts = {"train": train, "val": val}
    plan = Plan(Path(root), f"affectnet {layout}", AffectNet8.classes, counts, seed, workers)
    jobs = plan.jobs({split: each[0] for split, each in AffectNet8.published_counts.items()})
    rows = plan.write(jobs, partial(_write_face, layout))
    if rows:
        if layout == CSV:
            for split, table in LAYOUTS[CSV].items():
                columns = ("subDirectory_filePath", *BOX_COLUMNS, "facial_landmarks")
                columns += ("expression", "valence", "arousal")
                write_table(plan.root / table, columns, _csv_rows(split, jobs, rows))
        write_landmarks(plan.root, rows)


def _write_face(layout: str, plan: Plan, job: Job) -> Row:
    split, number, label = job
    part = LAYOUTS[layout][split]
    name = {
        ANNOTATIONS: f"{part}/images/{number}.jpg",
        FOLDERS: f"{part}/{label}/{number}.jpg",
        CSV: f"{IMAGE_FOLDER}/{number % 10}/{split}{number:05d}.jpg",
    }[layout]
    whole = {"size": PICTURE_SIZE, "zoom": FACE_SIZE / PICTURE_SIZE}
    face, _ = plan.draw(job, **(whole if layout == CSV else {"size": FACE_SIZE}))
    save(plan.root / name, face.image, quality=face.jpeg_quality)
    if layout == ANNOTATIONS:
        annotations = plan.root / part / "annotations"
        annotations.mkdir(exist_ok=True)
        np.save(annotations / f"{number}{LABEL_SUFFIX}", np.array(str(label)))
    return Row(name, face.landmarks, face.yaw)


def _csv_rows(split: str, jobs: Sequence[Job], rows: Sequence[Row]) -> Iterator[tuple]:
    """The rows of training.csv or validation.csv; the face is in the middle of its picture."""
    edge = (PICTURE_SIZE - FACE_SIZE) // 2
    for job, row in zip(jobs, rows, strict=True):
        if job.split == split:
            where = row.name.removeprefix(f"{IMAGE_FOLDER}/")
            # The release has 68 landmarks; nothing reads them.
            landmarks = ";".join(coordinates(row.landmarks))
            yield where, edge, edge, FACE_SIZE, FACE_SIZE, landmarks, job.label, 0, 0
