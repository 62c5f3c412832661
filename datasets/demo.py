"""Faces drawn by this project, so that anyone can train and evaluate without a licence.

A face is drawn from facial action units (FACS, intensities 0..1): `PROTOTYPES` lists the usual
combinations of each expression, and a random identity, view, light and camera do the rest. The
writers put such faces on disk in the exact layout of a real data set, so that the loaders, the
train scripts and the evaluation cannot tell the difference.

    python -m datasets.demo rafdb datasets/demo/raf-basic     # RAF-DB's layout, 3000 + 1000 faces
    python -m datasets.demo sheet faces.png                   # look at some

The drawings are a test bench for the code. Accuracies on them say nothing about real faces.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont
from tqdm import tqdm

from common.cli import Parser, call_main
from common.errors import InputError
from common.files import make_folder, write_json, write_text, write_whole

from .alignment import LANDMARKS
from .rafdb import IMAGE_FOLDER, LABEL_FILE, RAFDB, image_name

# Raise it whenever a change alters the drawn pixels: a folder drawn by another version is then
# recognised as such.
VERSION = 2

EXPRESSIONS = (*RAFDB.classes, "Contempt")

ACTION_UNITS = {
    "AU1": "inner brow raiser",
    "AU2": "outer brow raiser",
    "AU4": "brow lowerer",
    "AU5": "upper lid raiser",
    "AU6": "cheek raiser",
    "AU7": "lid tightener",
    "AU9": "nose wrinkler",
    "AU10": "upper lip raiser",
    "AU12": "lip corner puller",
    "AU14": "dimpler",
    "AU15": "lip corner depressor",
    "AU16": "lower lip depressor",
    "AU17": "chin raiser",
    "AU20": "lip stretcher",
    "AU23": "lip tightener",
    "AU24": "lip presser",
    "AU25": "lips part",
    "AU26": "jaw drop",
    "AU43": "lid droop",
}

# Usual action units of each expression with their typical intensity, after the prototypes of the
# FACS literature; a face picks one variant, so open and closed mouths occur in most classes.
PROTOTYPES: dict[str, tuple[dict[str, float], ...]] = {
    "Surprise": (
        {"AU1": 0.9, "AU2": 0.9, "AU5": 0.6, "AU25": 0.6, "AU26": 0.8},
        {"AU1": 0.8, "AU2": 0.8, "AU5": 0.5, "AU25": 0.5, "AU26": 0.5},
        {"AU1": 0.9, "AU2": 1.0, "AU5": 0.7},
        {"AU1": 0.4, "AU2": 0.4, "AU5": 0.8, "AU25": 0.6, "AU26": 1.0},
    ),
    "Fear": (
        {"AU1": 0.9, "AU2": 0.2, "AU4": 0.8, "AU5": 0.8, "AU20": 0.9, "AU25": 0.7},
        {"AU1": 0.9, "AU2": 0.3, "AU4": 0.8, "AU5": 0.9, "AU20": 0.8, "AU25": 0.7, "AU26": 0.5},
        {"AU1": 0.8, "AU4": 0.8, "AU5": 0.9, "AU7": 0.2, "AU20": 0.9, "AU16": 0.4, "AU25": 0.8},
    ),
    "Disgust": (
        {"AU4": 0.4, "AU7": 0.4, "AU9": 0.9, "AU10": 0.5, "AU17": 0.5},
        {"AU7": 0.3, "AU9": 0.5, "AU10": 0.9, "AU16": 0.3, "AU25": 0.7},
        {"AU4": 0.3, "AU9": 0.9, "AU10": 0.4, "AU15": 0.5, "AU17": 0.5},
        {"AU6": 0.4, "AU7": 0.5, "AU9": 0.9, "AU10": 0.9, "AU16": 0.6, "AU25": 0.8, "AU26": 0.4},
    ),
    "Happiness": (
        {"AU6": 0.6, "AU12": 0.9},
        {"AU6": 0.6, "AU12": 0.9, "AU25": 0.7},
        {"AU6": 0.9, "AU7": 0.3, "AU12": 1.0, "AU25": 0.9, "AU26": 0.5},
        {"AU6": 0.2, "AU12": 0.7},
        {"AU6": 0.4, "AU12": 0.8, "AU25": 0.6, "AU1": 0.2, "AU2": 0.2},
    ),
    "Sadness": (
        {"AU1": 0.9, "AU4": 0.5, "AU15": 0.8},
        {"AU1": 0.7, "AU4": 0.5, "AU15": 0.7, "AU17": 0.6},
        {"AU1": 0.6, "AU15": 0.7, "AU43": 0.4, "AU17": 0.2},
        {"AU1": 0.8, "AU4": 0.6, "AU6": 0.4, "AU15": 0.6, "AU20": 0.3, "AU25": 0.5, "AU43": 0.2},
    ),
    "Anger": (
        {"AU4": 0.9, "AU5": 0.4, "AU7": 0.6, "AU23": 0.7, "AU24": 0.6},
        {"AU4": 0.9, "AU7": 0.7, "AU17": 0.5, "AU24": 0.8},
        {"AU4": 1.0, "AU5": 0.5, "AU7": 0.5, "AU10": 0.4, "AU16": 0.5, "AU25": 0.9, "AU26": 0.5},
        {"AU4": 0.9, "AU5": 0.3, "AU7": 0.5, "AU20": 0.3, "AU16": 0.6, "AU23": 0.5, "AU25": 0.8},
    ),
    "Neutral": ({},),
    "Contempt": ({"AU12": 0.5, "AU14": 0.9}, {"AU12": 0.7, "AU14": 0.7, "AU2": 0.2}),
}

# From light to dark, as (r, g, b) in full light.
SKIN_TONES = np.array(
    [(255, 226, 204), (246, 206, 176), (232, 184, 146), (208, 153, 112), (172, 118, 80),
     (132, 88, 60), (98, 64, 45), (72, 48, 36)],
    dtype=float,
)  # fmt: skip
HAIR_COLORS = np.array(
    [(28, 22, 20), (58, 40, 28), (96, 64, 40), (140, 98, 58), (200, 164, 104), (150, 70, 36),
     (168, 166, 164), (226, 224, 220)],
    dtype=float,
)  # fmt: skip
IRIS_COLORS = np.array([(62, 40, 26), (92, 64, 36), (86, 104, 70), (82, 112, 140)], dtype=float)
HAIR_STYLES = ("bald", "short", "side", "fringe", "long", "long fringe", "curly")

# (6, 4) weights of four neighboring points at six places between the middle two.
CATMULL_ROM = (np.arange(6)[:, None] / 6) ** np.arange(4) @ np.array(
    [(0, 1, 0, 0), (-0.5, 0, 0.5, 0), (1, -2.5, 2, -0.5), (-0.5, 1.5, -1.5, 0.5)]
)

# The share of faces with hardly any expression, which no one could name for sure.
FAINT_SHARE = 0.05

# One head unit is the usual distance between the eyes; the head's origin lies midway between
# them, x to the right of the image and y down. This is a head unit's share of the image side.
HEAD_UNIT = 0.335
# The head point that is put on the image's center, so that forehead and chin both fit.
HEAD_CENTER = np.array([0.0, 0.33])


@dataclass(frozen=True)
class DrawnFace:
    """One drawn face and everything that is known to be true of it.

    Attributes:
        image: RGB, size x size pixels.
        landmarks: (5, 2) float64, pixels (x, y), (0, 0) being the corner of the first pixel: the
            pupils of the eyes at smaller and larger x, nose tip, left and right mouth corner.
        expression: the expression that was drawn, one of `EXPRESSIONS`.
        action_units: action unit -> intensity in the (left, right) half of the image; 0 left out.
        jpeg_quality: the quality to save this face with, 40..95.
    """

    image: Image.Image
    landmarks: np.ndarray
    expression: str
    action_units: dict[str, tuple[float, float]]
    jpeg_quality: int


class _Units(NamedTuple):
    """Intensities of all action units: in the image's left and right half, and their mean."""

    left: dict[str, float]
    right: dict[str, float]
    mean: dict[str, float]


@dataclass(frozen=True)
class _Person:
    """What stays the same when a person changes expression. Lengths in head units."""

    face_width: float
    jaw: float
    chin: float
    eye_x: float
    eye_size: float
    eye_tilt: float
    brow_height: float
    brow_thickness: float
    brow_arch: float
    brow_slant: float
    nose_width: float
    nose_y: float
    mouth_y: float
    mouth_width: float
    lip_upper: float
    lip_lower: float
    corner_rest: float
    age: float
    skin: np.ndarray
    lips: np.ndarray
    hair: np.ndarray
    iris: np.ndarray
    hair_style: str
    hairline: float
    beard: str
    beard_density: float
    lashes: float
    glasses: str


@dataclass(frozen=True)
class _View:
    """Where camera and light stand. yaw and pitch are shifts per head unit of depth."""

    yaw: float
    pitch: float
    roll: float
    zoom: float
    shift: np.ndarray
    gaze: np.ndarray
    light: np.ndarray
    ambient: float


# --------------------------------------------------------------------------------------------
# Random draws


def _draw_person(rng: np.random.Generator) -> _Person:
    """Draws an identity; nothing in here may depend on the expression."""
    age = rng.beta(1.2, 1.8)
    style = rng.choice(HAIR_STYLES, p=(0.08, 0.26, 0.18, 0.12, 0.17, 0.10, 0.09))
    beard = "none" if "long" in style else rng.choice(
        ("none", "stubble", "full", "mustache", "goatee"), p=(0.60, 0.15, 0.12, 0.05, 0.08)
    )  # fmt: skip
    return _Person(
        face_width=rng.normal(1.09, 0.045),
        jaw=rng.normal(0.86, 0.045),
        chin=rng.normal(1.64, 0.05),
        eye_x=rng.normal(0.5, 0.018),
        eye_size=rng.normal(1.0, 0.065),
        eye_tilt=rng.normal(0.02, 0.022),
        brow_height=rng.normal(0.33, 0.02),
        brow_thickness=rng.uniform(0.045, 0.11),
        brow_arch=rng.uniform(0.0, 0.09),
        brow_slant=rng.normal(0.0, 0.014),
        nose_width=rng.normal(0.21, 0.028),
        nose_y=rng.normal(0.62, 0.035),
        mouth_y=rng.normal(1.08, 0.035),
        mouth_width=rng.normal(0.40, 0.03),
        lip_upper=rng.uniform(0.05, 0.105),
        lip_lower=rng.uniform(0.075, 0.14),
        corner_rest=rng.normal(0.0, 0.011),
        age=age,
        **_draw_colors(rng, age),
        hair_style=str(style),
        hairline=rng.normal(-0.84, 0.06) - 0.12 * (age > 0.7) * rng.random(),
        beard=str(beard),
        beard_density=rng.uniform(0.5, 0.95),
        lashes=rng.uniform(0.6, 1.5),
        glasses=str(rng.choice(("none", "round", "square"), p=(0.85, 0.07, 0.08))),
    )  # fmt: skip


def _draw_colors(rng: np.random.Generator, age: float) -> dict[str, np.ndarray]:
    """Draws the colors of skin, lips, hair and iris, (3,) each in 0..255."""
    tone = rng.uniform(0, len(SKIN_TONES) - 1)
    index = np.arange(len(SKIN_TONES))
    skin = np.array([np.interp(tone, index, SKIN_TONES[:, c]) for c in range(3)])
    skin = np.clip(skin * rng.normal(1, 0.025, 3), 20, 255)
    lips = skin * (0.80, 0.62, 0.62) + (12, 6, 8)
    if rng.random() < 0.25:  # lipstick
        lips = 0.5 * lips + 0.5 * np.array((rng.uniform(130, 200), 40, rng.uniform(50, 90)))
    gray = rng.random() < (age - 0.55) * 1.6
    hair = HAIR_COLORS[rng.integers(6, 8) if gray else rng.choice(6, p=_hair_odds(tone))]
    iris = IRIS_COLORS[rng.choice(4, p=(0.55, 0.25, 0.1, 0.1)) if tone < 3.5 else 0]
    return {
        "skin": skin,
        "lips": lips,
        "hair": np.clip(hair * rng.normal(1, 0.08), 8, 245),
        "iris": iris,
    }


def _hair_odds(tone: float) -> np.ndarray:
    """(6,) odds of the natural hair colors for a skin tone index (0 light .. 7 dark)."""
    fair = max(0.0, 1 - tone / 3)  # fair hair is rare on dark skin
    odds = np.array([1.0, 1.0, 0.5 + fair, 0.15 + fair, 1.1 * fair, 0.4 * fair])
    return odds / odds.sum()


def _draw_view(rng: np.random.Generator, zoom: float) -> _View:
    """Draws pose, framing and light."""
    angle = rng.uniform(-np.pi, 0)  # the light comes from above
    slant = rng.uniform(0.15, 0.85)
    light = np.array([slant * np.cos(angle), 0.7 * slant * np.sin(angle), 1.0])
    return _View(
        yaw=float(np.clip(rng.normal(0, 0.075), -0.2, 0.2)),
        pitch=float(np.clip(rng.normal(0, 0.04), -0.1, 0.1)),
        roll=np.deg2rad(np.clip(rng.normal(0, 3.0), -9, 9)),
        zoom=zoom * rng.normal(1.0, 0.035),
        shift=rng.normal(0, 0.013, 2),
        gaze=np.clip(rng.normal(0, (0.022, 0.008)), -0.05, 0.05),
        light=light / np.linalg.norm(light),
        ambient=rng.uniform(0.45, 0.75),
    )


def _draw_units(expression: str, rng: np.random.Generator) -> _Units:
    """Draws action units: a variant of the expression, its strength, asymmetry and twitches."""
    variants = PROTOTYPES[expression]
    variant = variants[rng.integers(len(variants))]
    # Mostly clear expressions, and a few so faint that people would call them neutral: without
    # those the classes would not overlap as those of real faces do.
    faint = rng.random() < FAINT_SHARE
    strength = rng.uniform(0.05, 0.3) if faint else 0.65 + 0.50 * rng.beta(2.2, 1.3)
    units = {name: np.zeros(2) for name in ACTION_UNITS}
    for name, typical in variant.items():
        units[name] += typical * strength * rng.uniform(0.7, 1.25)
    for name in ACTION_UNITS:
        if rng.random() < 0.08:
            units[name] += rng.uniform(0.05, 0.22)
        units[name] *= rng.normal(1, 0.08, 2)
    if expression == "Contempt":  # the one expression that is one-sided
        idle = rng.integers(2)
        for name in ("AU12", "AU14"):
            units[name][idle] *= 0.08
    return _split_units({name: np.clip(value, 0, 1) for name, value in units.items()})


def _split_units(units: Mapping[str, np.ndarray]) -> _Units:
    """Action unit -> (2,) intensities, as plain numbers: they are looked up all the time."""
    left = {name: float(value[0]) for name, value in units.items()}
    right = {name: float(value[1]) for name, value in units.items()}
    return _Units(left, right, {name: (left[name] + right[name]) / 2 for name in units})


def _given_units(action_units: Mapping[str, float | Sequence[float]]) -> _Units:
    """Full table of action units from the caller's."""
    unknown = sorted(set(action_units) - set(ACTION_UNITS))
    if unknown:
        raise InputError(f"unknown action units {unknown}; known: {', '.join(ACTION_UNITS)}")
    units = {
        name: np.broadcast_to(np.asarray(action_units.get(name, 0.0), dtype=float), (2,))
        for name in ACTION_UNITS
    }
    for name, value in units.items():
        if not ((value >= 0) & (value <= 1)).all():
            raise InputError(f"{name} has the intensity {value.tolist()}; expected 0..1")
    return _split_units(units)


# --------------------------------------------------------------------------------------------
# Geometry: head units in, head units out


def _smooth(points: Sequence, closed: bool = False) -> np.ndarray:
    """(n, 2) points -> (m, 2) points of the Catmull-Rom curve through them, six a piece."""
    p = np.asarray(points, dtype=float)
    if closed:
        p = np.concatenate([p[-1:], p, p[:2]])
    else:
        p = np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
    pieces = np.stack([p[:-3], p[1:-2], p[2:-1], p[3:]], axis=1)
    curve = (CATMULL_ROM @ pieces).reshape(-1, 2)
    return curve if closed else np.concatenate([curve, p[-2:-1]])


def _mirror(points: Sequence) -> np.ndarray:
    """Points of the right half, top to bottom -> the closed outline, clockwise from the top."""
    right = np.asarray(points, dtype=float)
    return np.concatenate([right, (right * (-1, 1))[::-1]])


def _jaw_drop(units: _Units) -> float:
    """How far the chin is lowered by the jaw, in head units."""
    return 0.20 * units.mean["AU26"]


def _face_outline(person: _Person, units: _Units) -> np.ndarray:
    """(n, 2) outline of the face without ears and hair."""
    drop, w = _jaw_drop(units), person.face_width
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
    return _smooth(_mirror(half), closed=True)


def _mouth_corner(person: _Person, au: Mapping[str, float]) -> tuple[float, float]:
    """Distance of a mouth corner from the middle, and how far it lies below the mouth's center."""
    width = person.mouth_width * (
        1 + 0.26 * au["AU12"] + 0.32 * au["AU20"] + 0.07 * au["AU14"]
        - 0.16 * au["AU23"] - 0.18 * au["AU26"]
    )  # fmt: skip
    height = person.corner_rest - 0.19 * au["AU12"] + 0.16 * au["AU15"] + 0.05 * au["AU20"]
    return width, height - 0.02 * au["AU14"]


def _mouth(person: _Person, units: _Units) -> dict[str, np.ndarray]:
    """Four (n, 2) curves from the left to the right corner: the outer and inner lip contours."""
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
    bent = (corner[side] + 0.25 * _jaw_drop(units)) * arch
    line = person.mouth_y + 0.02 * mean["AU12"] + bent - raised
    gap_up = opened * (0.025 + 0.6 * sneer + 0.05 * mean["AU12"])
    gap_low = 0.075 * mean["AU25"] + 0.34 * mean["AU26"] + 0.10 * mean["AU16"] * opened
    bow = (1 - np.abs(t) ** 2.2) ** 0.8 * (1 - 0.25 * np.exp(-((t / 0.14) ** 2)))
    thin = (1 - 0.65 * press) * (1 - 0.28 * mean["AU12"])
    upper = person.lip_upper * thin * (1 - 0.25 * mean["AU20"]) * bow
    pout = 0.025 * mean["AU17"] + 0.02 * mean["AU16"]
    lower = (person.lip_lower * thin + pout) * (1 - t**2) ** 0.75
    upper_inner, lower_inner = line - gap_up * dome, line + gap_low * dome
    curves = {
        "upper_outer": upper_inner - upper,
        "upper_inner": upper_inner,
        "lower_inner": lower_inner,
        "lower_outer": lower_inner + lower,
    }
    return {name: np.stack([x, y], axis=1) for name, y in curves.items()}


def _eye(person: _Person, units: _Units, side: int) -> tuple[np.ndarray, np.ndarray]:
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


def _brow(person: _Person, units: _Units, side: int) -> np.ndarray:
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


def _folds(person: _Person, units: _Units) -> Iterator[_Fold]:
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


def _side_folds(person: _Person, au: Mapping[str, float], old: float) -> Iterator[_Fold]:
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


# --------------------------------------------------------------------------------------------
# Painting


def _project(points: np.ndarray, view: _View, lift: float | np.ndarray = 0.0) -> np.ndarray:
    """(n, 2) head points -> (n, 2) shares of the image side, by pose and framing.

    The head is an ellipsoid and yaw and pitch move a point by its depth: the silhouette stays
    and the inner features shift. `lift` is height above the ellipsoid (the nose), in head units.
    """
    points = np.asarray(points, dtype=float)
    inside = 1 - (points[:, 0] / 1.15) ** 2 - ((points[:, 1] - 0.25) / 1.6) ** 2
    depth = np.sqrt(np.maximum(inside, 0)) + lift
    moved = points - HEAD_CENTER + depth[:, None] * (view.yaw, view.pitch)
    cos, sin = np.cos(view.roll), np.sin(view.roll)
    turned = moved @ np.array([[cos, sin], [-sin, cos]])
    return 0.5 + view.shift + HEAD_UNIT * view.zoom * turned


@dataclass(frozen=True)
class _Face:
    """One person making one expression, without view: outline (n, 2) and mouth in head units."""

    person: _Person
    units: _Units
    outline: np.ndarray
    mouth: dict[str, np.ndarray]


class _Canvas:
    """An oversized image that is drawn on in head units, and a second one for skin folds.

    Polygons are noted down and projected all at once: one by one, the many small array
    operations would take longer than the drawing. Call `flush` before using `image` or `pen`.
    """

    def __init__(self, size: int, view: _View, background: Image.Image) -> None:
        self.size, self.view = size, view
        self.shrink = max(2, -(-190 // size))  # whole, so that shrinking is a plain average
        self.side = size * self.shrink
        self.image = background.resize((self.side, self.side), Image.Resampling.BILINEAR)
        self.pen = ImageDraw.Draw(self.image)
        self.folds = Image.new("L", (2 * size, 2 * size))
        self.pending: list[tuple[np.ndarray, Sequence[float], float]] = []

    def fill(self, points: np.ndarray, color: Sequence[float], lift: float = 0.0) -> None:
        """Fills a polygon."""
        self.pending.append((points, color, lift))

    def flush(self) -> None:
        """Draws what was noted down."""
        if not self.pending:
            return
        polygons, colors, lifts = zip(*self.pending, strict=True)
        self.pending.clear()
        fills = np.clip(colors, 0, 255).astype(int).tolist()
        self._draw(self.pen, polygons, [tuple(fill) for fill in fills], lifts)

    def _draw(self, pen: ImageDraw.ImageDraw, polygons, fills, lifts) -> None:
        lengths = [len(points) for points in polygons]
        lift = np.repeat(lifts, lengths)
        shares = _project(np.concatenate(polygons), self.view, lift)
        # Pillow counts from the center of the first pixel, the projection from its corner.
        flat = (shares * pen.im.size[0] - 0.5).ravel().tolist()
        end = 0
        for length, fill in zip(lengths, fills, strict=True):
            start, end = end, end + 2 * length
            pen.polygon(flat[start:end], fill=fill)

    def stroke(
        self, points: np.ndarray, width: float | np.ndarray, color: Sequence[float], lift: float = 0
    ) -> None:
        """Draws a line; its width is one number or one per point, in head units."""
        self.fill(_ribbon(points, width), color, lift)

    def fold(self, ribbons: Sequence[np.ndarray], strengths: Sequence[float]) -> None:
        """Draws folds on the second image; at strength 1 one halves the brightness."""
        fills = [int(255 * min(strength, 1.0)) for strength in strengths]
        self._draw(ImageDraw.Draw(self.folds), ribbons, fills, np.zeros(len(fills)))

    def mask(self, polygons: Sequence[np.ndarray], soft: float) -> Image.Image:
        """Mode L image of the final size, 255 in the polygons, blurred by `soft` head units."""
        mask = Image.new("L", (self.size, self.size))
        self._draw(ImageDraw.Draw(mask), polygons, [255] * len(polygons), np.zeros(len(polygons)))
        return mask.filter(ImageFilter.BoxBlur(soft * HEAD_UNIT * self.view.zoom * self.size))


def _ribbon(points: np.ndarray, width: float | np.ndarray) -> np.ndarray:
    """(n, 2) line -> (2n, 2) polygon around it; width is full, one number or one per point."""
    along = np.empty_like(points)
    along[1:-1] = points[2:] - points[:-2]
    along[0], along[-1] = points[1] - points[0], points[-1] - points[-2]
    half = 0.5 * width / np.maximum(np.hypot(along[:, 0], along[:, 1]), 1e-9)
    offset = along[:, ::-1] * half[:, None] * (-1, 1)
    return np.concatenate([points + offset, (points - offset)[::-1]])


def _background(rng: np.random.Generator) -> Image.Image:
    """A small RGB image: plain, a gradient or blurry blobs."""
    side = 24
    base, other = rng.uniform(20, 240, (2, 3))
    vivid = rng.choice((0.2, 0.4, 1.0), p=(0.4, 0.45, 0.15))  # few walls are brightly colored
    base, other = (vivid * c + (1 - vivid) * c.mean() for c in (base, other))
    kind = rng.choice(("plain", "gradient", "blobs"), p=(0.2, 0.3, 0.5))
    y, x = np.mgrid[0:side, 0:side] / (side - 1)
    pixels = np.broadcast_to(base, (side, side, 3)).copy()
    if kind == "gradient":
        angle = rng.uniform(0, 2 * np.pi)
        ramp = np.clip(0.5 + np.cos(angle) * (x - 0.5) + np.sin(angle) * (y - 0.5), 0, 1)
        pixels += ramp[..., None] * (other - base)
    elif kind == "blobs":
        for _ in range(rng.integers(3, 9)):
            cx, cy, radius = rng.random(), rng.random(), rng.uniform(0.08, 0.4)
            weight = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / radius**2)[..., None]
            color = rng.uniform(10, 245, 3)
            color = vivid * color + (1 - vivid) * color.mean()
            pixels += weight * (color - pixels) * rng.uniform(0.3, 0.9)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _paint_head(canvas: _Canvas, face: _Face, rng: np.random.Generator) -> None:
    """Paints what lies behind the features: long hair, neck, clothes, ears, face."""
    person = face.person
    hair, skin = person.hair, person.skin
    if person.hair_style.startswith("long"):
        half = [(0, -1.62), (0.8, -1.42), (1.26, -0.6), (1.34, 0.5), (1.38, 1.5), (1.30, 3.0)]
        canvas.fill(_smooth(_mirror(half), closed=True), hair * 0.75)
    neck = [(-0.62, 0.9), (0.62, 0.9), (0.66, 2.1), (1.0, 2.6), (-1.0, 2.6), (-0.66, 2.1)]
    canvas.fill(np.array(neck), skin * 0.72)
    cloth = [(0, 2.45), (0.75, 2.05), (2.2, 2.5), (2.4, 4.5)]
    canvas.fill(_mirror(cloth), rng.uniform(20, 220, 3))
    for sign in (-1, 1):
        ear = np.array([(0.95, -0.2), (1.12, -0.25), (1.18, 0.0), (1.12, 0.35), (0.98, 0.5)])
        ear = _smooth(ear * (sign * person.face_width / 1.04, 1), closed=True)
        canvas.fill(ear, skin * 0.86)
    canvas.fill(face.outline, skin)


def _paint_eye(canvas: _Canvas, face: _Face, side: int) -> np.ndarray:
    """Paints an eye and its brow; returns the pupil, (2,) in head units."""
    person, au = face.person, face.units[side]
    upper, lower = _eye(person, face.units, side)
    sign = 2 * side - 1
    lid = np.concatenate([upper, lower[::-1]])
    canvas.fill(lid, np.array((232, 226, 222)) * 0.96)
    middle = upper[8, 1] * 0.45 + lower[8, 1] * 0.55
    rest = -0.02 * person.eye_size
    pupil = np.array((sign * person.eye_x, 0.6 * rest + 0.4 * middle)) + canvas.view.gaze
    order = np.argsort(upper[:, 0])
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    radius = 0.100 * np.sqrt(person.eye_size)
    for scale, color in ((1.0, person.iris * 0.6), (0.86, person.iris), (0.45, (12, 10, 10))):
        disc = pupil + circle * radius * scale
        top = np.interp(disc[:, 0], upper[order, 0], upper[order, 1])
        bottom = np.interp(disc[:, 0], lower[order, 0], lower[order, 1])
        disc[:, 1] = np.clip(disc[:, 1], top, np.maximum(top, bottom))
        canvas.fill(disc, color)
    if lower[8, 1] - upper[8, 1] > 0.09:
        canvas.fill(pupil + (-0.03, -0.035) + circle[::3] * 0.02, (245, 245, 245))
    shadow = upper + np.array((0, 0.016))
    canvas.stroke(shadow, 0.03, np.array((150, 135, 128)) * 0.8)
    thick = 0.026 * person.lashes * np.linspace(0.7, 1.3, len(upper))
    canvas.stroke(upper, thick, person.skin * 0.18 + (8, 6, 6))
    canvas.stroke(lower, 0.014, person.skin * 0.55)
    gap = 0.065 - 0.035 * au["AU5"] - 0.02 * au["AU4"]
    canvas.stroke(upper[1:] - (0, max(gap, 0.02)), 0.018, person.skin * 0.70)
    _paint_brow(canvas, face, side)
    return pupil


def _paint_brow(canvas: _Canvas, face: _Face, side: int) -> None:
    """Paints a brow: thick inside, thin outside, denser in the middle."""
    person = face.person
    brow = _brow(person, face.units, side)
    thick = person.brow_thickness * np.interp(
        np.linspace(0, 1, len(brow)), (0, 0.15, 0.6, 1), (0.6, 1.05, 0.95, 0.25)
    )
    hair = np.minimum(person.hair, 150) * 0.8
    density = np.interp(person.brow_thickness, (0.045, 0.11), (0.55, 0.85))
    canvas.stroke(brow, thick * 1.25, person.skin * (1 - 0.55 * density) + hair * 0.55 * density)
    canvas.stroke(brow, thick * 0.8, person.skin * (1 - density) + hair * density)


def _paint_nose(canvas: _Canvas, face: _Face) -> np.ndarray:
    """Paints nostrils and wings; returns the tip, (2,) in head units. Shading does the rest."""
    person, wrinkled = face.person, face.units.mean["AU9"]
    w, y = person.nose_width * (1 + 0.14 * wrinkled), person.nose_y - 0.05 * wrinkled
    for sign in (-1, 1):
        wide = np.array((sign * w, 1))
        wing = np.array([(0.78, -0.09), (1.02, -0.02), (0.95, 0.08), (0.62, 0.09)]) * wide
        canvas.stroke(_smooth(wing + np.array((0, y))), 0.022, person.skin * 0.66, 0.15)
        hole = np.array([(0.22, 0.10), (0.45, 0.065), (0.68, 0.085), (0.45, 0.12)]) * wide
        canvas.fill(_smooth(hole + np.array((0, y)), closed=True), person.skin * 0.30, 0.15)
    base = [(-0.2 * w, y + 0.115), (0, y + 0.14), (0.2 * w, y + 0.115)]
    canvas.stroke(_smooth(base), 0.02, person.skin * 0.74, 0.15)
    return np.array((0.0, y))


def _paint_mouth(canvas: _Canvas, face: _Face) -> np.ndarray:
    """Paints lips, teeth and tongue; returns the left and right corner, (2, 2) in head units."""
    person, mean, mouth = face.person, face.units.mean, face.mouth
    outer_up, inner_up = mouth["upper_outer"], mouth["upper_inner"]
    inner_low, outer_low = mouth["lower_inner"], mouth["lower_outer"]
    gap = inner_low[:, 1] - inner_up[:, 1]
    canvas.fill(np.concatenate([outer_up, inner_up[::-1]]), person.lips * 0.88)
    canvas.fill(np.concatenate([inner_low, outer_low[::-1]]), person.lips)
    middle = inner_low[7:18] * (1, 0.6) + outer_low[7:18] * (0, 0.4)
    canvas.stroke(middle, 0.02, person.lips * 1.10 + 6)
    if gap.max() > 0.015:
        canvas.fill(np.concatenate([inner_up, inner_low[::-1]]), (52, 20, 20))
        teeth = np.array((232, 226, 212)) * 0.95
        shown = np.clip(0.3 + 0.6 * mean["AU12"] + 0.5 * mean["AU10"] + 0.4 * mean["AU20"], 0, 1)
        edge = inner_up + np.stack([np.zeros(25), np.minimum(gap * 0.95, 0.115 * shown)], axis=1)
        canvas.fill(np.concatenate([inner_up[2:-2], edge[-3:1:-1]]), teeth)
        if gap.max() > 0.2:
            tongue = inner_low - np.stack([np.zeros(25), gap * 0.28], axis=1)
            canvas.fill(np.concatenate([tongue[6:-6], inner_low[-7:5:-1]]), (150, 70, 72))
        low = np.clip(0.9 * mean["AU16"] + 0.4 * mean["AU20"] - 0.1, 0, 1)
        edge = inner_low - np.stack([np.zeros(25), np.minimum(gap * 0.4, 0.07 * low)], axis=1)
        canvas.fill(np.concatenate([edge[4:-4], inner_low[-5:3:-1]]), teeth * 0.92)
    canvas.stroke(inner_up, 0.018, person.lips * 0.42)
    canvas.stroke(inner_low, 0.012, person.lips * 0.55)
    return np.stack([inner_up[0], inner_up[-1]])


def _paint_beard(canvas: _Canvas, face: _Face) -> None:
    """Paints facial hair under the mouth's layer."""
    person, outline = face.person, face.outline
    if person.beard == "none":
        return
    lip, chin = face.mouth["upper_outer"], outline[:, 1].max()
    polygons = []
    if person.beard != "goatee":
        polygons.append(np.concatenate([lip[2:-2] - (0, 0.02), lip[-3:1:-1] - (0, 0.16)]))
    if person.beard in ("full", "stubble"):
        lower = outline[outline[:, 1] > -0.2]
        inner = [(1.0, -0.2), (0.93, 0.35), (0.80, 0.75), (0.56, 0.93), (0.44, person.mouth_y)]
        inner = _smooth([*inner, (0.25, person.mouth_y - 0.12)])
        polygons.append(np.concatenate([lower, inner * (-1, 1), inner[::-1]]))
    if person.beard == "goatee":
        low = face.mouth["lower_outer"][:, 1].max()
        half = [(0, low + 0.04), (0.22, low + 0.08), (0.28, chin - 0.1), (0.2, chin + 0.02)]
        polygons.append(_smooth(_mirror(half), closed=True))
    density = person.beard_density * (0.38 if person.beard == "stubble" else 1.0)
    mask = canvas.mask(polygons, soft=0.06).point([int(v * density) for v in range(256)])
    mask = ImageChops.multiply(mask, canvas.mask([outline], soft=0.02))
    mask = mask.resize(canvas.image.size, Image.Resampling.BILINEAR)
    canvas.flush()
    color = np.minimum(person.hair, 190) * 0.85
    canvas.image.paste(tuple(color.astype(int).tolist()), (0, 0), mask)


@cache
def _taper(count: int) -> np.ndarray:
    """(count,) widths of a line that is thick in the middle."""
    return np.sin(np.linspace(0.15, np.pi - 0.15, count))


def _paint_folds(canvas: _Canvas, face: _Face) -> None:
    """Paints the visible folds of the skin, tapered at both ends."""
    ribbons, strengths = [], []
    for points, width, strength in _folds(face.person, face.units):
        if strength > 0.04:
            line = _smooth(points)
            ribbons.append(_ribbon(line, width * _taper(len(line))))
            strengths.append(strength)
    canvas.fold(ribbons, strengths)


def _paint_hair(canvas: _Canvas, person: _Person, rng: np.random.Generator) -> None:
    """Paints the hair in front of the head, with lighter and darker strands."""
    style, top, w = person.hair_style, person.hairline, person.face_width
    if style == "bald":
        return
    volume = {"short": 0.12, "side": 0.2, "curly": 0.34}.get(style, 0.2)
    crown = [(0.0, -1.36 - volume), (0.62, -1.26 - volume), (0.98 * w, -0.85), (1.03 * w, -0.25)]
    outer = _smooth([(-x, y) for x, y in crown[:0:-1]] + crown)
    part = rng.choice((-1, 1))
    line = {
        "short": [(0.97, -0.15), (0.88, -0.5), (0.62, top), (0, top - 0.04)],
        "curly": [(0.97, -0.25), (0.86, -0.6), (0.55, top), (0, top + 0.02)],
        "long": [(1.0, 0.3), (0.84, -0.45), (0.45, top), (0, top - 0.14)],
        "side": [(0.98, -0.2), (0.86, -0.55), (0.5, top + 0.02), (0, top)],
    }.get(style, [(0.98, 0.1), (0.86, -0.42), (0.5, -0.50), (0, -0.52)])
    right = np.array(line)
    right[:, 0] *= w
    inner = np.concatenate([right, (right * (-1, 1))[-2::-1]])
    if style == "side":
        inner[:, 1] += 0.12 * part * inner[:, 0]
    inner = _smooth(inner)
    if style == "curly":
        inner = inner + rng.normal(0, 0.025, inner.shape)
        outer = outer + rng.normal(0, 0.035, outer.shape)
    whole = np.concatenate([outer, inner])
    canvas.fill(whole, person.hair)
    canvas.fold([whole], [0.0])  # none on the hair
    _paint_strands(canvas, person, outer, inner[::-1], rng)


def _paint_strands(
    canvas: _Canvas,
    person: _Person,
    outer: np.ndarray,
    inner: np.ndarray,
    rng: np.random.Generator,
) -> None:
    """Paints strands from the hair's outer edge to the hairline."""
    count = 26
    share = rng.uniform(0.03, 0.97, count)
    start = outer[(share * (len(outer) - 1)).astype(int)]
    share = np.clip(share + rng.normal(0, 0.05, count), 0, 1)
    end = inner[(share * (len(inner) - 1)).astype(int)]
    bend = (start + end) / 2 + rng.normal(0, 0.04, (count, 2))
    lines = np.stack([start, bend, end], axis=1).reshape(-1, 2)
    lines = (_project(lines, canvas.view) * canvas.side).reshape(count, 6).tolist()
    canvas.flush()
    width = max(1, round(0.03 * HEAD_UNIT * canvas.view.zoom * canvas.side))
    tones = np.clip(person.hair * rng.uniform(0.75, 1.22, (count, 1)) + 3, 0, 255).astype(int)
    for line, tone in zip(lines, tones.tolist(), strict=True):
        canvas.pen.line(line, fill=tuple(tone), width=width)


def _paint_glasses(canvas: _Canvas, person: _Person, rng: np.random.Generator) -> None:
    """Paints spectacles."""
    if person.glasses == "none":
        return
    angle = np.linspace(0, 2 * np.pi, 33)
    power = 1.0 if person.glasses == "round" else 0.55
    shape = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    shape = np.sign(shape) * np.abs(shape) ** power * rng.uniform((0.32, 0.24), (0.38, 0.31))
    color = rng.choice([(24, 22, 24), (70, 44, 28), (120, 118, 120)])
    width = rng.uniform(0.022, 0.05)
    for sign in (-1, 1):
        canvas.stroke(shape + np.array((sign * 0.51, 0.05)), width, color, 0.05)
        temple = [(sign * 0.86, -0.02), (sign * person.face_width, -0.03)]
        canvas.stroke(np.array(temple), width, color)
    canvas.stroke(_smooth([(-0.17, 0.02), (0, -0.02), (0.17, 0.02)]), width, color, 0.2)


# --------------------------------------------------------------------------------------------
# Light and camera


def _bumps(face: _Face, light_x: float) -> np.ndarray:
    """(n, 5) soft light and dark spots of a face: x, y, two radii in head units, gain."""
    person, units, m = face.person, face.units, face.units.mean
    lip = face.mouth["lower_outer"][:, 1].max()
    chin, nose = person.chin + _jaw_drop(units), person.nose_y - 0.05 * m["AU9"]
    rows = [
        (0, 0.28, 0.055, 0.28, 0.10),
        (0, nose - 0.02, 0.09, 0.08, 0.13),
        (0, nose + 0.15, 0.20, 0.05, -0.16),
        (0, nose + 0.27, 0.045, 0.08, -0.06),
        (0, lip + 0.06, 0.22, 0.05, -0.16 - 0.12 * m["AU17"]),
        (0, chin - 0.16, 0.17, 0.11, 0.06 + 0.08 * m["AU17"]),
        (0, -0.62, 0.45, 0.22, 0.07),
        (0, 0.03, 0.12, 0.07, -0.06 - 0.18 * m["AU9"]),
        (0, -0.24, 0.09, 0.12, -0.16 * m["AU4"]),
        (0, -0.16, 0.40, 0.09, -0.10 * m["AU4"]),
    ]
    for sign, au in ((-1, units.left), (1, units.right)):
        away = -sign * light_x  # positive on the side that the light does not reach
        mouth, corner = sign * person.mouth_width, person.mouth_y
        apple = 0.05 + 0.13 * max(au["AU12"], au["AU6"])
        rows += [
            (sign * person.eye_x, -0.15, 0.28, 0.10, -0.13 - 0.06 * au["AU4"] + 0.05 * au["AU2"]),
            (sign * 0.15, 0.10, 0.07, 0.16, -0.12 - 0.2 * away),
            (sign * (person.nose_width + 0.04), nose + 0.03, 0.05, 0.09, -0.12 - 0.12 * away),
            (sign * 0.54, 0.47 - 0.10 * au["AU12"] - 0.05 * au["AU6"], 0.20, 0.14, apple),
            (sign * 0.72, 0.95, 0.20, 0.28, -0.10),
            (sign * person.eye_x, 0.18, 0.20, 0.04, -0.06 - 0.10 * person.age - 0.06 * au["AU7"]),
            (sign * 1.0, -0.45, 0.16, 0.35, -0.10),
            (1.25 * mouth, corner - 0.13 * au["AU12"], 0.06, 0.08, -0.14 * au["AU12"]),
            (1.25 * mouth, corner - 0.02, 0.05, 0.07, -0.30 * au["AU14"]),
            (1.05 * mouth, corner + 0.2, 0.08, 0.07, -0.05 - 0.10 * au["AU15"]),
            (sign * 0.30, nose + 0.10, 0.07, 0.12, -0.10 * au["AU10"] - 0.10 * au["AU9"]),
        ]
    return np.array(rows)


def _shading(face: _Face, view: _View, size: int) -> np.ndarray:
    """(size, size) float32 factor of the skin's color: an ellipsoid in the light, with bumps."""
    unit = HEAD_UNIT * view.zoom
    # Worked out upright on a coarse grid, where bumps are products of a row and a column, and
    # then turned; 0.65 of the image's side reaches beyond its turned corners.
    cells, reach = 56, 0.65 / unit
    line = (np.arange(cells) + 0.5) * (2 * reach / cells) - reach
    x, y = line, line + HEAD_CENTER[1]
    nx, ny = x / 1.25, (y[:, None] - 0.25) / 1.85
    nz = np.sqrt(np.maximum(1 - nx**2 - ny**2, 0.05))
    lambert = np.maximum(nx * view.light[0] + ny * view.light[1] + nz * view.light[2], 0)
    shade = view.ambient + (1.12 - view.ambient) * lambert
    cx, cy, rx, ry, gain = _bumps(face, view.light[0]).T[..., None]
    # The spots lie on the head, so they shift with it; at 0.9 of its depth on average.
    columns = np.exp(-(((x - cx - 0.9 * view.yaw) / rx) ** 2))
    rows = np.exp(-(((y - cy - 0.9 * view.pitch) / ry) ** 2))
    shade *= 1 + (rows * gain).T @ columns
    cos, sin = np.cos(view.roll), np.sin(view.roll)
    step = cells / (2 * reach * unit * size)  # cells per pixel of the image
    middle = size * (0.5 + view.shift)
    matrix = (
        step * cos, step * sin, cells / 2 - step * (cos * middle[0] + sin * middle[1]),
        -step * sin, step * cos, cells / 2 - step * (cos * middle[1] - sin * middle[0]),
    )  # fmt: skip
    image = Image.fromarray(shade.astype(np.float32))
    image = image.transform((size, size), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
    return np.asarray(image)


def _shaded(canvas: _Canvas, face: _Face) -> np.ndarray:
    """(size, size, 3) float32 0..255: the drawing brought to size, with light and folds."""
    pixels = np.asarray(canvas.image.reduce(canvas.shrink), dtype=np.float32)
    shade = _shading(face, canvas.view, canvas.size)
    # Ears, neck and clothes get some of the same light; so does hair.
    # The mask is a little too large: a soft edge inside the face would leave a bright rim.
    skin = canvas.mask([face.outline * 1.03 - (0, 0.006)], soft=0.03)
    weight = 0.25 + np.asarray(skin, np.float32) * (0.75 / 255)
    folds = canvas.folds.reduce(2).filter(ImageFilter.GaussianBlur(canvas.size / 130))
    factor = (1 + (shade - 1) * weight) * (1 - np.asarray(folds, np.float32) * (0.5 / 255)) - 1
    # Light that has passed through skin is red: shadows lose less of it.
    tint = np.array((0.92, 1.0, 1.06), dtype=np.float32)
    return np.clip(pixels * (1 + factor[..., None] * tint), 0, 255)


def _degraded(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A cheap camera: (size, size, 3) float32 0..255 in and out."""
    size = len(pixels)
    pixels = pixels * rng.normal(1, 0.035, 3).astype(np.float32)
    # Cameras expose half-way for the face: dark skin stays dark, but not drowned.
    middle = pixels[size // 4 : -size // 4, size // 4 : -size // 4].mean()
    gain = np.sqrt(rng.uniform(95, 150) / max(middle, 20.0))
    contrast = rng.uniform(0.75, 1.2)
    pixels = (pixels * np.float32(gain) - 118) * np.float32(contrast) + np.float32(118)
    if rng.random() < 0.12:
        pixels = np.repeat((pixels @ np.float32((0.299, 0.587, 0.114)))[..., None], 3, axis=2)
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    if rng.random() < 0.15:
        small = max(24, int(size * rng.uniform(0.45, 0.75)))
        image = image.resize((small, small), Image.Resampling.BILINEAR)
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    if rng.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 1.0) * size / 100))
    grain = np.float32(rng.gamma(1.5, 1.7))
    noise = rng.standard_normal((size, size, 3), dtype=np.float32)
    return np.clip(np.asarray(image, dtype=np.float32) + grain * noise, 0, 255)


# --------------------------------------------------------------------------------------------
# Public: one face


def draw_face(
    expression: str,
    rng: np.random.Generator,
    *,
    size: int = 100,
    zoom: float = 1.0,
    degrade: bool = True,
    action_units: Mapping[str, float | Sequence[float]] | None = None,
) -> DrawnFace:
    """Draws one face.

    Two generators in the same state give the same person, view and camera whatever the
    expression, so that expressions can be compared with everything else held fixed.

    Args:
        expression: one of `EXPRESSIONS`.
        rng: source of all that is random.
        size: side of the square image in pixels, from 32 up.
        zoom: how large the face is in the image; 1 fills it as in RAF-DB's aligned crops.
        degrade: apply color cast, contrast, blur, low resolution and noise. The JPEG quality is
            drawn but left to whoever saves the image.
        action_units: draw exactly these (one intensity, or left and right of the image) instead
            of random ones of the expression.

    Raises:
        InputError: unknown expression or action unit, an intensity outside 0..1, a size below 32
            pixels, or a zoom that is not positive.
    """
    if expression not in PROTOTYPES:
        raise InputError(f"unknown expression {expression!r}; known: {', '.join(EXPRESSIONS)}")
    if size < 32:
        raise InputError(f"size is {size} pixels; faces are drawn from 32 pixels up")
    if not zoom > 0:
        raise InputError(f"zoom is {zoom}; expected more than 0")
    # Separate streams, so that the number of draws for one thing cannot change another.
    who, how, look, paint, camera = map(np.random.default_rng, rng.integers(2**63, size=5))
    person, view = _draw_person(who), _draw_view(look, zoom)
    units = _draw_units(expression, how) if action_units is None else _given_units(action_units)
    face = _Face(person, units, _face_outline(person, units), _mouth(person, units))
    canvas = _Canvas(size, view, _background(paint))
    landmarks = _paint(canvas, face, paint)
    pixels = _shaded(canvas, face)
    if degrade:
        pixels = _degraded(pixels, camera)
    return DrawnFace(
        image=Image.fromarray(pixels.astype(np.uint8)),
        landmarks=landmarks * size,
        expression=expression,
        action_units={
            name: (units.left[name], units.right[name]) for name in ACTION_UNITS if units.mean[name]
        },
        jpeg_quality=int(look.integers(40, 96)),
    )


def _paint(canvas: _Canvas, face: _Face, rng: np.random.Generator) -> np.ndarray:
    """Paints everything, back to front; returns the (5, 2) landmarks in shares of the side."""
    person, view = face.person, canvas.view
    _paint_head(canvas, face, rng)
    _paint_beard(canvas, face)
    nose = _paint_nose(canvas, face)
    corners = _paint_mouth(canvas, face)
    pupils = np.stack([_paint_eye(canvas, face, side) for side in (0, 1)])
    _paint_folds(canvas, face)
    _paint_hair(canvas, person, rng)
    _paint_glasses(canvas, person, rng)
    canvas.flush()
    tip = _project(nose[None], view, 0.25)
    return np.concatenate([_project(pupils, view), tip, _project(corners, view)])


# --------------------------------------------------------------------------------------------
# Public: data sets


def write_rafdb(
    root: Path,
    *,
    train: int = 3000,
    test: int = 1000,
    seed: int = 0,
    workers: int | None = None,
) -> None:
    """Draws a data set in RAF-DB's layout, with RAF-DB's class frequencies.

    `root` plays the role of RAF-DB's `raf-basic`. It gets `Image/aligned/*_aligned.jpg` (100x100),
    `landmarks.csv` (the five landmarks of each image), `demo.json` (what was drawn) and, last,
    `EmoLabel/list_patition_label.txt`: while that file is missing the drawing is unfinished, and
    the same call starts it again. A finished drawing of the same settings is left as it is.

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
    root = Path(root)
    counts = {"train": train, "test": test}
    _check_numbers(seed, workers)
    labels = {split: _rafdb_labels(split, count, seed=seed) for split, count in counts.items()}
    label_file = root / LABEL_FILE
    about = {"drawn_by": "datasets.demo", "layout": "rafdb", "version": VERSION, "seed": seed}
    if _is_finished(root, {**about, **counts}, label_file):
        print(f"{root} already holds this drawing ({train} + {test} faces, seed {seed})")
        return
    make_folder(root / IMAGE_FOLDER)
    make_folder(label_file.parent)
    write_json(root / "demo.json", {**about, **counts})
    jobs = [
        (split, index, RAFDB.classes[label - 1])
        for split in counts
        for index, label in enumerate(labels[split], start=1)
    ]
    draw = partial(_write_rafdb_face, root, seed)
    rows = list(_in_processes(draw, jobs, workers=workers, label=f"drawing {root}"))
    _write_landmarks(root / "landmarks.csv", rows)
    lines = [
        f"{image_name(split, index)}.jpg {label}\n"
        for split in counts
        for index, label in enumerate(labels[split], start=1)
    ]
    write_text(label_file, "".join(lines))


def _check_numbers(seed: int, workers: int | None = None) -> None:
    if seed < 0:
        raise InputError(f"seed is {seed}; expected 0 or more")
    if workers is not None and workers < 1:
        raise InputError(f"workers is {workers}; expected 1 or more")


def _rafdb_labels(split: str, count: int, *, seed: int) -> np.ndarray:
    """(count,) labels 1..7 with RAF-DB's frequencies, in an order shuffled by the seed."""
    labels = np.repeat(np.arange(1, 8), _shares(RAFDB.published_counts[split][0], count))
    # The third number keeps this generator apart from those of the images, which count from 1.
    np.random.default_rng([seed, _split_number(split), 0]).shuffle(labels)
    return labels


def _split_number(split: str) -> int:
    return ("train", "test").index(split)


def _shares(weights: Sequence[int], count: int) -> np.ndarray:
    """Divides count in proportion to weights: largest remainders, at least one each."""
    if count < len(weights):
        least = len(weights)
        raise InputError(f"{count} images are too few for a split; expected at least {least}")
    exact = np.asarray(weights) * count / sum(weights)
    shares = np.floor(exact).astype(int)
    shares[np.argsort(shares - exact, kind="stable")[: count - shares.sum()]] += 1
    while (shares == 0).any():  # one for each empty class, taken from the largest
        shares[np.argmin(shares)] += 1
        shares[np.argmax(shares)] -= 1
    return shares


def _is_finished(root: Path, about: Mapping[str, object], last_file: Path) -> bool:
    """Whether root holds exactly this drawing; anything else but a part of it is an error."""
    if root.exists() and not root.is_dir():
        raise InputError(f"{root} is a file; give a new or empty folder")
    if not root.exists() or not any(root.iterdir()):
        return False
    try:
        found = json.loads((root / "demo.json").read_text())
    except (OSError, ValueError):
        found = None
    if found == dict(about):
        return last_file.exists()
    what = f"another drawing ({json.dumps(found)})" if found else "files that were not drawn here"
    raise InputError(f"{root} holds {what}; give a new or empty folder, or delete that one")


def _write_rafdb_face(root: Path, seed: int, job: tuple[str, int, str]) -> list:
    """Draws and saves one face; returns its row of landmarks.csv."""
    split, index, expression = job
    face = draw_face(expression, np.random.default_rng([seed, _split_number(split), index]))
    path = root / IMAGE_FOLDER / f"{image_name(split, index)}_aligned.jpg"
    face.image.save(path, quality=face.jpeg_quality)
    coordinates = [f"{value:.2f}" for value in face.landmarks.ravel()]
    return [f"{image_name(split, index)}.jpg", *coordinates]


def _write_landmarks(path: Path, rows: Sequence[Sequence]) -> None:
    """Writes image name and landmark coordinates (pixels), one image a row."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["image", *(f"{name}_{axis}" for name in LANDMARKS for axis in "xy")])
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _in_processes(function, jobs: Sequence, *, workers: int | None, label: str) -> Iterator:
    """Yields function(job) in order, computed by several processes, under a progress bar."""
    workers = min(workers or os.cpu_count() or 1, len(jobs))
    bar = partial(tqdm, total=len(jobs), desc=label, unit="face", disable=None)
    if workers == 1:
        yield from bar(map(function, jobs))
        return
    with ProcessPoolExecutor(workers) as pool:
        # The jobs go first: the pool must have started before the bar's own thread does.
        results = pool.map(function, jobs, chunksize=32)
        yield from bar(results)


def draw_sheet(*, per_class: int = 10, seed: int = 0, size: int = 100) -> Image.Image:
    """A contact sheet: a row of faces for each of `EXPRESSIONS`, with its name on the left."""
    if per_class < 1:
        raise InputError(f"{per_class} faces per class; expected 1 or more")
    _check_numbers(seed)
    margin = 80
    sheet = Image.new("RGB", (margin + per_class * size, len(EXPRESSIONS) * size), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    for row, expression in enumerate(EXPRESSIONS):
        pen.text((8, (row + 0.5) * size - 6), expression, fill="black", font=font)
        for column in range(per_class):
            rng = np.random.default_rng([seed, row, column])
            face = draw_face(expression, rng, size=size)
            sheet.paste(face.image, (margin + column * size, row * size))
    return sheet


# --------------------------------------------------------------------------------------------
# Command line


def _parser() -> Parser:
    """One sub-command per layout, and the contact sheet."""
    parser = Parser(
        "Draws faces with known expressions in the layouts of real data sets.",
        prog="python -m datasets.demo",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    defaults = argparse.ArgumentDefaultsHelpFormatter

    rafdb = commands.add_parser("rafdb", help="RAF-DB's layout", formatter_class=defaults)
    rafdb.add_argument("root", type=Path, metavar="DIR", help="new or empty folder (raf-basic)")
    rafdb.add_argument("--train", type=int, default=3000, help="training images")
    rafdb.add_argument("--test", type=int, default=1000, help="test images")
    rafdb.add_argument("--seed", type=int, default=0, help="seed of the data set")
    rafdb.add_argument("--workers", type=int, help="processes; None is one per core")
    rafdb.set_defaults(run=_run_rafdb)

    sheet = commands.add_parser("sheet", help="a contact sheet", formatter_class=defaults)
    sheet.add_argument("file", type=Path, metavar="OUT.png", help="picture to write")
    sheet.add_argument("--per-class", type=int, default=10, help="faces per expression")
    sheet.add_argument("--seed", type=int, default=0, help="seed of the sheet")
    sheet.add_argument("--size", type=int, default=100, help="side of a face in pixels")
    sheet.set_defaults(run=_run_sheet)

    from .demo_layouts import add_commands  # which draws with what is above

    add_commands(commands)
    return parser


def _run_rafdb(args: argparse.Namespace) -> None:
    counts = {"train": args.train, "test": args.test}
    write_rafdb(args.root, **counts, seed=args.seed, workers=args.workers)


def _run_sheet(args: argparse.Namespace) -> None:
    kind = Image.registered_extensions().get(args.file.suffix.lower())
    if kind not in Image.SAVE:
        raise InputError(f"{args.file} has no name of a picture; expected one such as faces.png")
    sheet = draw_sheet(per_class=args.per_class, seed=args.seed, size=args.size)
    write_whole(args.file, lambda stream: sheet.save(stream, kind))


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw as the command line says; raises InputError."""
    args = _parser().parse_args(arguments)
    args.run(args)


if __name__ == "__main__":
    call_main(main)
