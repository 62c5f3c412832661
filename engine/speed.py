"""What makes a run fast and leaves its numbers alone, or is asked for where it does not.

Alone: channels last in memory, decoded images kept in memory. Asked for: bfloat16 (`--amp`),
torch.compile (`--compile`); `--deterministic` gives speed up for the same bits every time.
"""

from __future__ import annotations

import mmap
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2

from common.batch import Sample
from common.errors import InputError

#: How images and weights are laid out: convolutions are fastest so, on CPUs and on GPUs.
MEMORY_FORMAT = torch.channels_last
#: How much of the free memory decoded images may take; the rest is for the work.
CACHE_SHARE = 0.5


def wants_bf16(amp: str, device: torch.device) -> bool:
    """Whether to autocast to bfloat16: always, never, or where the hardware has it natively."""
    if amp != "auto":
        return amp == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and cpu_supports_bf16()


def cpu_supports_bf16() -> bool:
    """Whether this CPU has instructions for bfloat16 products (AVX-512 BF16 or AMX)."""
    try:
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    except AttributeError:  # private names, which another torch may not have
        return False


def autocast(device: torch.device, bf16: bool) -> AbstractContextManager:
    """The context in which the network runs forward."""
    return torch.autocast(device.type, torch.bfloat16, enabled=bf16)


def choose_kernels(*, deterministic: bool) -> None:
    """Let a GPU look for its fastest kernels, or take only those that give the same bits.

    To be called before the first work on a GPU: its library of matrix products looks at the
    environment once.
    """
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    # Images all have one size, so looking once pays.
    torch.backends.cudnn.benchmark = not deterministic


@contextmanager
def reporting_compiler_errors() -> Iterator[None]:
    """Turns an error of torch.compile, which comes with the first step, into an InputError.

    Most often there is no C++ compiler, which torch needs on a CPU.
    """
    try:
        yield
    except RuntimeError as error:
        # By its place, as importing the compiler takes seconds.
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"--compile: torch cannot compile the network here ({reason}); leave --compile out (a "
            "training run goes on with --resume)"
        ) from error


class CachedImages:
    """A data set whose images are decoded and resized once; everything else is the data set's.

    Whoever needs an image first leaves it here for all DataLoader workers, which are forked, so
    filling costs no time of its own. Resizing draws no random numbers and PIL repeats it to the
    bit, so an image from here is the image from the file.
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
        # Anonymous memory is taken page by page as it is written, and has no size limit of its own.
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
    """Bytes that so many images take once resized; None where they cannot be kept.

    They can where the transform begins with a resizing to a fixed size.
    """
    steps = list(dataset.transform.transforms) if isinstance(dataset.transform, v2.Compose) else []
    if len(steps) < 2 or not isinstance(steps[0], v2.Resize) or len(steps[0].size or ()) != 2:
        return None
    height, width = steps[0].size
    return images * height * width * 3


def cache_images(
    parts: Sequence[tuple[Any, Sequence[int]]], *, processes: int = 1
) -> tuple[list[Any], str]:
    """Data sets with their images in memory where all fit, and a line that says what was done.

    parts: data sets, each with the indices of the images that will be read.
    processes: how many training processes of this machine do so, each for itself.
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


def free_memory() -> int:
    """Bytes that new data may take before Linux, or the process's cgroup, runs out of memory."""
    available = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    free = 1024 * int(available[1])
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())
        free = min(free, limit - int((group / "memory.current").read_text()))
    except (OSError, ValueError):  # no such group, or no limit: "max"
        pass
    return max(0, free)


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
