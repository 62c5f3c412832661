"""A face on a canvas, back to front: background, head, features, folds, hair, glasses."""

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image, ImageChops

from .canvas import Canvas
from .geometry import FaceShape, brow_line, eyelids, mirror, ribbon, skin_folds, smooth
from .person import Person
from .view import HALF_HEIGHT, HALF_WIDTH, HEAD_UNIT, MIDDLE, project

#: Height of the tip of the nose above the head's ellipsoid, in head units.
NOSE_LIFT = 0.25


def paint(canvas: Canvas, face: FaceShape, rng: np.random.Generator) -> np.ndarray:
    """Paint everything, back to front; returns the landmarks (5, 2) in shares of the side."""
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
    tip = project(nose[None], view, NOSE_LIFT)
    return np.concatenate([project(pupils, view), tip, project(corners, view)])


def background(rng: np.random.Generator) -> Image.Image:
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


def _paint_head(canvas: Canvas, face: FaceShape, rng: np.random.Generator) -> None:
    """Paint what lies behind the features: long hair, neck, clothes, ears, face."""
    person = face.person
    hair, skin = person.hair, person.skin
    if person.hair_style.startswith("long"):
        half = [(0, -1.62), (0.8, -1.42), (1.26, -0.6), (1.34, 0.5), (1.38, 1.5), (1.30, 3.0)]
        canvas.fill(smooth(mirror(half), closed=True), hair * 0.75)
    neck = [(-0.62, 0.9), (0.62, 0.9), (0.66, 2.1), (1.0, 2.6), (-1.0, 2.6), (-0.66, 2.1)]
    canvas.fill(np.array(neck), skin * 0.72)
    cloth = [(0, 2.45), (0.75, 2.05), (2.2, 2.5), (2.4, 4.5)]
    canvas.fill(mirror(cloth), rng.uniform(20, 220, 3))
    for sign in (-1, 1):
        ear = np.array([(0.95, -0.2), (1.12, -0.25), (1.18, 0.0), (1.12, 0.35), (0.98, 0.5)])
        ear = smooth(ear * (sign * person.face_width / 1.04, 1), closed=True)
        canvas.fill(ear, skin * 0.86)
    if canvas.view.turn:  # the back of the head
        angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        x, y = HALF_WIDTH * np.cos(angle), MIDDLE + HALF_HEIGHT * np.sin(angle)
        back = np.stack([1.001 * x, np.minimum(y, 0.9)], axis=1)
        canvas.fill(back, (skin if person.hair_style == "bald" else hair) * 0.8)
    canvas.fill(face.outline, skin)


def _paint_eye(canvas: Canvas, face: FaceShape, side: int) -> np.ndarray:
    """Paint an eye and its brow; returns the pupil, (2,) in head units."""
    person, au = face.person, face.units[side]
    upper, lower = eyelids(person, face.units, side)
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


def _paint_brow(canvas: Canvas, face: FaceShape, side: int) -> None:
    """Paint a brow: thick inside, thin outside, denser in the middle."""
    person = face.person
    brow = brow_line(person, face.units, side)
    thick = person.brow_thickness * np.interp(
        np.linspace(0, 1, len(brow)), (0, 0.15, 0.6, 1), (0.6, 1.05, 0.95, 0.25)
    )
    hair = np.minimum(person.hair, 150) * 0.8
    density = np.interp(person.brow_thickness, (0.045, 0.11), (0.55, 0.85))
    canvas.stroke(brow, thick * 1.25, person.skin * (1 - 0.55 * density) + hair * 0.55 * density)
    canvas.stroke(brow, thick * 0.8, person.skin * (1 - density) + hair * density)


def _paint_nose(canvas: Canvas, face: FaceShape) -> np.ndarray:
    """Paint nostrils and wings; returns the tip, (2,) in head units. Shading does the rest."""
    person, wrinkled = face.person, face.units.mean["AU9"]
    w, y = person.nose_width * (1 + 0.14 * wrinkled), person.nose_y - 0.05 * wrinkled
    if canvas.view.turn:  # its profile
        angle = np.linspace(0, 2 * np.pi, 16, endpoint=False)
        circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        for part in np.linspace(0.1, 1, 9):
            center, radius = (0, part * y), 0.05 + 0.07 * part
            canvas.fill(center + radius * circle, person.skin * 0.97, NOSE_LIFT * part)
    for sign in (-1, 1):
        wide = np.array((sign * w, 1))
        wing = np.array([(0.78, -0.09), (1.02, -0.02), (0.95, 0.08), (0.62, 0.09)]) * wide
        canvas.stroke(smooth(wing + np.array((0, y))), 0.022, person.skin * 0.66, 0.15)
        hole = np.array([(0.22, 0.10), (0.45, 0.065), (0.68, 0.085), (0.45, 0.12)]) * wide
        canvas.fill(smooth(hole + np.array((0, y)), closed=True), person.skin * 0.30, 0.15)
    base = [(-0.2 * w, y + 0.115), (0, y + 0.14), (0.2 * w, y + 0.115)]
    canvas.stroke(smooth(base), 0.02, person.skin * 0.74, 0.15)
    return np.array((0.0, y))


def _paint_mouth(canvas: Canvas, face: FaceShape) -> np.ndarray:
    """Paint lips, teeth and tongue; returns the left and right corner, (2, 2) in head units."""
    person, mean = face.person, face.units.mean
    outer_up, inner_up, inner_low, outer_low = face.mouth
    gap = inner_low[:, 1] - inner_up[:, 1]
    canvas.fill(np.concatenate([outer_up, inner_up[::-1]]), person.lips * 0.88)
    canvas.fill(np.concatenate([inner_low, outer_low[::-1]]), person.lips)
    middle = inner_low[7:18] * (1, 0.6) + outer_low[7:18] * (0, 0.4)
    canvas.stroke(middle, 0.02, person.lips * 1.10 + 6)
    if gap.max() > 0.015:
        canvas.fill(np.concatenate([inner_up, inner_low[::-1]]), (52, 20, 20))
        teeth = np.array((232, 226, 212)) * 0.95
        shown = np.clip(0.3 + 0.6 * mean["AU12"] + 0.5 * mean["AU10"] + 0.4 * mean["AU20"], 0, 1)
        edge = _moved_down(inner_up, np.minimum(gap * 0.95, 0.115 * shown))
        canvas.fill(np.concatenate([inner_up[2:-2], edge[-3:1:-1]]), teeth)
        if gap.max() > 0.2:
            tongue = _moved_down(inner_low, gap * -0.28)
            canvas.fill(np.concatenate([tongue[6:-6], inner_low[-7:5:-1]]), (150, 70, 72))
        low = np.clip(0.9 * mean["AU16"] + 0.4 * mean["AU20"] - 0.1, 0, 1)
        edge = _moved_down(inner_low, -np.minimum(gap * 0.4, 0.07 * low))
        canvas.fill(np.concatenate([edge[4:-4], inner_low[-5:3:-1]]), teeth * 0.92)
    canvas.stroke(inner_up, 0.018, person.lips * 0.42)
    canvas.stroke(inner_low, 0.012, person.lips * 0.55)
    return np.stack([inner_up[0], inner_up[-1]])


def _moved_down(line: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """A line (n, 2), each of its points lowered by (n,) head units."""
    return line + np.stack([np.zeros(len(line)), distance], axis=1)


def _paint_beard(canvas: Canvas, face: FaceShape) -> None:
    """Paint facial hair under the mouth's layer."""
    person, outline = face.person, face.outline
    if person.beard == "none":
        return
    lip, chin = face.mouth.upper_outer, outline[:, 1].max()
    polygons = []
    if person.beard != "goatee":
        polygons.append(np.concatenate([lip[2:-2] - (0, 0.02), lip[-3:1:-1] - (0, 0.16)]))
    if person.beard in ("full", "stubble"):
        lower = outline[outline[:, 1] > -0.2]
        inner = [(1.0, -0.2), (0.93, 0.35), (0.80, 0.75), (0.56, 0.93), (0.44, person.mouth_y)]
        inner = smooth([*inner, (0.25, person.mouth_y - 0.12)])
        polygons.append(np.concatenate([lower, inner * (-1, 1), inner[::-1]]))
    if person.beard == "goatee":
        low = face.mouth.lower_outer[:, 1].max()
        half = [(0, low + 0.04), (0.22, low + 0.08), (0.28, chin - 0.1), (0.2, chin + 0.02)]
        polygons.append(smooth(mirror(half), closed=True))
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


def _paint_folds(canvas: Canvas, face: FaceShape) -> None:
    """Paint the visible folds of the skin, tapered at both ends."""
    ribbons, strengths = [], []
    for points, width, strength in skin_folds(face.person, face.units):
        if strength > 0.04:
            line = smooth(points)
            ribbons.append(ribbon(line, width * _taper(len(line))))
            strengths.append(strength)
    canvas.fold(ribbons, strengths)


def _paint_hair(canvas: Canvas, person: Person, rng: np.random.Generator) -> None:
    """Paint the hair in front of the head, with lighter and darker strands."""
    style, top, w = person.hair_style, person.hairline, person.face_width
    if style == "bald":
        return
    volume = {"short": 0.12, "side": 0.2, "curly": 0.34}.get(style, 0.2)
    crown = [(0.0, -1.36 - volume), (0.62, -1.26 - volume), (0.98 * w, -0.85), (1.03 * w, -0.25)]
    outer = smooth([(-x, y) for x, y in crown[:0:-1]] + crown)
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
    inner = smooth(inner)
    if style == "curly":
        inner = inner + rng.normal(0, 0.025, inner.shape)
        outer = outer + rng.normal(0, 0.035, outer.shape)
    whole = np.concatenate([outer, inner])
    canvas.fill(whole, person.hair)
    canvas.fold([whole], [0.0])  # none on the hair
    _paint_strands(canvas, person, outer, inner[::-1], rng)


def _paint_strands(
    canvas: Canvas,
    person: Person,
    outer: np.ndarray,
    inner: np.ndarray,
    rng: np.random.Generator,
) -> None:
    """Paint strands from the hair's outer edge to the hairline."""
    count = 26
    share = rng.uniform(0.03, 0.97, count)
    start = outer[(share * (len(outer) - 1)).astype(int)]
    share = np.clip(share + rng.normal(0, 0.05, count), 0, 1)
    end = inner[(share * (len(inner) - 1)).astype(int)]
    bend = (start + end) / 2 + rng.normal(0, 0.04, (count, 2))
    lines = np.stack([start, bend, end], axis=1).reshape(-1, 2)
    lines = (project(lines, canvas.view) * canvas.side).reshape(count, 6).tolist()
    canvas.flush()
    width = max(1, round(0.03 * HEAD_UNIT * canvas.view.zoom * canvas.side))
    tones = np.clip(person.hair * rng.uniform(0.75, 1.22, (count, 1)) + 3, 0, 255).astype(int)
    for line, tone in zip(lines, tones.tolist(), strict=True):
        canvas.pen.line(line, fill=tuple(tone), width=width)


def _paint_glasses(canvas: Canvas, person: Person, rng: np.random.Generator) -> None:
    """Paint spectacles."""
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
    canvas.stroke(smooth([(-0.17, 0.02), (0, -0.02), (0.17, 0.02)]), width, color, 0.2)
