"""Synthetic faces in SFEW 2.0's layout: film frames, each with a face somewhere in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from ..alignment import transform_points, warp
from ..sfew import FRAME_SIZE, SFEW
from .face import SyntheticFace
from .writing import Job, Plan, Row, save, write_landmarks

FACE_SIZE = 240  # pixels, before the face is turned and scaled into its frame
SCALE = (0.6, 1.4)
TURN = 30  # degrees to either side


def write_sfew(
    root: Path, *, train: int = 420, val: int = 140, seed: int = 0, workers: int | None = None
) -> None:
    """Draw 720x576 frames in SFEW's folders; the arguments are those of `write_rafdb`.

    landmarks.csv holds the landmarks of each frame, as tools.align_sfew reads them. It comes last:
    while it is missing, the data set is unfinished.

    Raises:
        InputError: a count below 7, a negative seed, fewer than one worker, or a root that holds
            something else.
    """
    counts = {"train": train, "val": val}
    plan = Plan(Path(root), "sfew", SFEW.classes, counts, seed, workers)
    jobs = plan.jobs(dict.fromkeys(counts, (1,) * len(SFEW.classes)))
    rows = plan.write(jobs, _write_frame)
    if rows:
        write_landmarks(plan.root, rows)


def _write_frame(plan: Plan, job: Job) -> Row:
    face, rng = plan.draw(job, size=FACE_SIZE)
    frame, landmarks = face_in_frame(face, rng)
    name = f"{job.split.capitalize()}/{SFEW.classes[job.label]}/{job.number:05d}.png"
    save(plan.root / name, frame, compress_level=1)
    return Row(name, landmarks, face.yaw)


def face_in_frame(face: SyntheticFace, rng: np.random.Generator) -> tuple[Image.Image, np.ndarray]:
    """A 720x576 frame with the face somewhere in it, and its landmarks (5, 2) there, pixels.

    The face is turned by up to TURN degrees and scaled by SCALE; it lies in the frame as a whole.
    """
    scale = rng.uniform(*SCALE) * FACE_SIZE / face.image.width
    angle = np.deg2rad(rng.uniform(-TURN, TURN))
    turn = scale * np.array([(np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))])
    reach = scale * face.image.width / 2
    center = np.array([rng.uniform(reach, side - reach) for side in FRAME_SIZE])
    middle = np.array(face.image.size) / 2
    transform = np.column_stack([turn, center - turn @ middle])
    mask = Image.new("L", face.image.size)
    ImageDraw.Draw(mask).ellipse((0, 0, face.image.width - 1, face.image.height - 1), fill=255)
    far = face.image.resize((32, 26)).filter(ImageFilter.GaussianBlur(3))
    frame = far.resize(FRAME_SIZE, Image.Resampling.BILINEAR)
    whole = warp(face.image, transform, FRAME_SIZE)
    frame.paste(whole, mask=warp(mask, transform, FRAME_SIZE))
    return frame, transform_points(transform, face.landmarks)
