"""A face in a picture -> an upright crop with eyes and mouth where every other crop has them.

Points are (x, y) in pixels with (0, 0) at the corner of the first pixel, so that the centre of the
first pixel is (0.5, 0.5).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from common.errors import InputError

#: Order of the five points; left is the side with the smaller x.
LANDMARKS = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")
#: Their columns in a csv.
POINT_COLUMNS = tuple(f"{name}_{axis}" for name in LANDMARKS for axis in "xy")

# Where the points of RAF-DB's faces belong, as fractions of the crop's side: eyes a third of the
# width apart, the face from forehead to chin.
TEMPLATE = np.array(
    [(0.3325, 0.39), (0.6675, 0.39), (0.5, 0.60), (0.366, 0.75), (0.634, 0.75)], dtype=np.float64
)

# The eyes of a face in profile are close together, so fitted to the eyes alone it would be far
# larger than the crop. The distance from eyes to mouth is stretched by at most this factor.
MAX_STRETCH = 1.35

DEFAULT_SIZE = 224  # pixels, both sides

# How far the tip of the nose lies in front of the plane of eyes and mouth, as a fraction of the
# distance from eyes to mouth. Models in use have 0.4 to 0.6.
NOSE_HEIGHT = 0.5


@dataclass(frozen=True)
class Face:
    """A face that a detector found.

    box: (left, top, right, bottom) in pixels. score: 0 to 1. landmarks: (5, 2) in the order of
    `LANDMARKS`, pixels.
    """

    box: tuple[float, float, float, float]
    score: float
    landmarks: np.ndarray

    @property
    def size(self) -> float:
        """Area of the box in square pixels."""
        left, top, right, bottom = self.box
        return max(0.0, right - left) * max(0.0, bottom - top)

    @property
    def height(self) -> float:
        """Height of the box in pixels."""
        return self.box[3] - self.box[1]


Detector = Callable[[Image.Image], Sequence[Face]]


def _off_center(face: Face, image: Image.Image) -> float:
    left, top, right, bottom = face.box
    return math.hypot((left + right - image.width) / 2, (top + bottom - image.height) / 2)


#: How one of several faces is chosen; the largest value wins.
CHOICES: Mapping[str, Callable[[Face, Image.Image], float]] = {
    "size-score": lambda face, image: face.size * face.score,
    "size": lambda face, image: face.size,
    "score": lambda face, image: face.score,
    "center": lambda face, image: -_off_center(face, image),
}


def choose_face(
    faces: Sequence[Face], image: Image.Image, choose: str = "size-score"
) -> Face | None:
    """The chosen face; None if there is none.

    choose: "size-score" (area of the box times score), "size", "score", or "center" (the closest
    to the middle of the picture).
    """
    if choose not in CHOICES:
        raise InputError(f"choose is {choose!r}; expected one of {', '.join(CHOICES)}")
    return max(faces, key=lambda face: CHOICES[choose](face, image), default=None)


def eyes_transform(
    landmarks: np.ndarray, size: int = DEFAULT_SIZE, template: np.ndarray = TEMPLATE
) -> np.ndarray:
    """The similarity (2, 3) that puts the eyes of `landmarks` (5, 2) on the template's.

    It turns, scales and shifts. Only a face turned so far to the side that this would stretch the
    distance from eyes to mouth by more than MAX_STRETCH is scaled by that distance instead; its
    eyes then lie level and symmetrically about their place, but closer together.

    Raises InputError where the points give no direction or size.
    """
    points, target = _checked(landmarks), template * size
    across, wanted = points[1] - points[0], target[1] - target[0]
    eyes, mouth = points[:2].mean(axis=0), points[3:].mean(axis=0)
    down, wanted_down = mouth - eyes, target[3:].mean(axis=0) - target[:2].mean(axis=0)
    distance = np.hypot(*across)
    if distance < 1e-3 or np.hypot(*down) < 1e-3:
        raise InputError("the eyes, or eyes and mouth, lie on the same spot; expected five points")
    scale = np.hypot(*wanted) / distance
    scale = min(scale, MAX_STRETCH * np.hypot(*wanted_down) / np.hypot(*down))
    cos, sin = scale * across / distance
    turn = np.array([[cos, sin], [-sin, cos]])
    return np.column_stack([turn, target[:2].mean(axis=0) - turn @ eyes])


def five_points_transform(
    landmarks: np.ndarray, size: int = DEFAULT_SIZE, template: np.ndarray = TEMPLATE
) -> np.ndarray:
    """The similarity (2, 3) that brings all five points closest to the template's.

    Least squares over turn, scale and shift. With points x and their targets t as complex numbers
    it minimises sum |a x + b - t|^2; a turns and scales, b shifts.

    Raises InputError where the points give no direction or size.
    """
    points, target = _checked(landmarks), template * size
    x, t = points @ (1, 1j), target @ (1, 1j)
    centered = x - x.mean()
    spread = (np.abs(centered) ** 2).sum()
    if spread < 1e-6:
        raise InputError("the five landmarks lie on the same spot; expected five points of a face")
    a = (centered.conj() * (t - t.mean())).sum() / spread
    b = t.mean() - a * x.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


#: How the transform is fitted, by name.
FITS: Mapping[str, Callable[[np.ndarray, int, np.ndarray], np.ndarray]] = {
    "eyes": eyes_transform,
    "five": five_points_transform,
}


def yaw_of(landmarks: np.ndarray) -> float:
    """Yaw in degrees, -90 to 90, from five points (5, 2); positive where the nose is at larger x.

    With d the distance of the nose from the line through the middle of the eyes E and that of the
    mouth M, positive on the side of the right eye:

        sin(yaw) = d / (NOSE_HEIGHT |M - E|)

    It does not change where the face is turned in the plane, scaled or shifted.

    Raises InputError where the points give no direction or size.
    """
    points = _checked(landmarks)
    eyes, mouth = points[:2].mean(axis=0), points[3:].mean(axis=0)
    down, nose = mouth - eyes, points[2] - eyes
    length = np.hypot(*down)
    if length < 1e-3:
        raise InputError("eyes and mouth lie on the same spot; expected five points of a face")
    distance = (down[1] * nose[0] - down[0] * nose[1]) / length
    return float(np.rad2deg(np.arcsin(np.clip(distance / (NOSE_HEIGHT * length), -1, 1))))


def transform_points(transform: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (N, 2) under a transform (2, 3)."""
    return points @ transform[:, :2].T + transform[:, 2]


def warp(image: Image.Image, transform: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """The image under a transform (2, 3), in a frame of `size` pixels; black beyond the image."""
    # Pillow takes the inverse transform, from the frame to the image.
    backward = np.linalg.inv(np.vstack([transform, (0, 0, 1)]))[:2].ravel().tolist()
    return image.transform(size, Image.Transform.AFFINE, backward, Image.Resampling.BICUBIC)


def align(
    image: Image.Image,
    landmarks: np.ndarray,
    *,
    size: int = DEFAULT_SIZE,
    fit: str = "eyes",
    template: np.ndarray = TEMPLATE,
) -> Image.Image:
    """The aligned crop, size x size pixels, of the face with these landmarks (5, 2).

    fit: "eyes" or "five", see `FITS`. template: where the landmarks belong, as `TEMPLATE`. What
    lies outside the picture is black.

    Raises InputError for landmarks that are not those of a face, or another fit.
    """
    if fit not in FITS:
        raise InputError(f"fit is {fit!r}; expected one of {', '.join(FITS)}")
    if size < 8:
        raise InputError(f"size is {size} pixels; expected at least 8")
    shrink = 1 / math.sqrt(abs(np.linalg.det(FITS[fit](landmarks, size, template)[:, :2])))
    # A face larger than the crop is sampled finely first, then averaged, to avoid aliasing.
    fine = size * min(16, max(1, math.ceil(shrink)))
    crop = warp(image, FITS[fit](landmarks, fine, template), (fine, fine))
    return crop if fine == size else crop.resize((size, size), Image.Resampling.BOX)


def align_photo(
    image: Image.Image,
    detector: Detector,
    *,
    choose: str = "size-score",
    size: int = DEFAULT_SIZE,
    fit: str = "eyes",
) -> tuple[Image.Image, Face] | None:
    """Find a face in an RGB picture and align it: (crop, face), or None where there is no face."""
    face = choose_face(detector(image), image, choose)
    return None if face is None else (align(image, face.landmarks, size=size, fit=fit), face)


def _checked(landmarks: np.ndarray) -> np.ndarray:
    points = np.asarray(landmarks, dtype=np.float64)
    if points.shape != (len(LANDMARKS), 2) or not np.isfinite(points).all():
        raise InputError(
            f"the landmarks have the shape {points.shape}"
            f"{'' if np.isfinite(points).all() else ' and values that are not finite'}; expected "
            f"five (x, y): {', '.join(LANDMARKS)}"
        )
    return points
