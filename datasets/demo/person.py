"""What stays the same when a person changes expression: proportions, colors, hair, glasses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

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


@dataclass(frozen=True)
class Person:
    """One identity. Lengths in head units, colors (3,) in 0..255, shares in 0..1."""

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


def random_person(rng: np.random.Generator) -> Person:
    """A random identity; nothing in here may depend on the expression."""
    age = rng.beta(1.2, 1.8)
    style = rng.choice(HAIR_STYLES, p=(0.08, 0.26, 0.18, 0.12, 0.17, 0.10, 0.09))
    beard = "none" if "long" in style else rng.choice(
        ("none", "stubble", "full", "mustache", "goatee"), p=(0.60, 0.15, 0.12, 0.05, 0.08)
    )  # fmt: skip
    return Person(
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
        **_random_colors(rng, age),
        hair_style=str(style),
        hairline=rng.normal(-0.84, 0.06) - 0.12 * (age > 0.7) * rng.random(),
        beard=str(beard),
        beard_density=rng.uniform(0.5, 0.95),
        lashes=rng.uniform(0.6, 1.5),
        glasses=str(rng.choice(("none", "round", "square"), p=(0.85, 0.07, 0.08))),
    )  # fmt: skip


def _random_colors(rng: np.random.Generator, age: float) -> dict[str, np.ndarray]:
    """Random colors of skin, lips, hair and iris, (3,) each in 0..255."""
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
