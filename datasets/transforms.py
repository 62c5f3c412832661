"""Image -> normalised tensor (3, S, S): the release's augmentation, and the evaluation's."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torchvision.transforms import v2

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def _tensor() -> list[v2.Transform]:
    import torch
    from torchvision.transforms import v2

    return [
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(MEAN, STD, inplace=True),  # of the float copy just made
    ]


def evaluation(size: int = 224) -> v2.Compose:
    """Resize to size x size (bilinear, as PIL does it), to a tensor, normalise."""
    from torchvision.transforms import v2

    return v2.Compose([v2.Resize((size, size)), *_tensor()])


def rafdb_train(size: int = 224) -> v2.Compose:
    """RAF-DB's: flip, sometimes rotate and crop, erase a small rectangle.

    The padding of the crop is 32 pixels at the release's size of 224 and scales with `size`.
    """
    from torchvision.transforms import v2

    shifted = [
        v2.RandomRotation(20),
        v2.RandomCrop((size, size), padding=round(size * 32 / 224)),
    ]
    return v2.Compose(
        [
            v2.Resize((size, size)),
            v2.RandomHorizontalFlip(),
            v2.RandomApply(shifted, p=0.2),
            *_tensor(),
            v2.RandomErasing(scale=(0.02, 0.25), inplace=True),
        ]
    )


def affectnet_train(size: int = 224) -> v2.Compose:
    """AffectNet's: flip, mostly turn, shift and shrink, erase a rectangle."""
    from torchvision.transforms import v2

    return v2.Compose([*_flip_and_affine(size, p=0.7), *_tensor(), v2.RandomErasing(inplace=True)])


def sfew_train(size: int = 224) -> v2.Compose:
    """SFEW's: AffectNet's affine transform half the time, and no erasing."""
    from torchvision.transforms import v2

    return v2.Compose([*_flip_and_affine(size, p=0.5), *_tensor()])


def _flip_and_affine(size: int, p: float) -> list[v2.Transform]:
    from torchvision.transforms import v2

    affine = v2.RandomAffine(20, translate=(0.2, 0.2), scale=(0.8, 1.0))
    return [
        v2.Resize((size, size)),
        v2.RandomHorizontalFlip(),
        v2.RandomApply([affine], p=p),
    ]


def fer2013_train(size: int = 224) -> v2.Compose:
    """Ours for FER2013, whose faces are loosely cropped: flip, small affine, erase."""
    from torchvision.transforms import v2

    return v2.Compose(
        [
            v2.Resize((size, size)),
            v2.RandomHorizontalFlip(),
            v2.RandomAffine(10, translate=(0.08, 0.08), scale=(0.9, 1.1)),
            *_tensor(),
            v2.RandomErasing(scale=(0.02, 0.25), inplace=True),
        ]
    )
