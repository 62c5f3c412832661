"""Pictures with aligned faces at known places, and a detector that finds these exactly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy import ndimage

from datasets import RAFDB
from datasets.alignment import TEMPLATE, Face
from networks import DAN, ResNet18
from tests.support.scripts import CLASSES, draw_patch

BACKGROUND = (128, 128, 128)
SIDE = 100  # pixels, as RAF-DB's images: a face of this size is framed without resampling
IMAGE_SIZE = 32


def patch(seed: int, side: int = SIDE) -> Image.Image:
    """An aligned "face" without a pixel of the background's colour."""
    values = draw_patch(seed % CLASSES, np.random.default_rng(seed), side)
    values[(values == BACKGROUND).all(axis=2)] = 127
    return Image.fromarray(values)


def scene(
    faces: Sequence[tuple[Image.Image, tuple[int, int]]], size: tuple[int, int] = (400, 200)
) -> Image.Image:
    """A picture with faces at these left upper corners."""
    picture = Image.new("RGB", size, BACKGROUND)
    for face, corner in faces:
        picture.paste(face, corner)
    return picture


def find_patches(pictures: Sequence[Image.Image]) -> list[list[Face]]:
    """What a perfect detector would find: the squares that differ from the background."""
    found = []
    for picture in pictures:
        differs = (np.abs(np.asarray(picture).astype(int) - 128) > 4).any(axis=2)
        areas, _ = ndimage.label(ndimage.grey_closing(differs.astype(int), 5, mode="nearest"))
        boxes = [
            (float(x.start), float(y.start), float(x.stop), float(y.stop))
            for y, x in ndimage.find_objects(areas)
        ]
        found.append([face_of(box) for box in boxes if box[2] - box[0] > 8])
    return found


def face_of(box: tuple[float, float, float, float], score: float = 0.9) -> Face:
    """A face whose landmarks are the template's in its box."""
    left, top, right, bottom = box
    return Face(box, score, TEMPLATE * (right - left, bottom - top) + (left, top))


def save_checkpoint(path: Path, *, arch: type = ResNet18, **extra: object) -> Path:
    """A checkpoint for RAF-DB's classes with random weights."""
    torch.manual_seed(0)
    network = arch(CLASSES) if arch is ResNet18 else DAN(CLASSES, 2)
    content = {
        "iter": 1,
        "model_state_dict": network.state_dict(),
        "dataset": "rafdb",
        "class_names": list(RAFDB.classes),
        "settings": {"image_size": IMAGE_SIZE},
        **extra,
    }
    torch.save(content, path)
    return path
