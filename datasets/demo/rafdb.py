"""Synthetic faces in RAF-DB's layout, with RAF-DB's class frequencies."""

from __future__ import annotations

from pathlib import Path

from common.files import make_folder, write_text

from ..rafdb import IMAGE_FOLDER, LABEL_FILE, RAFDB, image_name
from .writing import Job, Plan, Row, save, write_landmarks


def write_rafdb(
    root: Path,
    *,
    train: int = 3000,
    test: int = 1000,
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
        seed: of the whole data set. Image i of a split has its own generator, so neither the
            number of processes nor the counts change its person and view.
        workers: number of processes; None is one per core.

    Raises:
        InputError: a count below 7, a negative seed, fewer than one worker, or a root that holds
            something else. Nothing is ever overwritten.
    """
    counts = {"train": train, "test": test}
    plan = Plan(Path(root), "rafdb", RAFDB.classes, counts, seed, workers, LABEL_FILE)
    jobs = plan.jobs({split: published[0] for split, published in RAFDB.published_counts.items()})
    rows = plan.write(jobs, _write_face)
    if rows:
        write_landmarks(plan.root, rows)
        make_folder((plan.root / LABEL_FILE).parent)
        lines = [f"{name} {job.label + 1}\n" for (name, _), job in zip(rows, jobs, strict=True)]
        write_text(plan.root / LABEL_FILE, "".join(lines))


def _write_face(plan: Plan, job: Job) -> Row:
    face, _ = plan.draw(job)
    name = image_name(job.split, job.number)
    path = plan.root / IMAGE_FOLDER / f"{name}_aligned.jpg"
    save(path, face.image, quality=face.jpeg_quality)
    return f"{name}.jpg", face.landmarks
