"""Light on the painted face, and the camera that takes the picture."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

from .canvas import Canvas
from .geometry import FaceShape, jaw_drop
from .view import HEAD_CENTER, HEAD_UNIT, View, turned


def _bumps(face: FaceShape, light_x: float) -> np.ndarray:
    """(n, 5) soft light and dark spots of a face: x, y, two radii in head units, gain."""
    person, units, m = face.person, face.units, face.units.mean
    lip = face.mouth.lower_outer[:, 1].max()
    chin, nose = person.chin + jaw_drop(units), person.nose_y - 0.05 * m["AU9"]
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


def _shading(face: FaceShape, view: View, size: int) -> np.ndarray:
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
    if view.turn:
        cx = turned(np.stack([cx[:, 0], cy[:, 0]], axis=1), view.turn)[:, None]
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


def shaded(canvas: Canvas, face: FaceShape) -> np.ndarray:
    """(size, size, 3) float32 0..255: the canvas brought to size, with light and folds."""
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


def degraded(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
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
