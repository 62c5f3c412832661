"""Decoded images in memory, shared by the processes that load them."""

from __future__ import annotations

import ctypes
import mmap
import multiprocessing
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from .base import FaceDataset


class ImageCache:
    """Images of a data set after the first step of its transform, the resizing.

    Whoever needs an image first decodes it and leaves it here for all loading processes, so that
    filling costs no time of its own. Resizing draws no random numbers and PIL repeats it to the
    bit, so an image from here is the image from the file.
    """

    def __init__(self, dataset: FaceDataset, indices: Sequence[int]):
        """Room for the images `indices` of a data set whose transform begins with a resizing.

        Raises ValueError for another transform.
        """
        self._resize, self._rest = _parted(dataset.transform)
        height, width = self._resize.size
        self._shape = (len(indices), height, width, 3)
        self._slots = {index: slot for slot, index in enumerate(indices)}
        self._pixels = _shared_zeros(cache_bytes(dataset, len(indices)))
        self._filled = _shared_zeros(len(indices))

    def transformed(self, dataset: FaceDataset, index: int) -> Any:
        """What the data set's whole transform makes of image `index`."""
        slot = self._slots.get(index)
        if slot is None:
            return dataset.transform(dataset.read_image(index))
        pixels = np.frombuffer(self._pixels, np.uint8).reshape(self._shape)
        if not self._filled[slot]:
            pixels[slot] = np.asarray(self._resize(dataset.read_image(index)))
            self._filled[slot] = 1
        return self._rest(Image.fromarray(pixels[slot]))


def lazily_shared() -> bool:
    """Whether shared memory is taken page by page as it is written, and has no size limit."""
    return sys.platform != "win32" and multiprocessing.get_start_method() == "fork"


def _shared_zeros(size: int) -> Any:
    """Bytes that loading processes share."""
    if lazily_shared():
        return mmap.mmap(-1, size)  # anonymous; children inherit it
    # A file in /dev/shm or the folder for temporary files, which other processes open by name.
    return multiprocessing.RawArray(ctypes.c_uint8, size)


def cache_bytes(dataset: FaceDataset, images: int) -> int | None:
    """The memory in bytes that so many images take; None where they cannot be kept.

    They can where the transform begins with a resizing to a fixed size.
    """
    try:
        height, width = _parted(dataset.transform)[0].size
    except ValueError:
        return None
    return images * height * width * 3


def _parted(transform: Callable[[Image.Image], Any] | None) -> tuple[Any, Any]:
    """A transform as (its resizing, what follows); raises ValueError for any other."""
    from torchvision.transforms import v2

    steps = list(transform.transforms) if isinstance(transform, v2.Compose) else []
    if len(steps) < 2 or not isinstance(steps[0], v2.Resize) or len(steps[0].size or ()) != 2:
        raise ValueError("the transform does not begin with a resizing to a fixed size")
    return steps[0], v2.Compose(steps[1:])
