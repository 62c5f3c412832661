"""Synthetic faces in RAF-DB's layout, with RAF-DB's class frequencies."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from common.errors import InputError
from common.files import make_folder, write_text

from ..rafdb import IMAGE_FOLDER, LABEL_FILE, RAFDB, image_name
from ..targets import POSES
from .writing import Job, Plan, Row, save, write_landmarks, write_table

TRAIN_FACES, TEST_FACES = 3000, 1000  # unless others are asked for


def write_rafdb(
    root: Path,
    *,
    train: int = TRAIN_FACES,
    test: int = TEST_FACES,
    turn: float = 0.0,
    seed: int = 0,
    workers: int | None = None,
) -> None:
    """Draw a data set in RAF-DB's layout, with RAF-DB's class frequencies.

    `root` plays the role of RAF-DB's `raf-basic`. It gets `Image/aligned/*_aligned.jpg` (100x100),
    `landmarks.csv` (the five landmarks of each image), `demo.json` (which faces these are) and,
    last, `EmoLabel/list_patition_label.txt`: while that file is missing the data set is
    unfinished, and the same call starts it again. A finished one is left as it is.

    Args:
        root: folder to write to; made if missing.
        train, test: number of images, at least one per class.
        turn: heads are turned by up to this many degrees to either side, and `poses.csv` has the
            yaw of each image.
        seed: of the whole data set. Image i of a split has its own generator, so neither the
            number of processes nor the counts change its person and view.
        workers: number of processes; None is one per core.

    Raises:
        InputError: a count below 7, a turn that is not in 0..90, a negative seed, fewer than one
            worker, or a root that holds something else. Nothing is ever overwritten.
    """
    if not 0 <= turn <= 90:
        raise InputError(f"turn is {turn}; expected 0 to 90 degrees")
    counts, options = {"train": train, "test": test}, {"turn": turn} if turn else {}
    plan = Plan(Path(root), "rafdb", RAFDB.classes, counts, seed, workers, LABEL_FILE, options)
    write_list(plan, partial(_write_face, turn), poses=turn > 0)


def write_list(plan: Plan, write_face: Callable[[Plan, Job], Row], *, poses: bool = False) -> None:
    """Write all faces of a plan, landmarks.csv, poses.csv if asked for, and the list of labels."""
    jobs = plan.jobs({split: published[0] for split, published in RAFDB.published_counts.items()})
    rows = plan.write(jobs, write_face)
    if not rows:
        return
    write_landmarks(plan.root, rows)
    if poses:
        table = ((aligned_path(row.name).as_posix(), f"{row.yaw:.2f}") for row in rows)
        write_table(plan.root / POSES, ("image", "yaw"), table)
    make_folder((plan.root / LABEL_FILE).parent)
    lines = [f"{row.name} {job.label + 1}\n" for row, job in zip(rows, jobs, strict=True)]
    write_text(plan.root / LABEL_FILE, "".join(lines))


def aligned_path(name: str) -> Path:
    """Where an image of the list lies, below the root."""
    return IMAGE_FOLDER / name.replace(".jpg", "_aligned.jpg")


def _write_face(turn: float, plan: Plan, job: Job) -> Row:
    # A generator of its own, so that person and expression are those of faces that do not turn.
    turned = np.random.default_rng([plan.seed, job.number, job.label]).uniform(-turn, turn)
    face, _ = plan.draw(job, turn=turned)
    name = f"{image_name(job.split, job.number)}.jpg"
    save(plan.root / aligned_path(name), face.image, quality=face.jpeg_quality)
    return Row(name, face.landmarks, face.yaw)
