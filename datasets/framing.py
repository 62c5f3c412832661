"""How the images of a data set frame a face, and a photo's face framed alike."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image

from common.errors import InputError

from .alignment import FITS, LANDMARKS, TEMPLATE, Face, align

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Framing:
    """A network sees a face as in training: at the same place, size and colours.

    template: where the five landmarks lie, as fractions of the side; None: the image is the face
        box, squared, and not turned.
    size: side of the data set's images in pixels. A sharper crop would be new to the network.
    grey: whether the images are grey. margin: of the box on each side, as a fraction of its side.
    fit: how the landmarks are brought to the template, one of `datasets.alignment.FITS`.
    """

    template: Points | None = tuple(map(tuple, TEMPLATE.tolist()))
    size: int = 100
    grey: bool = False
    margin: float = 0.0
    fit: str = "eyes"

    def crop(self, image: Image.Image, face: Face) -> Image.Image:
        """The face of an RGB picture, framed; RGB, size x size pixels, black beyond the picture.

        Raises InputError where box or landmarks are not those of a face.
        """
        if self.template is None:
            framed = _crop_square(image, face, self.size, self.margin)
        else:
            template = np.array(self.template)
            framed = align(image, face.landmarks, size=self.size, fit=self.fit, template=template)
        return framed.convert("L").convert("RGB") if self.grey else framed

    def as_dict(self) -> dict[str, Any]:
        """What a checkpoint stores."""
        template = self.template and [list(point) for point in self.template]
        return {**asdict(self), "template": template}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Framing:
        """The framing of a checkpoint; raises InputError where it is not one."""
        try:
            template = content["template"]
            points = None if template is None else np.array(template, dtype=np.float64)
            size, margin = int(content["size"]), float(content["margin"])
            # Before there was a choice, it was the eyes.
            grey, fit = bool(content["grey"]), str(content.get("fit", "eyes"))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"the framing is not one of ours ({error})") from error
        right = points is None or (
            points.shape == (len(LANDMARKS), 2) and np.isfinite(points).all()
        )
        if not (right and 8 <= size <= 4096 and 0 <= margin < math.inf and fit in FITS):
            raise InputError(
                f"the framing has a template of shape {np.shape(template)}, size {size}, margin "
                f"{margin}; expected five points, 8 to 4096 pixels, a margin from 0 up, and "
                f"a fit out of {', '.join(FITS)}"
            )
        points = None if points is None else tuple(map(tuple, points.tolist()))
        return cls(points, size, grey, margin, fit)


def _crop_square(image: Image.Image, face: Face, size: int, margin: float) -> Image.Image:
    """The square about the face box, its longer side and a margin, scaled to `size` pixels."""
    left, top, right, bottom = face.box
    side = max(right - left, bottom - top) * (1 + 2 * margin)
    if not (math.isfinite(side) and side >= 1):
        raise InputError(f"the face box {face.box} has no area; expected left, top, right, bottom")
    x, y = (left + right - side) / 2, (top + bottom - side) / 2
    # Whole pixels first: crop() pads with black, which resize(box=...) cannot.
    outer = (math.floor(x), math.floor(y), math.ceil(x + side), math.ceil(y + side))
    inner = (x - outer[0], y - outer[1], x - outer[0] + side, y - outer[1] + side)
    return image.crop(outer).resize((size, size), Image.Resampling.BICUBIC, box=inner)
