"""FERAtt's training data: faces somewhere in a picture, with their masks and clean pictures."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from common.errors import InputError

from ..alignment import transform_points, warp
from ..rafdb import LABEL_FILE, RAFDB, image_name
from ..targets import CLEAN, MASKS
from .face import draw_face
from .painting import background
from .rafdb import aligned_path, write_list
from .writing import Job, Plan, Row, save

# The ranges of the authors' code. There a face's picture fills 256 of 276 pixels before it is
# moved; what is then outside is lost.
SCALE = 0.2  # larger or smaller
TURN = 45  # degrees to either side, in the plane
SHIFT = 0.3  # of the picture's side, to either side
RELIGHT = (0.5, 1.5)  # limits of the factor on the face's lightness
CAMERA = (0.75, 1.25)  # of brightness, contrast and gamma
ZOOM = 0.9


def write_feratt(
    root: Path,
    *,
    train: int = 3000,
    test: int = 1000,
    size: int = 128,
    move: float = 1.0,
    seed: int = 0,
    workers: int | None = None,
) -> None:
    """Draw grey pictures, each with a face, in RAF-DB's layout; the arguments are `write_rafdb`'s.

    A face without its surroundings is scaled, turned and shifted onto another background. The
    folder `clean` has that picture, `masks` the face in it, and `Image/aligned` what a camera makes
    of it: the face relit towards the background's lightness; brightness, contrast, gamma and blur.
    Of the authors' steps, warping, histogram equalisation, limits of the lightness and swapping of
    colours are left out; their masks are closed and eroded, ours are exact. With less `move` than
    1, a face is scaled, turned and shifted that much less.

    Raises:
        InputError: a count below 7, a size below 32, a move outside 0 to 1, a negative seed, fewer
            than one worker, or a root that holds something else.
    """
    if size < 32:
        raise InputError(f"size is {size} pixels; faces are drawn from 32 pixels up")
    if not 0 <= move <= 1:
        raise InputError(f"move is {move}; expected 0 (faces stay in the middle) to 1")
    counts, options = {"train": train, "test": test}, {"size": size, "move": move}
    plan = Plan(Path(root), "feratt", RAFDB.classes, counts, seed, workers, LABEL_FILE, options)
    write_list(plan, partial(_write_picture, size, move))


def _write_picture(size: int, move: float, plan: Plan, job: Job) -> Row:
    face, rng = plan.draw(job, size=size, zoom=ZOOM, degrade=False)
    place = random_place(rng, size, move)
    mask = warp(face.mask, place, (size, size))
    behind = scene(rng, size)
    clean = Image.composite(warp(face.image, place, (size, size)), behind, mask).convert("L")
    name = f"{image_name(job.split, job.number)}.jpg"
    path = aligned_path(name)
    save(plan.root / path, photographed(clean, mask, rng), quality=face.jpeg_quality)
    for folder, image in ((MASKS, mask), (CLEAN, clean)):
        save(plan.root / folder / path.with_suffix(".png"), image)
    return Row(name, transform_points(place, face.landmarks), face.yaw)


def random_place(rng: np.random.Generator, size: int, move: float = 1.0) -> np.ndarray:
    """A similarity (2, 3) of pixels that scales, turns and shifts a picture of `size` pixels.

    move: the part of the ranges that is used, 0 (the identity) to 1.
    """
    scale = 1 + move * rng.uniform(-SCALE, SCALE)
    angle = move * np.deg2rad(rng.uniform(-TURN, TURN))
    turn = scale * np.array([(np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))])
    middle = np.full(2, size / 2)
    center = middle + move * size * rng.uniform(-SHIFT, SHIFT, 2)
    return np.column_stack([turn, center - turn @ middle])


def scene(rng: np.random.Generator, size: int) -> Image.Image:
    """What is behind a face: a background with a head, of another size, whose face is wiped out."""
    other = draw_face("Neutral", rng, size=size, zoom=rng.uniform(0.4, 2.0), degrade=False)
    fill = background(rng).resize((size, size), Image.Resampling.BILINEAR)
    wide = other.mask.filter(ImageFilter.GaussianBlur(size / 20))
    return Image.composite(fill, other.image, wide)


def photographed(clean: Image.Image, mask: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A grey picture with its face relit, then as a poor camera takes it."""
    inside = np.asarray(mask) > 127
    pixels = np.asarray(clean, dtype=np.float64)
    front = pixels[inside].mean() if inside.any() else 1.0
    factor = np.clip(pixels[~inside].mean() / max(front, 1.0), *RELIGHT)
    relit = Image.composite(clean.point([min(255, v * factor) for v in range(256)]), clean, mask)
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast):
        relit = enhance(relit).enhance(rng.uniform(*CAMERA))
    gamma = rng.uniform(*CAMERA)
    relit = relit.point([255 * (v / 255) ** gamma for v in range(256)])
    return relit.filter(ImageFilter.GaussianBlur(rng.uniform(0, relit.width / 100)))
