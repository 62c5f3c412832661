"""Corrupted test images: noise, blur, compression, light, weather, geometry, in five severities.

The kinds follow ImageNet-C (Hendrycks and Dietterich, ICLR 2019), the sizes do not: its lengths are
pixels of 224, and here a face has 48 pixels or 500. Lengths are fractions of the picture's shorter
side, and noise, drops and blocks belong to a grid of fixed size over the face that is resampled to
the picture, so that pictures of one face in two sizes are corrupted alike. What would change the
expression, such as a bent mouth, is left out. Everything random depends on the image's index and
the corruption, not on the severity: the same noise gets stronger.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter
from scipy.signal import fftconvolve
from torch import Tensor
from torch.nn import functional as F

from common.batch import Sample
from common.errors import InputError

SEVERITIES = range(1, 6)
GRID = 64  # cells of noise along the shorter side
JPEG_SIDE = 96  # pixels of the shorter side where JPEG's blocks of 8 are cut
LAYER_SIDE = 256  # pixels of the shorter side where drops are drawn
PATH = (np.arange(24) + 0.5) / 24  # where on its path a blurred picture is taken

Pixels = np.ndarray  # (H, W, C), 0 to 1, given as float32; C is 1 for grey pictures
Function = Callable[[Pixels, float, np.random.Generator], Pixels]


@dataclass(frozen=True)
class Corruption:
    """One kind, and its level at each severity."""

    family: str
    unit: str  # what a level is
    levels: tuple[float, float, float, float, float]
    function: Function


def corrupt(image: Image.Image, name: str, severity: int, *, seed: int) -> Image.Image:
    """An RGB image corrupted, of the same size; grey stays grey.

    name: a key of `CORRUPTIONS`; severity: 1 to 5; seed: the image's index in its data set.
    """
    pixels = np.asarray(image, dtype=np.float32) / 255
    grey = (pixels == pixels[..., :1]).all()
    kind = CORRUPTIONS[name]
    rng = np.random.default_rng((seed, zlib.crc32(name.encode())))
    made = kind.function(pixels[..., :1] if grey else pixels, kind.levels[severity - 1], rng)
    rounded = (made.clip(0, 1) * 255).round().astype(np.uint8)
    return Image.fromarray(np.broadcast_to(rounded, pixels.shape).copy())


def chosen_corruptions(words: Sequence[str]) -> list[str]:
    """The corruptions of these names and families; all without words. Raises InputError."""
    families = sorted({kind.family for kind in CORRUPTIONS.values()})
    unknown = [word for word in words if word not in (*CORRUPTIONS, *families)]
    if unknown:
        raise InputError(
            f"there is no corruption {unknown[0]!r}; expected of {', '.join(CORRUPTIONS)}, or of "
            f"the families {', '.join(families)}"
        )
    return [
        name
        for name, kind in CORRUPTIONS.items()
        if not words or name in words or kind.family in words
    ]


class CorruptedImages:
    """Images of a data set under each corruption, in each severity; all else is passed on to it.

    Item ((c * 5 + s) * N + i): image `indices[i]` of N under corruption c in severity s + 1.
    """

    def __init__(self, dataset: Any, indices: Sequence[int], names: Sequence[str]):
        self.dataset, self.indices, self.names = dataset, list(indices), list(names)
        self.labels = [dataset.labels[i] for i in self.indices] * len(names) * len(SEVERITIES)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["dataset"], name)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, item: int) -> Sample:
        turn, position = divmod(item, len(self.indices))
        kind, severity = divmod(turn, len(SEVERITIES))
        index = self.indices[position]
        image = self.dataset.read_image(index)
        corrupted = corrupt(image, self.names[kind], SEVERITIES[severity], seed=index)
        return self.dataset.sample(index, corrupted)


# --------------------------------------------------------------------------------------------
# Sizes


def _grid_size(pixels: Pixels, side: int) -> tuple[int, int]:
    """Height and width of the picture with `side` as the shorter one."""
    height, width = pixels.shape[:2]
    scale = side / min(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _resized(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Bilinear; reduced without aliasing."""
    if pixels.shape[:2] == size:
        return pixels
    planes = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    planes = F.interpolate(planes, size, mode="bilinear", align_corners=False, antialias=True)
    return planes[0].permute(1, 2, 0).numpy()


def _on_grid(pixels: Pixels, side: int, change: Callable[[Pixels], Pixels]) -> Pixels:
    """The picture with what `change` does to it where its shorter side is `side`.

    What changes is resampled, not the picture, so that a larger one stays sharp.
    """
    small = _resized(pixels, _grid_size(pixels, side))
    return pixels + _resized((change(small) - small).astype(np.float32), pixels.shape[:2])


# --------------------------------------------------------------------------------------------
# Noise


def _gaussian_noise(pixels: Pixels, deviation: float, rng: np.random.Generator) -> Pixels:
    return _on_grid(pixels, GRID, lambda cells: cells + deviation * _normal(rng, cells))


def _shot_noise(pixels: Pixels, photons: float, rng: np.random.Generator) -> Pixels:
    """Poisson noise, by its normal approximation: the same draw at every severity."""
    return _on_grid(
        pixels,
        GRID,
        lambda cells: cells + np.sqrt(cells.clip(0) / photons) * _normal(rng, cells),
    )


def _impulse_noise(pixels: Pixels, share: float, rng: np.random.Generator) -> Pixels:
    def change(cells: Pixels) -> Pixels:
        order = rng.random((*cells.shape[:2], 1))
        black_or_white = rng.integers(0, 2, order.shape)
        return np.where(order < share, black_or_white, cells)

    return _on_grid(pixels, GRID, change)


def _normal(rng: np.random.Generator, cells: Pixels) -> Pixels:
    return rng.standard_normal(cells.shape, dtype=np.float32)


# --------------------------------------------------------------------------------------------
# Blur


def _defocus(pixels: Pixels, radius: float, _rng: np.random.Generator) -> Pixels:
    """The mean over a disc; its edge pixels count by how much of them it covers."""
    radius *= min(pixels.shape[:2])
    reach = int(np.ceil(radius))
    fine = (np.arange((2 * reach + 1) * 8) + 0.5) / 8 - reach - 0.5
    inside = np.hypot(fine[:, None], fine) <= max(radius, 0.5)
    disc = inside.reshape(2 * reach + 1, 8, 2 * reach + 1, 8).mean(axis=(1, 3))
    padded = np.pad(pixels, ((reach, reach), (reach, reach), (0, 0)), mode="symmetric")
    return fftconvolve(padded, (disc / disc.sum())[..., None], mode="valid", axes=(0, 1))


def _motion_blur(pixels: Pixels, length: float, rng: np.random.Generator) -> Pixels:
    angle = rng.uniform(0, np.pi)
    ways = length * (PATH - 0.5)
    return np.mean([_moved(pixels, shift=(w * np.cos(angle), w * np.sin(angle))) for w in ways], 0)


def _zoom_blur(pixels: Pixels, most: float, _rng: np.random.Generator) -> Pixels:
    return np.mean([_moved(pixels, scale=s) for s in 1 + most * PATH], 0)


# --------------------------------------------------------------------------------------------
# Compression


def _jpeg(pixels: Pixels, quality: float, _rng: np.random.Generator) -> Pixels:
    def change(small: Pixels) -> Pixels:
        image = Image.fromarray((small * 255).round().astype(np.uint8).squeeze())
        buffer = io.BytesIO()
        image.save(buffer, format="JPEG", quality=round(quality))
        decoded = np.asarray(Image.open(buffer), dtype=np.float32) / 255
        return decoded.reshape(small.shape)

    return _on_grid(pixels, JPEG_SIDE, change)


def _pixelation(pixels: Pixels, cells: float, _rng: np.random.Generator) -> Pixels:
    """Each cell has the mean colour of its area; pixels on its border have their share of it."""
    rows, columns = map(_overlap, pixels.shape[:2], _grid_size(pixels, round(cells)))
    down = [part / part.sum(axis=0) for part in (rows, columns)]
    up = [part / part.sum(axis=1, keepdims=True) for part in (rows, columns)]
    means = np.einsum("hr,wc,hwk->rck", *down, pixels, optimize=True)
    return np.einsum("hr,wc,rck->hwk", *up, means, optimize=True)


def _overlap(pixels: int, cells: int) -> np.ndarray:
    """How much of each of `pixels` equal parts of a line lies in each of `cells`, as (P, C)."""
    pixel, cell = (np.linspace(0, 1, n + 1) for n in (pixels, cells))
    ends = np.minimum(pixel[1:, None], cell[1:]) - np.maximum(pixel[:-1, None], cell[:-1])
    return ends.clip(0)


def _quantisation(pixels: Pixels, steps: float, _rng: np.random.Generator) -> Pixels:
    return np.round(pixels * (steps - 1)) / (steps - 1)


# --------------------------------------------------------------------------------------------
# Light


def _overexposure(pixels: Pixels, stops: float, _rng: np.random.Generator) -> Pixels:
    return pixels * 2**stops


def _underexposure(pixels: Pixels, stops: float, _rng: np.random.Generator) -> Pixels:
    return pixels * 2**-stops


def _low_contrast(pixels: Pixels, share: float, _rng: np.random.Generator) -> Pixels:
    mean = pixels.mean(axis=(0, 1))
    return mean + share * (pixels - mean)


def _side_light(pixels: Pixels, loss: float, rng: np.random.Generator) -> Pixels:
    """Full light on one side, down to 1 - loss of it on the other."""
    angle = rng.uniform(0, 2 * np.pi)
    y, x = _coordinates(pixels)
    along = x * np.cos(angle) + y * np.sin(angle)
    along = (along - along.min()) / np.ptp(along)
    return pixels * (1 - loss * along)[..., None].astype(np.float32)


# --------------------------------------------------------------------------------------------
# Weather


def _fog(pixels: Pixels, density: float, rng: np.random.Generator) -> Pixels:
    """A grey veil, up to a third thicker and thinner from place to place."""
    clouds = sum(
        _resized(rng.standard_normal((n, n, 1), dtype=np.float32), pixels.shape[:2]) / n
        for n in (3, 6, 12)
    )
    clouds = clouds / (3 * clouds.std() + 1e-6)
    veil = (density * (1 + clouds.clip(-1 / 3, 1 / 3))).clip(0, 1)
    return pixels * (1 - veil) + 0.8 * veil


def _rain(pixels: Pixels, drops: float, rng: np.random.Generator) -> Pixels:
    """Streaks in one direction, before a picture that gets darker with them."""
    tilt = rng.uniform(-0.4, 0.4)

    def draw(brush: ImageDraw.ImageDraw, x: float, y: float, size: float) -> None:
        length, width = LAYER_SIDE * (0.05 + 0.07 * size), max(1, round(LAYER_SIDE * 0.008))
        brush.line((x, y, x + tilt * length, y + length), fill=round(140 + 90 * size), width=width)

    layer = _drops(pixels, round(drops), rng, draw, blur=0.002)
    return pixels * (1 - 0.0008 * drops) * (1 - layer) + 0.85 * layer


def _snow(pixels: Pixels, flakes: float, rng: np.random.Generator) -> Pixels:
    """White flakes, before a picture that gets paler with them."""

    def draw(brush: ImageDraw.ImageDraw, x: float, y: float, size: float) -> None:
        radius = LAYER_SIDE * (0.005 + 0.017 * size**3)
        brush.ellipse((x - radius, y - radius, x + radius, y + radius), fill=250)

    layer = _drops(pixels, round(flakes), rng, draw, blur=0.003)
    pale = 0.0008 * flakes
    return (pixels * (1 - pale) + 0.9 * pale) * (1 - layer) + layer


def _drops(
    pixels: Pixels,
    count: int,
    rng: np.random.Generator,
    draw: Callable[[ImageDraw.ImageDraw, float, float, float], None],
    *,
    blur: float,
) -> Pixels:
    """How far drops cover each pixel, (H, W, 1); more drops come beside the same first ones."""
    height, width = _grid_size(pixels, LAYER_SIDE)
    layer = Image.new("L", (width, height))
    brush = ImageDraw.Draw(layer)
    for x, y, size in rng.random((count, 3)):
        draw(brush, x * width, (y * 1.1 - 0.1) * height, size)
    layer = layer.filter(ImageFilter.GaussianBlur(blur * LAYER_SIDE))
    return _resized(np.asarray(layer, dtype=np.float32)[..., None] / 255, pixels.shape[:2])


# --------------------------------------------------------------------------------------------
# Geometry


def _rotation(pixels: Pixels, degrees: float, rng: np.random.Generator) -> Pixels:
    return _moved(pixels, degrees=degrees * rng.choice((-1, 1)))


def _shift(pixels: Pixels, way: float, rng: np.random.Generator) -> Pixels:
    angle = rng.uniform(0, 2 * np.pi)
    return _moved(pixels, shift=(way * np.cos(angle), way * np.sin(angle)))


def _scale(pixels: Pixels, factor: float, rng: np.random.Generator) -> Pixels:
    return _moved(pixels, scale=factor ** rng.choice((-1, 1)))


def _coordinates(pixels: Pixels) -> tuple[np.ndarray, np.ndarray]:
    """y and x (H, W) of the pixels' centres from the picture's centre, the shorter side being 1."""
    height, width = pixels.shape[:2]
    y, x = np.mgrid[:height, :width] + 0.5
    side = min(height, width)
    return (y - height / 2) / side, (x - width / 2) / side


def _moved(
    pixels: Pixels,
    *,
    degrees: float = 0.0,
    shift: tuple[float, float] = (0.0, 0.0),
    scale: float = 1.0,
) -> Pixels:
    """Scaled, turned counterclockwise, and shifted (x, y) by fractions of the shorter side.

    What comes in from outside is the picture mirrored at its edge.
    """
    y, x = _coordinates(pixels)
    y, x = y - shift[1], x - shift[0]
    angle = np.deg2rad(degrees)
    from_x = (x * np.cos(angle) - y * np.sin(angle)) / scale
    from_y = (x * np.sin(angle) + y * np.cos(angle)) / scale
    height, width = pixels.shape[:2]
    # grid_sample has -1 and 1 at the edges.
    where = np.stack([from_x / width, from_y / height], axis=-1) * 2 * min(height, width)
    return _sampled(pixels, torch.from_numpy(where.astype(np.float32)))


def _sampled(pixels: Pixels, where: Tensor) -> Pixels:
    planes = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None]
    found = F.grid_sample(planes, where[None], padding_mode="reflection", align_corners=False)
    return found[0].permute(1, 2, 0).numpy()


OF_SIDE = "of the shorter side"
CORRUPTIONS: dict[str, Corruption] = {
    "gaussian-noise": Corruption(
        "noise", "standard deviation", (0.05, 0.09, 0.13, 0.18, 0.24), _gaussian_noise
    ),
    "shot-noise": Corruption("noise", "photons at white", (100, 50, 28, 16, 10), _shot_noise),
    "impulse-noise": Corruption(
        "noise", "share of cells", (0.02, 0.05, 0.09, 0.14, 0.2), _impulse_noise
    ),
    "defocus": Corruption(
        "blur", f"radius, {OF_SIDE}", (0.016, 0.022, 0.028, 0.035, 0.042), _defocus
    ),
    "motion-blur": Corruption(
        "blur", f"length, {OF_SIDE}", (0.03, 0.055, 0.08, 0.11, 0.14), _motion_blur
    ),
    "zoom-blur": Corruption("blur", "enlarged by", (0.05, 0.1, 0.15, 0.2, 0.26), _zoom_blur),
    "jpeg": Corruption("compression", "quality", (30, 20, 14, 10, 7), _jpeg),
    "pixelation": Corruption(
        "compression", "cells along the shorter side", (40, 34, 28, 24, 20), _pixelation
    ),
    "quantisation": Corruption("compression", "levels", (20, 14, 10, 7, 5), _quantisation),
    "overexposure": Corruption("light", "stops", (0.25, 0.45, 0.7, 0.95, 1.2), _overexposure),
    "underexposure": Corruption("light", "stops", (0.5, 0.9, 1.3, 1.7, 2.1), _underexposure),
    "low-contrast": Corruption(
        "light", "share of the contrast", (0.6, 0.46, 0.36, 0.27, 0.2), _low_contrast
    ),
    "side-light": Corruption(
        "light", "light lost on one side", (0.5, 0.65, 0.78, 0.88, 0.95), _side_light
    ),
    "fog": Corruption("weather", "density", (0.25, 0.37, 0.49, 0.6, 0.7), _fog),
    "rain": Corruption("weather", "drops", (40, 80, 130, 190, 260), _rain),
    "snow": Corruption("weather", "flakes", (60, 120, 190, 270, 360), _snow),
    "rotation": Corruption("geometry", "degrees", (6, 12, 18, 24, 30), _rotation),
    "shift": Corruption("geometry", f"way, {OF_SIDE}", (0.04, 0.08, 0.12, 0.16, 0.2), _shift),
    "scale": Corruption("geometry", "factor, up or down", (1.1, 1.2, 1.3, 1.4, 1.5), _scale),
}
