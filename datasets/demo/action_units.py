"""Facial action units (FACS), and the expressions as combinations of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from common.errors import InputError

from ..rafdb import RAFDB

EXPRESSIONS = (*RAFDB.classes, "Contempt")
# What AffectNet and SFEW call some of them.
SYNONYMS = {"Happy": "Happiness", "Sad": "Sadness", "Angry": "Anger"}

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
# The share of faces with hardly any expression, which no one could name for sure.
FAINT_SHARE = 0.05


class Units(NamedTuple):
    """Intensities 0..1 of all action units: in the image's left and right half, and their mean."""

    left: dict[str, float]
    right: dict[str, float]
    mean: dict[str, float]

    @classmethod
    def of(cls, units: Mapping[str, np.ndarray]) -> Units:
        """From (2,) intensities of each unit; as plain numbers, which are quick to look up."""
        left = {name: float(value[0]) for name, value in units.items()}
        right = {name: float(value[1]) for name, value in units.items()}
        return cls(left, right, {name: (left[name] + right[name]) / 2 for name in units})


def random_units(expression: str, rng: np.random.Generator) -> Units:
    """Action units of an expression: a variant of it, its strength, asymmetry and twitches."""
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
    return Units.of({name: np.clip(value, 0, 1) for name, value in units.items()})


def given_units(action_units: Mapping[str, float | Sequence[float]]) -> Units:
    """All action units from those given (one intensity, or left and right); the others are 0.

    Raises InputError for an unknown unit or an intensity outside 0..1.
    """
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
    return Units.of(units)
