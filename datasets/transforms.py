"""Image -> normalised tensor (3, S, S): the release's augmentation, and the evaluation's.

Each takes an image, or an image and a dict of targets. Then targets that are images (a face's mask,
a clean picture) are flipped, turned and moved with it, and a flip mirrors the yaw.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from common.flags import flag

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class NormalizedTensor:
    """RGB image, size x size pixels -> (value / 255 - MEAN) / STD as float32 (3, size, size).

    Bitwise identical to torchvision's ToImage, ToDtype and Normalize, in a third of their time:
    channels stay last in memory, and each of the three steps runs over whole rows of pixels.
    Targets that are images become tensors (C, size, size) of 0 to 1.
    """

    def __init__(self, size: int):
        self.size = size
        self._mean, self._std = (torch.tensor(values).repeat(size) for values in (MEAN, STD))

    def __repr__(self) -> str:
        return f"NormalizedTensor({self.size})"

    def __call__(
        self, image: Image.Image, targets: dict[str, Any] | None = None
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        normalized = self._normalized(image)
        if targets is None:
            return normalized
        return normalized, {name: target_tensor(target) for name, target in targets.items()}

    def _normalized(self, image: Image.Image) -> Tensor:
        rows = torch.from_numpy(np.asarray(image).astype(np.float32)).view(self.size, -1)
        rows.mul_(1 / 255).sub_(self._mean).div_(self._std)
        return rows.view(self.size, self.size, 3).permute(2, 0, 1)


class ImageAlone:
    """Changes the image and leaves its targets: a mask has no brightness to change.

    transform: an image to one of the same size.
    """

    def __init__(self, transform: Callable[[Image.Image], Image.Image]):
        self.transform = transform

    def __call__(
        self, image: Image.Image, targets: dict[str, Any] | None = None
    ) -> Image.Image | tuple[Image.Image, dict[str, Any]]:
        changed = self.transform(image)
        return changed if targets is None else (changed, targets)


def target_tensor(target: Any) -> Tensor:
    """A target as a plain tensor: an image (H, W) as (C, H, W) of 0 to 1, a tensor as it is."""
    if isinstance(target, Image.Image):
        pixels = np.asarray(target, dtype=np.float32) / 255
        return torch.from_numpy(np.atleast_3d(pixels)).permute(2, 0, 1)
    return target.as_subclass(Tensor)


def evaluation(size: int = 224) -> v2.Compose:
    """Resize to size x size (bilinear, by PIL), convert to a tensor, normalise."""
    return v2.Compose([v2.Resize((size, size)), NormalizedTensor(size)])


def rafdb_train(size: int = 224) -> v2.Compose:
    """RAF-DB's: flip, sometimes rotate and crop, erase a small rectangle.

    The padding of the crop is 32 pixels at the release's size of 224 and scales with `size`.
    """
    shifted = [
        v2.RandomRotation(20),
        v2.RandomCrop((size, size), padding=round(size * 32 / 224)),
    ]
    return v2.Compose(
        [
            v2.Resize((size, size)),
            v2.RandomHorizontalFlip(),
            v2.RandomApply(shifted, p=0.2),
            NormalizedTensor(size),
            v2.RandomErasing(scale=(0.02, 0.25), inplace=True),
        ]
    )


def affectnet_train(size: int = 224) -> v2.Compose:
    """AffectNet's: flip, mostly turn, shift and shrink, erase a rectangle."""
    return v2.Compose(
        [
            *_flip_and_affine(size, p=0.7),
            NormalizedTensor(size),
            v2.RandomErasing(inplace=True),
        ]
    )


def sfew_train(size: int = 224) -> v2.Compose:
    """SFEW's: AffectNet's affine transform half the time, and no erasing."""
    return v2.Compose([*_flip_and_affine(size, p=0.5), NormalizedTensor(size)])


def _flip_and_affine(size: int, p: float) -> list[v2.Transform]:
    affine = v2.RandomAffine(20, translate=(0.2, 0.2), scale=(0.8, 1.0))
    return [
        v2.Resize((size, size)),
        v2.RandomHorizontalFlip(),
        v2.RandomApply([affine], p=p),
    ]


def fer2013_train(size: int = 224) -> v2.Compose:
    """Ours for FER2013, whose faces are loosely cropped: flip, small affine, erase."""
    return v2.Compose(
        [
            v2.Resize((size, size)),
            v2.RandomHorizontalFlip(),
            v2.RandomAffine(10, translate=(0.08, 0.08), scale=(0.9, 1.1)),
            NormalizedTensor(size),
            v2.RandomErasing(scale=(0.02, 0.25), inplace=True),
        ]
    )


def fer2013_affine(size: int = 224) -> v2.Compose:
    """As `fer2013_train`, moved much further: shifted and scaled by up to a fifth."""
    return v2.Compose([*_flip_and_move(size, degrees=10), *_erase(size, p=0.5, most=0.25)])


def fer2013_strong(size: int = 224) -> v2.Compose:
    """As `fer2013_affine`, turned further, with brightness and contrast, and erased more often."""
    color = ImageAlone(v2.ColorJitter(brightness=0.3, contrast=0.3))
    return v2.Compose(
        [*_flip_and_move(size, degrees=20), color, *_erase(size, p=0.75, most=0.33)],
    )


def _flip_and_move(size: int, degrees: float) -> list[v2.Transform]:
    affine = v2.RandomAffine(
        degrees,
        translate=(0.2, 0.2),
        scale=(0.8, 1.2),
        interpolation=InterpolationMode.BILINEAR,
    )
    return [v2.Resize((size, size)), v2.RandomHorizontalFlip(), affine]


def _erase(size: int, p: float, most: float) -> list[Callable]:
    return [NormalizedTensor(size), v2.RandomErasing(p, scale=(0.02, most), inplace=True)]


AUGMENTATIONS = {"basic": fer2013_train, "affine": fer2013_affine, "strong": fer2013_strong}


@dataclass(frozen=True, kw_only=True)
class FER2013Augmentation:
    """The training transform of a recipe for FER2013 and FER+, chosen by a flag."""

    augmentation: str = flag(
        "basic",
        choices=tuple(AUGMENTATIONS),
        help="training images: basic (flipped, moved a little, erased in part), affine (moved "
        "further), strong (further still, brightness and contrast changed, erased more)",
    )

    def __call__(self, size: int) -> v2.Compose:
        """The transform to size x size pixels."""
        return AUGMENTATIONS[self.augmentation](size)
