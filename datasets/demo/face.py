"""One synthetic face and what is known to be true of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from common.errors import InputError

from .action_units import ACTION_UNITS, EXPRESSIONS, PROTOTYPES, given_units, random_units
from .canvas import Canvas
from .geometry import FaceShape
from .painting import background, paint
from .person import random_person
from .shading import degraded, shaded
from .view import random_view

# Raise it whenever a change alters the pixels: a folder of another version is then recognised.
VERSION = 2


@dataclass(frozen=True)
class SyntheticFace:
    """One face and everything that is known to be true of it.

    Attributes:
        image: RGB, size x size pixels.
        landmarks: (5, 2) float64, pixels (x, y), (0, 0) being the corner of the first pixel: the
            pupils of the eyes at smaller and larger x, nose tip, left and right mouth corner.
        expression: one of `EXPRESSIONS`.
        action_units: action unit -> intensity in the (left, right) half of the image, where not 0.
        jpeg_quality: the quality to save this face with, 40..95.
        yaw: degrees, positive where the face looks to the right of the image.
        mask: 8-bit grey image, 255 within the outline of the face.
    """

    image: Image.Image
    landmarks: np.ndarray
    expression: str
    action_units: dict[str, tuple[float, float]]
    jpeg_quality: int
    yaw: float
    mask: Image.Image


def draw_face(
    expression: str,
    rng: np.random.Generator,
    *,
    size: int = 100,
    zoom: float = 1.0,
    degrade: bool = True,
    turn: float = 0.0,
    action_units: Mapping[str, float | Sequence[float]] | None = None,
) -> SyntheticFace:
    """Draw one face.

    Two generators in the same state give the same person, view and camera whatever the
    expression, so that expressions can be compared with everything else held fixed.

    Args:
        expression: one of `EXPRESSIONS`.
        rng: source of all that is random.
        size: side of the square image in pixels, from 32 up.
        zoom: how large the face is in the image; 1 fills it as in RAF-DB's aligned crops.
        degrade: apply color cast, contrast, blur, low resolution and noise; JPEG compression is
            left to whoever saves the image.
        turn: degrees that the head is turned by, -90..90, besides a random 10.
        action_units: draw exactly these (one intensity, or left and right of the image) instead
            of random ones of the expression.

    Raises:
        InputError: unknown expression or action unit, an intensity outside 0..1, a size below 32
            pixels, a zoom that is not positive, or another turn.
    """
    if expression not in PROTOTYPES:
        raise InputError(f"unknown expression {expression!r}; known: {', '.join(EXPRESSIONS)}")
    if size < 32:
        raise InputError(f"size is {size} pixels; faces are drawn from 32 pixels up")
    if not zoom > 0:
        raise InputError(f"zoom is {zoom}; expected more than 0")
    if not -90 <= turn <= 90:
        raise InputError(f"turn is {turn}; expected -90 to 90 degrees")
    # Separate streams, so that the number of draws for one thing cannot change another.
    who, how, look, brush, camera = map(np.random.default_rng, rng.integers(2**63, size=5))
    view = replace(random_view(look, zoom), turn=np.deg2rad(turn))
    units = random_units(expression, how) if action_units is None else given_units(action_units)
    face = FaceShape.of(random_person(who), units)
    canvas = Canvas(size, view, background(brush))
    landmarks = paint(canvas, face, brush)
    pixels = shaded(canvas, face)
    if degrade:
        pixels = degraded(pixels, camera)
    return SyntheticFace(
        image=Image.fromarray(pixels.astype(np.uint8)),
        landmarks=landmarks * size,
        expression=expression,
        action_units={
            name: (units.left[name], units.right[name]) for name in ACTION_UNITS if units.mean[name]
        },
        jpeg_quality=int(look.integers(40, 96)),
        yaw=view.degrees(),
        mask=canvas.mask([face.outline], soft=0),
    )
