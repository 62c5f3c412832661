"""Data set -> batches, whose order and augmentation depend only on the seed.

Each draw of an image has its own seed, derived from the run's seed and the epoch, so the result
does not depend on the number of DataLoader workers or on where a run was resumed.
"""

from __future__ import annotations

import math
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from common.batch import Batch, Sample
from common.errors import InputError
from common.image_cache import cache_images
from common.machine import available_cores
from common.signals import stop_asked

from .distributed import World
from .folds import fold_images
from .label_noise import training_labels
from .recipe import Recipe
from .speed import MEMORY_FORMAT

#: --holdout and --limit choose the same images for every seed of a comparison.
SUBSET_SEED = 0

Draw = tuple[int, int]  # (position of the image, seed of its augmentation)
TakeShare = Callable[[int], range]  # of n items, the positions that this process takes


class SeededImages(Dataset):
    """A data set indexed by draws; an item is (sample, index), or an InputError if that failed."""

    def __init__(
        self,
        dataset: Any,
        indices: Sequence[int] | None = None,
        *,
        labels: Sequence[int] | None = None,
    ):
        """The images `indices` of a data set, in that order; all of them by default.

        labels: of every image of the data set, instead of its own.
        """
        self.dataset = dataset
        self.indices = list(range(len(dataset))) if indices is None else list(indices)
        given = dataset.labels if labels is None else labels
        self.labels = [given[index] for index in self.indices]
        self.flipped = sum(given[index] != dataset.labels[index] for index in self.indices)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, draw: Draw) -> tuple[Sample, int] | InputError:
        position, seed = draw
        index = self.indices[position]
        # Only the CPU generator: transforms use no other, and a GPU's must not change.
        before = torch.default_generator.get_state()
        torch.default_generator.manual_seed(seed)
        try:
            return self.dataset[index]._replace(label=self.labels[position]), index
        except InputError as error:
            # Returned, not raised: DataLoader would wrap the exception in a traceback.
            return error
        finally:
            torch.default_generator.set_state(before)


class Loaded(NamedTuple):
    """What a DataLoader worker returns for one batch."""

    batch: Batch | None  # None if no image can be read
    errors: list[InputError]  # one for each unreadable image


def collate(items: list[Any]) -> Loaded:
    """Items of `SeededImages` as a batch."""
    errors = [item for item in items if isinstance(item, InputError)]
    good = [item for item in items if not isinstance(item, InputError)]
    return Loaded(_batch(good) if good else None, errors)


def _batch(items: list[tuple[Sample, int]]) -> Batch:
    """Collate samples; images stay channels last in memory, as transforms leave them."""
    images = default_collate([sample.image.permute(1, 2, 0) for sample, _ in items])
    return Batch(
        images.permute(0, 3, 1, 2),
        torch.tensor([sample.label for sample, _ in items]),
        torch.tensor([index for _, index in items]),
        default_collate([dict(sample.targets) for sample, _ in items]),
    )


class TrainingBatches(Sampler[list[Draw]]):
    """Batches of draws; seed and `epoch` (from 1) determine the order.

    order: draws `num_images` positions with a seeded generator (see engine/optim.py).
    share: with several processes, the positions of a batch of n images that this one takes.
    A last batch with fewer than `min_size` images, 2 per process, would leave BatchNorm without a
    variance, so those images join the batch before it.

    Raises InputError for fewer images.
    """

    def __init__(
        self,
        num_images: int,
        batch_size: int,
        seed: int,
        order: Callable[[torch.Generator], Sequence[int]],
        *,
        share: TakeShare = range,
        min_size: int = 2,
    ):
        each = f" in each of {min_size // 2} processes" if min_size > 2 else ""
        if num_images < min_size:
            raise InputError(
                f"the training split holds {num_images} image{'s' if num_images > 1 else ''}; "
                f"BatchNorm needs at least 2{each}"
            )
        if batch_size < min_size:
            raise InputError(
                f"--batch-size is {batch_size}; BatchNorm needs at least 2 to train{each}"
            )
        self.num_images, self.seed, self.order, self.share = num_images, seed, order, share
        self.epoch = 1
        self.sizes = batch_sizes(num_images, batch_size, min_size)

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


def batch_sizes(num_images: int, batch_size: int, min_size: int = 2) -> list[int]:
    """Sizes of the batches of an epoch; none is below `min_size` if there are enough images."""
    whole, rest = divmod(num_images, batch_size)
    sizes = [batch_size] * whole
    if rest < min_size and sizes:
        sizes[-1] += rest
    elif rest:
        sizes.append(rest)
    return sizes


class OrderedBatches(Sampler[list[Draw]]):
    """Every image once, in order; with several processes, each takes its `share` of them."""

    def __init__(self, num_images: int, batch_size: int, *, share: TakeShare = range):
        self.positions, self.batch_size = share(num_images), batch_size

    def __len__(self) -> int:
        return math.ceil(len(self.positions) / self.batch_size)

    def __iter__(self) -> Iterator[list[Draw]]:
        for start in range(0, len(self.positions), self.batch_size):
            yield [(i, 0) for i in self.positions[start : start + self.batch_size]]


def make_loader(
    images: SeededImages, batches: Sampler[list[Draw]], *, workers: int, device: torch.device
) -> DataLoader:
    """A loader whose workers (none if `workers` is 0) live as long as it does."""
    return DataLoader(
        images,
        batch_sampler=batches,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
        collate_fn=collate,
        # Forked workers share the images kept in memory (engine/speed.py).
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
        # Starting workers draws a random number, and a resumed run starts them again. Drawn from
        # torch's default generator, it would change the random state of a resumed run.
        generator=torch.Generator().manual_seed(0),
    )


def make_loaders(
    recipe: Recipe, device: torch.device, world: World, image_size: int | None = None
) -> tuple[DataLoader, DataLoader]:
    """The training loader of a recipe, and the loader to evaluate on after every epoch.

    image_size: pixels; the recipe's by default.

    Raises InputError for data that are missing, too few, or not the same in every process.
    """
    if world.size > 1 and recipe.on_bad_image == "skip":
        raise InputError(
            f"--on-bad-image skip is not supported with {world.size} processes: one of them could "
            "be left without images; find the bad ones with tools.check_data"
        )
    root, size = recipe.data_root(), image_size or recipe.image_size
    train_set = recipe.dataset(root, "train", recipe.train_transform(size))
    train_set.add_targets(recipe.method.targets)
    split = "train" if recipe.holdout or recipe.fold else recipe.dataset.evaluated_split
    test_set = recipe.dataset(root, split, recipe.evaluation_transform(size))
    chosen, held_out = training_parts(recipe, train_set)
    tested = test_set.with_clear_label(held_out or range(len(test_set)))
    if len(tested) < world.size:
        raise InputError(
            f"{len(tested)} images to evaluate for {world.size} processes; start fewer processes "
            "with torchrun, or evaluate on more images"
        )
    parts = [(train_set, chosen), (test_set, tested)]
    datasets = [train_set, test_set]
    if recipe.cache == "auto":
        datasets, text = cache_images(parts, processes=world.local_size)
        print(text, flush=True)
    images = SeededImages(datasets[0], chosen, labels=training_labels(recipe, train_set))
    tests = SeededImages(datasets[1], tested)
    sums = {"labels (CRC)": zlib.crc32(repr((images.labels, tests.labels)).encode())}
    world.check_same("data", {"training images": len(images), "tests": len(tests), **sums})
    order = partial(recipe.sampling, images.labels)
    share = {"share": world.share}
    training = TrainingBatches(
        len(images), recipe.batch_size, recipe.seed, order, min_size=world.min_batch_size, **share
    )
    evaluation = OrderedBatches(len(tests), recipe.batch_size, **share)
    how = {"workers": worker_count(recipe.workers, device, world.local_size), "device": device}
    return make_loader(images, training, **how), make_loader(tests, evaluation, **how)


def training_parts(recipe: Recipe, train_set: Any) -> tuple[list[int], list[int]]:
    """Indices of the training images to train on, and of those that --fold or --holdout keeps."""
    if not recipe.fold:
        return chosen_images(train_set.labels, recipe.holdout, recipe.limit)
    kept, held_out = fold_images(train_set, recipe.fold)
    order = stratified_order([train_set.labels[i] for i in kept], SUBSET_SEED)
    return sorted(kept[position] for position in order[: recipe.limit or None]), held_out


def chosen_images(labels: Sequence[int], holdout: float, limit: int) -> tuple[list[int], ...]:
    """Indices of the training split to train on, and those that `--holdout` holds out."""
    order = stratified_order(labels, SUBSET_SEED)
    held_out = round(holdout * len(order))
    if holdout and not 0 < held_out < len(order) - 1:
        raise InputError(
            f"--holdout {holdout} keeps {held_out} of {len(order)} images out; at least 1 "
            "must be kept out and 2 left to train on"
        )
    return sorted(order[held_out:][: limit or None]), sorted(order[:held_out])


def evaluation_loader(
    images: SeededImages, batch_size: int, *, workers: int, device: torch.device
) -> DataLoader:
    """A loader of every image once, in order."""
    batches = OrderedBatches(len(images), batch_size)
    return make_loader(images, batches, workers=worker_count(workers, device), device=device)


def batches_on(
    loader: DataLoader, device: torch.device, *, skipped: list[str] | None = None, min_size: int = 1
) -> Iterator[Batch]:
    """The batches of a loader, on the device, channels last.

    skipped: gets a line for each image that cannot be read, which is left out of its batch, and
        for the images of a batch that has fewer than `min_size` left; without this list, the
        first unreadable image ends the loop.

    Raises the InputError of such an image, and `Stopped` after a signal to stop.
    """
    for batch, errors in loader:
        if (stopped := stop_asked()) is not None:
            raise stopped
        if errors and skipped is None:
            # Popped, since an error that its own frame refers to would keep the workers alive.
            raise errors.pop(0)
        if errors:
            skipped += [str(error) for error in errors]
        if batch is None:
            continue
        if errors and len(batch) < min_size:
            dataset = loader.dataset.dataset
            skipped += [f"{dataset.describe(i)} alone in its batch" for i in batch.indices.tolist()]
            continue
        yield batch.to(device, MEMORY_FORMAT)


@contextmanager
def reporting_worker_crashes() -> Iterator[None]:
    """Turns the crash of a DataLoader worker, which torch may report anywhere, into one line.

    Raises InputError, or `Stopped` if the signal that ended the worker was sent to us as well.
    """
    try:
        yield
    except (RuntimeError, ConnectionResetError, EOFError) as error:
        # The first of two chained errors names the signal; a worker that dies while it sends a
        # batch leaves a broken connection instead.
        text = " ".join(f"{error.__cause__ or ''} {error}".split())
        if "DataLoader worker" not in text and isinstance(error, RuntimeError):
            raise
        if not any(name in text for name in ("Killed", "Bus error")):
            # A signal to the whole job reaches its processes one by one. Meanwhile torch may raise.
            with suppress(RuntimeError):
                time.sleep(1)
        if (stopped := stop_asked()) is not None:
            raise stopped from None
        reason = text if "signal" in text else "killed by the system, as when memory runs out"
        for name, cause in (("Killed", "when memory runs out"), ("Bus", "without shared memory")):
            reason = f"killed by the system, as {cause}" if f"signal: {name}" in text else reason
        raise InputError(
            f"a DataLoader worker died: {reason}; use fewer --workers or a smaller --batch-size; a "
            "training run goes on with --resume"
        ) from error


def worker_count(requested: int, device: torch.device, processes: int = 1) -> int:
    """The number of DataLoader workers for `--workers`; -1: see `Recipe.workers`.

    processes: the number of training processes that share the cores.
    """
    if requested >= 0:
        return requested
    if device.type == "cpu":
        # Workers and the network's threads share the cores; loading needs less than a quarter.
        return min(8, torch.get_num_threads() // 4)
    return min(8, max(1, len(available_cores()) // processes))


def stratified_order(labels: Sequence[int], seed: int) -> list[int]:
    """Positions in a random order, every prefix of which has the classes in proportion."""
    generator = torch.Generator().manual_seed(seed)
    labels_tensor = torch.tensor(labels)
    rank = torch.empty(len(labels), dtype=torch.float64)
    for label in sorted(set(labels)):
        members = (labels_tensor == label).nonzero().flatten()
        shuffled = members[torch.randperm(len(members), generator=generator)]
        rank[shuffled] = (torch.arange(len(members), dtype=torch.float64) + 0.5) / len(members)
    return rank.argsort(stable=True).tolist()


def _mix(seed: int, epoch: int) -> int:
    """One 63-bit seed from two numbers; (1, 2) and (2, 1) give different ones."""
    return (seed * 1_000_003 + epoch) % 2**63
