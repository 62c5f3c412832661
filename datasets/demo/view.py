"""Where camera and light stand, and head units -> places in the image.

One head unit is the usual distance between the eyes; the head's origin lies midway between them,
x to the right of the image and y down.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# A head unit's share of the image side.
HEAD_UNIT = 0.335
# The head point that is put on the image's center, so that forehead and chin both fit.
HEAD_CENTER = np.array([0.0, 0.33])
# The head as an ellipsoid: half its width (and depth), half its height, the height of its middle.
HALF_WIDTH, HALF_HEIGHT, MIDDLE = 1.15, 1.6, 0.25
# Depth per lift where the head is turned: the tip of the nose then lies in front of eyes and mouth
# by half the distance between these.
LIFT_DEPTH = 1.5


@dataclass(frozen=True)
class View:
    """Pose, framing and light.

    yaw and pitch are small shifts per head unit of depth; roll and turn, a rotation about the
    vertical axis by up to 90 degrees, are in radians.
    """

    yaw: float
    pitch: float
    roll: float
    zoom: float
    shift: np.ndarray
    gaze: np.ndarray
    light: np.ndarray
    ambient: float
    turn: float = 0.0

    def degrees(self) -> float:
        """The yaw in degrees, -90 to 90; positive where the nose is at larger x."""
        return float(np.rad2deg(self.turn + np.arcsin(self.yaw / HALF_WIDTH)))


def random_view(rng: np.random.Generator, zoom: float) -> View:
    """A random view; `zoom` is how large the face is, 1 fills the image as RAF-DB's crops do."""
    angle = rng.uniform(-np.pi, 0)  # the light comes from above
    slant = rng.uniform(0.15, 0.85)
    light = np.array([slant * np.cos(angle), 0.7 * slant * np.sin(angle), 1.0])
    return View(
        yaw=float(np.clip(rng.normal(0, 0.075), -0.2, 0.2)),
        pitch=float(np.clip(rng.normal(0, 0.04), -0.1, 0.1)),
        roll=np.deg2rad(np.clip(rng.normal(0, 3.0), -9, 9)),
        zoom=zoom * rng.normal(1.0, 0.035),
        shift=rng.normal(0, 0.013, 2),
        gaze=np.clip(rng.normal(0, (0.022, 0.008)), -0.05, 0.05),
        light=light / np.linalg.norm(light),
        ambient=rng.uniform(0.45, 0.75),
    )


def project(points: np.ndarray, view: View, lift: float | np.ndarray = 0.0) -> np.ndarray:
    """(n, 2) head points -> (n, 2) shares of the image side, by pose and framing.

    The head is an ellipsoid and yaw and pitch move a point by its depth: the silhouette stays
    and the inner features shift. `lift` is height above the ellipsoid (the nose), in head units.
    """
    points = np.asarray(points, dtype=float)
    inside = 1 - (points[:, 0] / HALF_WIDTH) ** 2 - ((points[:, 1] - MIDDLE) / HALF_HEIGHT) ** 2
    depth = np.sqrt(np.maximum(inside, 0)) + lift
    if view.turn:
        points = np.stack([turned(points, view.turn, lift), points[:, 1]], axis=1)
    moved = points - HEAD_CENTER + depth[:, None] * (view.yaw, view.pitch)
    cos, sin = np.cos(view.roll), np.sin(view.roll)
    rolled = moved @ np.array([[cos, sin], [-sin, cos]])
    return 0.5 + view.shift + HEAD_UNIT * view.zoom * rolled


def turned(points: np.ndarray, turn: float, lift: float | np.ndarray = 0.0) -> np.ndarray:
    """x (n,) of head points (n, 2) after the head has turned by `turn` radians.

    On the ellipsoid, x -> x cos + depth sin; what the head hides lies on its edge. Points beside
    the ellipsoid (hair, shoulders) stay.
    """
    x, sign = points[:, 0] * np.sign(turn), np.sign(turn)
    square = 1 - ((points[:, 1] - MIDDLE) / HALF_HEIGHT) ** 2
    half = HALF_WIDTH * np.sqrt(np.maximum(square, 0))  # of the head's width at this height
    cos, sin = np.cos(turn), abs(np.sin(turn))
    seen = np.minimum(x, half * cos)
    depth = np.sqrt(np.maximum(half**2 - seen**2, 0)) + LIFT_DEPTH * np.asarray(lift)
    return sign * np.where(np.abs(x) < half, seen * cos + depth * sin, x)
