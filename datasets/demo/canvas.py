"""An image that is painted in head units."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .geometry import ribbon
from .view import HEAD_UNIT, View, project


class Canvas:
    """An oversized image that is painted in head units, and a second one for folds of the skin.

    Polygons are noted down and projected all at once: one by one, the many small array
    operations would take longer than the painting. Call `flush` before using `image` or `pen`.
    """

    def __init__(self, size: int, view: View, background: Image.Image) -> None:
        self.size, self.view = size, view
        self.shrink = max(2, -(-190 // size))  # an integer: shrinking is then a mean of pixels
        self.side = size * self.shrink
        self.image = background.resize((self.side, self.side), Image.Resampling.BILINEAR)
        self.pen = ImageDraw.Draw(self.image)
        self.folds = Image.new("L", (2 * size, 2 * size))
        self.pending: list[tuple[np.ndarray, Sequence[float], float]] = []

    def fill(self, points: np.ndarray, color: Sequence[float], lift: float = 0.0) -> None:
        """Fill a polygon."""
        self.pending.append((points, color, lift))

    def flush(self) -> None:
        """Draw what was noted down."""
        if not self.pending:
            return
        polygons, colors, lifts = zip(*self.pending, strict=True)
        self.pending.clear()
        fills = np.clip(colors, 0, 255).astype(int).tolist()
        self._draw(self.pen, polygons, [tuple(fill) for fill in fills], lifts)

    def _draw(self, pen: ImageDraw.ImageDraw, polygons, fills, lifts) -> None:
        lengths = [len(points) for points in polygons]
        lift = np.repeat(lifts, lengths)
        shares = project(np.concatenate(polygons), self.view, lift)
        # Pillow counts from the center of the first pixel, the projection from its corner.
        flat = (shares * pen.im.size[0] - 0.5).ravel().tolist()
        end = 0
        for length, fill in zip(lengths, fills, strict=True):
            start, end = end, end + 2 * length
            pen.polygon(flat[start:end], fill=fill)

    def stroke(
        self, points: np.ndarray, width: float | np.ndarray, color: Sequence[float], lift: float = 0
    ) -> None:
        """Draw a line; its width is one number or one per point, in head units."""
        self.fill(ribbon(points, width), color, lift)

    def fold(self, ribbons: Sequence[np.ndarray], strengths: Sequence[float]) -> None:
        """Draw folds on the second image; at strength 1 one halves the brightness."""
        fills = [int(255 * min(strength, 1.0)) for strength in strengths]
        self._draw(ImageDraw.Draw(self.folds), ribbons, fills, np.zeros(len(fills)))

    def mask(self, polygons: Sequence[np.ndarray], soft: float) -> Image.Image:
        """Mode L image of the final size, 255 in the polygons, blurred by `soft` head units."""
        mask = Image.new("L", (self.size, self.size))
        self._draw(ImageDraw.Draw(mask), polygons, [255] * len(polygons), np.zeros(len(polygons)))
        return mask.filter(ImageFilter.BoxBlur(soft * HEAD_UNIT * self.view.zoom * self.size))
