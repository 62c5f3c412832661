"""Data set -> batches, with an order and augmentation that depend on the seed alone.

Each draw of an image carries a seed of its own, made from the run's seed and the epoch, so the
result is the same whatever the number of worker processes and wherever a run was resumed.
"""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from common.errors import InputError
from common.signals import stop_asked

from .device import memory_format
from .samplers import shuffle

Draw = tuple[int, int]  # (index of the image, seed of its augmentation)
Share = Callable[[int], range]  # of n things, the positions of those that are this process's


class SeededImages(Dataset):
    """A data set indexed by draws; an item is (image, label, index), or the InputError it met."""

    def __init__(self, dataset: Any, indices: Sequence[int] | None = None):
        """The images `indices` of a data set, in that order; all of them by default."""
        self.dataset = dataset
        self.indices = list(range(len(dataset))) if indices is None else list(indices)
        self.labels = [dataset.labels[index] for index in self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, draw: Draw) -> Any:
        position, seed = draw
        index = self.indices[position]
        # Only the CPU generator: transforms use no other, and the network's must not be moved.
        before = torch.default_generator.get_state()
        torch.default_generator.manual_seed(seed)
        try:
            image, label = self.dataset[index]
        except InputError as error:
            # As a value, since DataLoader would wrap an exception into a traceback.
            return error
        finally:
            torch.default_generator.set_state(before)
        return image, label, index


class Partial(NamedTuple):
    """What is left of a batch in which images cannot be used; `batch` is None if nothing is."""

    batch: Any
    errors: list[InputError]


def collate(items: list[Any]) -> Any:
    """A batch (images (B, 3, S, S), labels (B,), indices (B,)), or `Partial`."""
    good = [item for item in items if not isinstance(item, InputError)]
    if len(good) == len(items):
        return _batch(items)
    errors = [item for item in items if isinstance(item, InputError)]
    return Partial(_batch(good) if good else None, errors)


def _batch(items: list[tuple[Tensor, Any, int]]) -> list[Tensor]:
    """Images, labels and indices; channels last in memory, as transforms leave them."""
    rows = [(image.permute(1, 2, 0), label, index) for image, label, index in items]
    images, labels, indices = default_collate(rows)
    return [images.permute(0, 3, 1, 2), labels, indices]


class TrainingBatches(Sampler[list[Draw]]):
    """Batches of draws in an order that `epoch` (from 1) decides.

    order: draws `num_images` positions with a seeded generator; by default each once, shuffled.

    share: the positions of a batch of n images that this process takes, of several processes.
    A last batch with fewer than `least` images, 2 per process, would leave BatchNorm without a
    variance, so those images join the batch before it.

    Raises InputError for fewer images.
    """

    def __init__(
        self,
        num_images: int,
        batch_size: int,
        seed: int,
        order: Callable[[torch.Generator], Sequence[int]] | None = None,
        *,
        share: Share = range,
        least: int = 2,
    ):
        processes = f" in each of {least // 2} processes" if least > 2 else ""
        if num_images < least:
            raise InputError(
                f"the training split holds {num_images} image{'s' if num_images > 1 else ''}; "
                f"BatchNorm needs at least 2{processes}"
            )
        if batch_size < least:
            raise InputError(
                f"--batch-size is {batch_size}; BatchNorm needs at least 2 to train{processes}"
            )
        self.num_images = num_images
        self.seed = seed
        self.order = order or partial(shuffle, range(num_images))
        self.epoch = 1
        self.share = share
        self.sizes = batch_sizes(num_images, batch_size, least)

    def __len__(self) -> int:
        return len(self.sizes)

    def __iter__(self) -> Iterator[list[Draw]]:
        generator = torch.Generator().manual_seed(_mix(self.seed, self.epoch))
        order = self.order(generator)
        seeds = torch.randint(2**62, (self.num_images,), generator=generator)
        draws = list(zip(order, seeds.tolist(), strict=True))
        start = 0
        for size in self.sizes:
            yield [draws[start + position] for position in self.share(size)]
            start += size


def batch_sizes(num_images: int, batch_size: int, least: int = 2) -> list[int]:
    """Sizes of the batches of an epoch; none is below `least` where there are as many images."""
    whole, rest = divmod(num_images, batch_size)
    sizes = [batch_size] * whole
    if rest < least and sizes:
        sizes[-1] += rest
    elif rest:
        sizes.append(rest)
    return sizes


class OrderedBatches(Sampler[list[Draw]]):
    """Every image once, in order; of several processes each takes its `share` of them."""

    def __init__(self, num_images: int, batch_size: int, *, share: Share = range):
        self.positions = share(num_images)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return math.ceil(len(self.positions) / self.batch_size)

    def __iter__(self) -> Iterator[list[Draw]]:
        for start in range(0, len(self.positions), self.batch_size):
            yield [(i, 0) for i in self.positions[start : start + self.batch_size]]


def make_loader(
    images: SeededImages, batches: Sampler[list[Draw]], *, workers: int, device: torch.device
) -> DataLoader:
    """A loader whose worker processes (none where `workers` is 0) live as long as it does."""
    return DataLoader(
        images,
        batch_sampler=batches,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
        collate_fn=collate,
        # Starting workers draws a number, and a resumed run starts them once more. Drawn from the
        # program's generator, it would leave that in another state than an undisturbed run.
        generator=torch.Generator().manual_seed(0),
    )


def batches_on(
    loader: DataLoader,
    device: torch.device,
    left_out: list[str] | None = None,
    *,
    plain: bool = False,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(images, labels, indices) of a loader; images and labels on the device.

    plain: images channels first, not last.

    left_out: takes what is said of images that cannot be used, which are then missing from their
        batch; without it the first of them ends the loop.

    Raises the InputError of such an image, and `Stopped` where a signal asked for it.
    """
    for loaded in loader:
        if (stopped := stop_asked()) is not None:
            raise stopped
        partial = loaded if isinstance(loaded, Partial) else Partial(loaded, [])
        if partial.errors and left_out is None:
            raise partial.errors[0]
        if partial.errors:
            left_out += [str(error) for error in partial.errors]
        if partial.batch is None:
            continue
        images, labels, indices = partial.batch
        # Only to a GPU, from pinned memory: elsewhere a copy may be read before it is whole.
        images, labels = (
            part.to(device, non_blocking=device.type == "cuda") for part in (images, labels)
        )
        yield images.contiguous(memory_format=memory_format(plain)), labels, indices


@contextmanager
def dead_workers_told() -> Iterator[None]:
    """Turns the death of a loading process, which torch raises anywhere, into one line.

    Raises InputError, or `Stopped` where the signal that ended the worker is for us as well.
    """
    try:
        yield
    except RuntimeError as error:
        text = " ".join(str(error).split())
        if "DataLoader worker" not in text:
            raise
        killed = re.search(r"killed by signal: ([\w ]+)", text)
        if killed and killed[1] in ("Terminated", "Interrupt", "Hangup"):
            time.sleep(1)  # a signal to the whole job reaches its processes one by one
        if (stopped := stop_asked()) is not None:
            raise stopped from None
        if (killed and killed[1] == "Killed") or text.endswith("exited unexpectedly"):
            found = "the system killed a process that loads images, as it does when memory runs out"
        elif killed and killed[1].startswith("Bus"):
            found = "a process that loads images found no shared memory left (/dev/shm)"
        else:
            found = f"a process that loads images died ({text})"
        raise InputError(
            f"{found}; use fewer --workers or a smaller --batch-size; a training run goes on "
            "with --resume"
        ) from error


def worker_count(requested: int, processes: int = 1) -> int:
    """The number of loading processes that `--workers` asks for; -1: one a core, at most 8.

    processes: how many training processes share the cores.
    """
    if requested >= 0:
        return requested
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    )
    return min(8, max(1, cores // processes))


def stratified_order(labels: Sequence[int], seed: int) -> list[int]:
    """Positions in a random order of which every beginning has the classes in proportion."""
    generator = torch.Generator().manual_seed(seed)
    labels_tensor = torch.tensor(labels)
    rank = torch.empty(len(labels), dtype=torch.float64)
    for label in sorted(set(labels)):
        members = (labels_tensor == label).nonzero().flatten()
        shuffled = members[torch.randperm(len(members), generator=generator)]
        rank[shuffled] = (torch.arange(len(members), dtype=torch.float64) + 0.5) / len(members)
    return rank.argsort(stable=True).tolist()


def _mix(seed: int, epoch: int) -> int:
    """One 63-bit seed from two numbers, such that (1, 2) and (2, 1) differ."""
    return (seed * 1_000_003 + epoch) % 2**63
