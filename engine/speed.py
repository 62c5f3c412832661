"""What makes a run fast; what changes its numbers is off unless a flag or the recipe asks for it.

Always on: channels last and images kept in memory. By flag: `--amp`, `--compile`.
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2

from common.batch import Sample
from common.errors import InputError
from common.machine import free_memory

#: Of images and weights: the fastest for convolutions, on CPUs and on GPUs.
MEMORY_FORMAT = torch.channels_last
#: The fraction of the free memory that decoded images may take.
CACHE_SHARE = 0.5


def autocast(device: torch.device, bf16: bool) -> AbstractContextManager:
    """The context in which the network runs forward."""
    return torch.autocast(device.type, torch.bfloat16, enabled=bf16)


@contextmanager
def reporting_compiler_errors() -> Iterator[None]:
    """Turns an error of torch.compile, which appears at the first step, into an InputError.

    The usual cause is a missing C++ compiler, which torch needs on a CPU.
    """
    try:
        yield
    except RuntimeError as error:
        # Recognised by its module's name, since importing the compiler takes seconds.
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"--compile: torch cannot compile the network here ({reason}); leave --compile out (a "
            "training run goes on with --resume)"
        ) from error


class CachedImages:
    """A data set whose images are decoded and resized once; all else is passed on to it.

    The first DataLoader worker that needs an image stores it in memory shared with the others,
    which are forked. Resizing is deterministic, so cached images are bitwise identical to those
    from the files.
    """

    def __init__(self, dataset: Any, indices: Sequence[int]):
        """Room for the images `indices`; raises ValueError where `cache_bytes` is None."""
        needed = cache_bytes(dataset, len(indices))
        if needed is None:
            raise ValueError("the transform does not begin with a resizing to a fixed size")
        self.dataset = dataset
        self._resize, *rest = dataset.transform.transforms
        self._rest = v2.Compose(rest)
        self._shape = (len(indices), *self._resize.size, 3)
        self._slots = {index: slot for slot, index in enumerate(indices)}
        # Anonymous memory is allocated page by page as it is written, and has no size limit.
        self._pixels, self._filled = mmap.mmap(-1, needed), mmap.mmap(-1, len(indices))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["dataset"], name)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        slot = self._slots[index]
        pixels = np.frombuffer(self._pixels, np.uint8).reshape(self._shape)
        if not self._filled[slot]:
            pixels[slot] = np.asarray(self._resize(self.dataset.read_image(index)))
            self._filled[slot] = 1
        image = self._rest(Image.fromarray(pixels[slot]))
        return Sample(image, self.dataset.labels[index], self.dataset.targets(index))


def cache_bytes(dataset: Any, images: int) -> int | None:
    """Bytes that this many resized images take; None where they cannot be cached.

    They can if the transform begins with a resize to a fixed size.
    """
    steps = list(dataset.transform.transforms) if isinstance(dataset.transform, v2.Compose) else []
    if len(steps) < 2 or not isinstance(steps[0], v2.Resize) or len(steps[0].size or ()) != 2:
        return None
    height, width = steps[0].size
    return images * height * width * 3


def cache_images(
    parts: Sequence[tuple[Any, Sequence[int]]], *, processes: int = 1
) -> tuple[list[Any], str]:
    """The data sets, cached if all images fit in memory, and a line that says what was done.

    parts: data sets, each with the indices of the images that will be read.
    processes: how many training processes of this machine keep a cache, each its own.
    """
    datasets = [dataset for dataset, _ in parts]
    sizes = [cache_bytes(dataset, len(indices)) for dataset, indices in parts]
    if None in sizes or sys.platform != "linux":
        why = "their transform resizes too late" if None in sizes else "workers share no memory"
        return datasets, f"images are read from their files every time: {why}"
    images, needed, free = sum(len(i) for _, i in parts), processes * sum(sizes), free_memory()
    if needed > CACHE_SHARE * free:
        return datasets, (
            f"images are read from their files every time: {images:,} would take "
            f"{_gigabytes(needed)} of memory, more than {CACHE_SHARE:.0%} of the "
            f"{_gigabytes(free)} free"
        )
    cached = [CachedImages(dataset, indices) for dataset, indices in parts]
    text = f"{images:,} images are kept in memory: {_gigabytes(needed)} of {_gigabytes(free)} free"
    return cached, text


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
