"""The lines of a face in head units: outline, mouth, eyes, brows and folds of the skin."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .action_units import Units
from .person import Person

# (6, 4) weights of four neighboring points at six places between the middle two.
CATMULL_ROM = (np.arange(6)[:, None] / 6) ** np.arange(4) @ np.array(
    [(0, 1, 0, 0), (-0.5, 0, 0.5, 0), (1, -2.5, 2, -0.5), (-0.5, 1.5, -1.5, 0.5)]
)


def smooth(points: Sequence, closed: bool = False) -> np.ndarray:
    """(n, 2) points -> (m, 2) points of the Catmull-Rom curve through them, six a piece."""
    p = np.asarray(points, dtype=float)
    if closed:
        p = np.concatenate([p[-1:], p, p[:2]])
    else:
        p = np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
    pieces = np.stack([p[:-3], p[1:-2], p[2:-1], p[3:]], axis=1)
    curve = (CATMULL_ROM @ pieces).reshape(-1, 2)
    return curve if closed else np.concatenate([curve, p[-2:-1]])


def mirror(points: Sequence) -> np.ndarray:
    """Points of the right half, top to bottom -> the closed outline, clockwise from the top."""
    right = np.asarray(points, dtype=float)
    return np.concatenate([right, (right * (-1, 1))[::-1]])


def ribbon(points: np.ndarray, width: float | np.ndarray) -> np.ndarray:
    """(n, 2) line -> (2n, 2) polygon around it; width is full, one number or one per point."""
    along = np.empty_like(points)
    along[1:-1] = points[2:] - points[:-2]
    along[0], along[-1] = points[1] - points[0], points[-1] - points[-2]
    half = 0.5 * width / np.maximum(np.hypot(along[:, 0], along[:, 1]), 1e-9)
    offset = along[:, ::-1] * half[:, None] * (-1, 1)
    return np.concatenate([points + offset, (points - offset)[::-1]])


class Mouth(NamedTuple):
    """The outer and inner lip contours, (n, 2) each, from the left to the right corner."""

    upper_outer: np.ndarray
    upper_inner: np.ndarray
    lower_inner: np.ndarray
    lower_outer: np.ndarray


@dataclass(frozen=True)
class FaceShape:
    """One person making one expression, upright and from the front."""

    person: Person
    units: Units
    outline: np.ndarray  # (n, 2), without ears and hair
    mouth: Mouth

    @classmethod
    def of(cls, person: Person, units: Units) -> FaceShape:
        """The face of a person who makes these action units."""
        return cls(person, units, _face_outline(person, units), _mouth(person, units))


def jaw_drop(units: Units) -> float:
    """How far the chin is lowered by the jaw, in head units."""
    return 0.20 * units.mean["AU26"]


def _face_outline(person: Person, units: Units) -> np.ndarray:
    drop, w = jaw_drop(units), person.face_width
    lift = 0.02 * units.mean["AU17"]
    half = [
        (0.0, -1.28),
        (0.55 * w, -1.18),
        (0.90 * w, -0.75),
        (0.985 * w, -0.25),
        (w, 0.15),
        (0.97 * w, 0.60 + 0.1 * drop),
        (person.jaw * w, 1.08 + 0.5 * drop),
        (0.62 * person.jaw * w, 1.43 + 0.85 * drop),
        (0.26 * w, person.chin - 0.03 + drop - lift),
        (0.0, person.chin + drop - lift),
    ]
    return smooth(mirror(half), closed=True)


def _mouth_corner(person: Person, au: Mapping[str, float]) -> tuple[float, float]:
    """Distance of a mouth corner from the middle, and how far it lies below the mouth's center."""
    width = person.mouth_width * (
        1 + 0.26 * au["AU12"] + 0.32 * au["AU20"] + 0.07 * au["AU14"]
        - 0.16 * au["AU23"] - 0.18 * au["AU26"]
    )  # fmt: skip
    height = person.corner_rest - 0.19 * au["AU12"] + 0.16 * au["AU15"] + 0.05 * au["AU20"]
    return width, height - 0.02 * au["AU14"]


def _mouth(person: Person, units: Units) -> Mouth:
    t = np.linspace(-1, 1, 25)
    side = (t > 0).astype(int)
    mean = units.mean
    opened = min(1.0, mean["AU25"] + mean["AU26"])
    press = min(1.0, 0.6 * mean["AU23"] + 0.6 * mean["AU24"])
    width, corner = np.array([_mouth_corner(person, au) for au in units[:2]]).T
    x = t * width[side]
    arch = np.abs(t) ** 1.7
    dome = (1 - t**2) ** 0.6
    sneer = 0.07 * mean["AU9"] + 0.09 * mean["AU10"]
    raised = (0.06 * mean["AU17"] + sneer * (1 - 0.4 * opened)) * (1 - t**2)
    bent = (corner[side] + 0.25 * jaw_drop(units)) * arch
    line = person.mouth_y + 0.02 * mean["AU12"] + bent - raised
    gap_up = opened * (0.025 + 0.6 * sneer + 0.05 * mean["AU12"])
    gap_low = 0.075 * mean["AU25"] + 0.34 * mean["AU26"] + 0.10 * mean["AU16"] * opened
    bow = (1 - np.abs(t) ** 2.2) ** 0.8 * (1 - 0.25 * np.exp(-((t / 0.14) ** 2)))
    thin = (1 - 0.65 * press) * (1 - 0.28 * mean["AU12"])
    upper = person.lip_upper * thin * (1 - 0.25 * mean["AU20"]) * bow
    pout = 0.025 * mean["AU17"] + 0.02 * mean["AU16"]
    lower = (person.lip_lower * thin + pout) * (1 - t**2) ** 0.75
    upper_inner, lower_inner = line - gap_up * dome, line + gap_low * dome
    curves = (upper_inner - upper, upper_inner, lower_inner, lower_inner + lower)
    return Mouth(*(np.stack([x, y], axis=1) for y in curves))


def eyelids(person: Person, units: Units, side: int) -> tuple[np.ndarray, np.ndarray]:
    """(n, 2) upper and lower lid of the eye in the image's left (0) or right (1) half."""
    au = units[side]
    sign = 2 * side - 1
    t = np.linspace(-1, 1, 17)  # from the inner to the outer corner
    sad = au["AU1"] * (0.4 + 0.6 * au["AU4"])
    up = 0.125 * person.eye_size * (
        1 + 0.50 * au["AU5"] - 0.33 * au["AU7"] - 0.22 * au["AU6"] - 0.70 * au["AU43"]
        - 0.12 * au["AU4"] - 0.15 * au["AU9"]
    )  # fmt: skip
    low = 0.078 * person.eye_size * (
        1 + 0.25 * au["AU5"] - 0.60 * au["AU7"] - 0.55 * au["AU6"] - 0.15 * au["AU12"]
        - 0.25 * au["AU9"]
    )  # fmt: skip
    x = sign * (person.eye_x + 0.225 * np.sqrt(person.eye_size) * t)
    base = -person.eye_tilt * t
    # A lowered brow pushes the lid down on the inside, a sad one lets it sag on the outside.
    slope = 0.030 * sad * t - 0.028 * au["AU4"] * (1 - au["AU1"]) * t
    shape = 1 - np.abs(t) ** 2.3
    upper = base - max(up, 0.015) * shape + slope * (1 - t**2)
    lower = base + max(low, 0.012) * (1 - t**2)
    return np.stack([x, np.minimum(upper, lower)], axis=1), np.stack([x, lower], axis=1)


def brow_line(person: Person, units: Units, side: int) -> np.ndarray:
    """(n, 2) middle line of a brow from its inner to its outer end."""
    au = units[side]
    sign = 2 * side - 1
    t = np.linspace(0, 1, 13)
    inner, outer = np.exp(-((t / 0.42) ** 2)), np.exp(-(((t - 0.72) / 0.36) ** 2))
    # Raised and lowered together (fear, sadness) the inner end goes up and together.
    lowered = au["AU4"] * (1 - 0.65 * min(1.0, au["AU1"]))
    x = person.eye_x - 0.29 + 0.62 * t - (0.07 * au["AU4"] + 0.02 * au["AU9"]) * inner
    y = (
        -person.brow_height
        - person.brow_arch * np.sin(np.pi * t**1.3)
        + person.brow_slant * (2 * t - 1)
        + 0.10 * t**3
        - 0.19 * au["AU1"] * inner
        - 0.18 * au["AU2"] * outer
        + lowered * (0.06 + 0.13 * inner)
        + 0.06 * au["AU9"] * inner
        + 0.02 * au["AU6"]
    )
    return np.stack([sign * x, np.minimum(y, -0.13)], axis=1)


# A fold of the skin: a few (x, y) to run through, width in head units, strength 0..1.
_Fold = tuple[Sequence[tuple[float, float]], float, float]


def skin_folds(person: Person, units: Units) -> Iterator[_Fold]:
    """Yields all folds of a face, the absent ones with a strength of about 0."""
    mean = units.mean
    old = 0.35 * person.age**2
    raised = 0.5 * (mean["AU1"] + mean["AU2"])
    for i, y in enumerate((-0.52, -0.63, -0.74)):
        bend = 0.05 * mean["AU2"] - 0.06 * mean["AU1"] * mean["AU4"]
        points = [(-0.55, y + bend), (-0.2, y - 0.03), (0.2, y - 0.03), (0.55, y + bend)]
        yield points, 0.022, (old + 0.55 * raised) * (1, 0.9, 0.6)[i]
    for x in (-0.085, 0.085):
        frown = mean["AU4"] + 0.3 * mean["AU9"]
        yield [(1.1 * x, -0.36), (0.9 * x, -0.24), (1.1 * x, -0.12)], 0.03, 0.4 * old + 0.65 * frown
    for y in (-0.02, 0.06, 0.14):
        yield [(-0.13, y + 0.03), (0, y), (0.13, y + 0.03)], 0.025, 0.6 * mean["AU9"]
    y = person.chin - 0.28
    yield [(-0.16, y + 0.06), (0, y), (0.16, y + 0.06)], 0.035, 0.5 * mean["AU17"]
    for sign, au in ((-1, units.left), (1, units.right)):
        for points, width, strength in _side_folds(person, au, old):
            yield [(sign * x, y) for x, y in points], width, strength


def _side_folds(person: Person, au: Mapping[str, float], old: float) -> Iterator[_Fold]:
    """The folds of the right half of a face; `old` is the strength of age's marks."""
    mouth, corner = person.mouth_width, person.mouth_y - 0.15 * au["AU12"] + 0.1 * au["AU15"]
    bulge = 0.10 * au["AU12"] + 0.04 * au["AU10"]
    smile = 0.50 * au["AU12"] + 0.45 * au["AU10"] + 0.45 * au["AU9"] + 0.15 * au["AU20"]
    nasolabial = [
        (person.nose_width + 0.03, person.nose_y - 0.06 - 0.05 * au["AU9"]),
        (0.36 + bulge, person.nose_y + 0.12),
        (mouth + 0.09 + 1.1 * bulge, corner - 0.08),
        (mouth + 0.10 + 0.9 * bulge, corner + 0.10),
    ]
    yield nasolabial, 0.04, 0.08 + old + smile
    x = person.eye_x + 0.27
    for slope in (-0.10, 0.0, 0.11):  # crow's feet
        points = [(x, 0.02 + 0.3 * slope), (x + 0.10, 0.02 + slope), (x + 0.17, 0.03 + 1.9 * slope)]
        yield points, 0.018, 0.5 * old + 0.6 * au["AU6"]
    x, y = person.eye_x, 0.16 - 0.035 * max(au["AU6"], au["AU7"])
    tense = 0.35 * au["AU6"] + 0.35 * au["AU7"]
    yield [(x - 0.2, y - 0.06), (x, y), (x + 0.2, 0.08)], 0.03, 0.12 + 0.6 * old + tense
    x, y = mouth + 0.03, corner
    yield [(x, y + 0.05), (x + 0.05, y + 0.20)], 0.03, 0.5 * old + 0.5 * au["AU15"]
    points = [(x + 0.07, y - 0.07), (x + 0.09, y), (x + 0.06, y + 0.07)]
    yield points, 0.035, 0.7 * au["AU14"] + 0.2 * au["AU12"]
