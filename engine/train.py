"""The training loop: a recipe in, a run folder out."""

from __future__ import annotations

import platform
import shlex
import time
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader
from tqdm import tqdm

from common.devices import find_device
from common.errors import InputError
from common.files import write_json, write_text
from common.signals import Stopped

from .checkpoint import (
    BEST,
    LAST,
    random_states,
    save_checkpoint,
    seed_everything,
)
from .compiling import compiler_told
from .device import memory_format, use_deterministic_algorithms, wants_bf16
from .distributed import Step, World, command_line, world_of
from .evaluate import confusion_of, predict
from .left_out import LeftOut
from .loading import (
    OrderedBatches,
    SeededImages,
    TrainingBatches,
    batches_on,
    dead_workers_told,
    make_loader,
    stratified_order,
    worker_count,
)
from .lock import run_lock
from .loss_log import LossLog
from .memory import keep_in_memory
from .optim import make_optimizer
from .progress import duration, progress_bar
from .recipe import Recipe, settings
from .resume import claim, differences, restore_states

# The images that --holdout and --limit choose are the same for every seed of a comparison.
SUBSET_SEED = 0


@dataclass
class Run:
    """A run between two steps."""

    recipe: Recipe
    folder: Path
    device: torch.device
    bf16: bool
    training: DataLoader
    evaluation: DataLoader
    network: nn.Module
    criterion: nn.Module
    optimizer: Optimizer
    scheduler: LRScheduler
    parallel: nn.Module  # network and criterion as torch's engine runs them
    world: World = field(default_factory=World)
    epoch: int = 0  # epochs done
    saved: int = 0  # and written
    rows: list[dict[str, float]] = field(default_factory=list)  # metrics.csv
    left_out: LeftOut = field(default_factory=LeftOut)  # images, of the epoch that runs

    @property
    def dataset(self) -> Any:
        """The data set that is trained on."""
        return self.training.dataset.dataset

    @property
    def evaluated(self) -> Any:
        """The data set that is evaluated after every epoch."""
        return self.evaluation.dataset.dataset

    @property
    def skips(self) -> bool:
        """Whether images that cannot be used are left out."""
        return self.recipe.on_bad_image == "skip"

    def bar(self, total: int, description: str) -> dict[str, Any]:
        """Arguments of tqdm; the first process alone draws."""
        return progress_bar(total, description) if self.world.first else {"disable": True}

    def evaluating(self) -> nn.Module:
        """The network as it evaluates: a quicker equivalent, where the method knows one."""
        make = getattr(self.recipe.method, "inference", None)
        if make is None or self.recipe.plain:
            return self.network
        return make(self.network, self.device)

    def best_row(self) -> dict[str, float]:
        """The epoch with the best accuracy on the evaluated split, the first of equals."""
        return max(self.rows, key=lambda row: row["accuracy"])

    def content(self) -> dict[str, Any]:
        """The run as a checkpoint; see engine/checkpoint.py."""
        return {
            "iter": self.epoch,
            "model_state_dict": self.network.state_dict(),
            "optimizer_state_dict": self.optimizer.state_dict(),
            "criterion_state_dict": self.criterion.state_dict(),
            "scheduler_state_dict": self.scheduler.state_dict(),
            "recipe": self.recipe.name,
            "settings": settings(self.recipe),
            "dataset": self.dataset.name,
            "class_names": list(self.dataset.classes),
            "training_images": len(self.training.dataset),
            "metrics": self.rows,
            "random_states": random_states(),
        }

    def restore(self, content: dict[str, Any]) -> None:
        """Go back to a checkpoint of this run; raises InputError where the data have changed."""
        before, now = content.get("training_images"), len(self.training.dataset)
        if before != now:
            raise InputError(
                f"{self.folder} was trained on {before} images, {self.dataset.root} now gives "
                f"{now}; restore the data, or start another run with --output"
            )
        restore_states(self, content)
        self.epoch = self.saved = content["iter"]
        self.rows = content["metrics"]


def train(recipe: Recipe) -> None:
    """Train by a recipe and write its run folder.

    Raises InputError for data, weights, a device or a folder that does not fit the recipe.
    """
    folder = recipe.run_folder()
    with world_of(recipe.device) as world, _held(folder) if world.first else nullcontext():
        _check_settings(recipe, world)
        _train(recipe, folder, world.same(lambda: claim(folder, recipe)), world)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold the run folder; it may be there and is none: then raises InputError."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--output {folder} is a file; expected a folder")
    with run_lock(folder):
        yield


def _check_settings(recipe: Recipe, world: World) -> None:
    """Raises InputError in a process that was given other settings than the first."""
    first = world.same(lambda: {"recipe": recipe.name, "settings": settings(recipe)})
    if differing := differences(first, recipe):
        raise InputError(
            f"process {world.rank} of {world.size} was started with other settings than the first: "
            f"{'; '.join(differing)}; give every machine the same command"
        )


def _train(recipe: Recipe, folder: Path, checkpoint: dict[str, Any] | None, world: World) -> None:
    """`train` in a folder that is held, from a checkpoint or from the start."""
    if checkpoint is not None and checkpoint["iter"] >= recipe.epochs:
        print(f"{folder} is finished: {recipe.epochs} epochs; nothing to resume")
        return
    current = prepare(recipe, world)
    if checkpoint is not None:
        current.restore(checkpoint)
    elif world.first:
        write_json(folder / "config.json", _config(current))
    _announce(current)
    try:
        with world.last_words():
            while current.epoch < recipe.epochs:
                train_epoch(current)
    except (Stopped, RuntimeError) as error:  # RuntimeError: the other processes may be gone
        error.advice = _advice(current)
        raise
    best, last = current.best_row(), current.rows[-1]
    print(
        f"done: {_scores(last)} after the last epoch; best epoch {best['epoch']}: "
        f"{_scores(best)}; evaluate with: python eval.py {folder / LAST}"
    )


def _advice(current: Run) -> str:
    """How to go on with a run that is stopped."""
    saved = f"{current.saved} of {current.recipe.epochs} epochs are in {current.folder}; "
    again = shlex.join(word for word in command_line() if word != "--resume")
    # Others than the first process do not know what it has written.
    return f"{saved if current.world.first else ''}go on with: {again} --resume"


def prepare(recipe: Recipe, world: World | None = None) -> Run:
    """Data, network, loss, optimiser and scheduler of a recipe, seeded, before the first step."""
    world = world or World()
    if world.size > 1 and recipe.on_bad_image == "skip":
        raise InputError(
            f"--on-bad-image skip with {world.size} processes is not offered: one of them could be "
            "left without images; find the bad ones with tools.check_data"
        )
    if recipe.plain and (recipe.compile or recipe.amp == "bf16"):
        other = "--compile" if recipe.compile else "--amp bf16"
        raise InputError(f"--plain and {other} do not go together; leave one of them out")
    device = find_device(world.device_name(recipe.device))
    if recipe.deterministic:
        use_deterministic_algorithms()
    else:
        # Images all have one size, so looking for the fastest kernels once pays; GPUs only.
        torch.backends.cudnn.benchmark = True
    training, evaluation = make_loaders(recipe, device, world)
    seed_everything(recipe.seed)
    num_classes = len(training.dataset.dataset.classes)
    layout = memory_format(recipe.plain)
    network = recipe.method.network(num_classes).to(device, memory_format=layout)
    network = world.synchronized(network, device)
    criterion = recipe.method.criterion(num_classes).to(device)
    # The order of the release: the network's parameters, last the centres.
    parameters = [*network.parameters(), *criterion.parameters()]
    optimizer = make_optimizer(recipe.optimizer, parameters, lr=recipe.lr, plain=recipe.plain)
    for line in recipe.method.advice(optimizer):
        warnings.warn(line, stacklevel=2)
    if recipe.compile:
        network.compile()
    bf16 = wants_bf16("off" if recipe.plain else recipe.amp, device)
    return Run(
        recipe=recipe,
        folder=recipe.run_folder(),
        device=device,
        bf16=bf16,
        training=training,
        evaluation=evaluation,
        network=network,
        criterion=criterion,
        optimizer=optimizer,
        scheduler=recipe.make_scheduler(optimizer),
        parallel=world.together(Step(network, criterion, bf16), device),
        world=world,
    )


def make_loaders(
    recipe: Recipe, device: torch.device, world: World | None = None
) -> tuple[DataLoader, DataLoader]:
    """Loaders of what is trained on and of what is evaluated after every epoch."""
    world = world or World()
    root, size = recipe.data_root(), recipe.image_size
    train_set = recipe.dataset(root, "train", recipe.train_transform(size))
    split = "train" if recipe.holdout else recipe.dataset.evaluated_split
    test_set = recipe.dataset(root, split, recipe.evaluation_transform(size))
    order = stratified_order(train_set.labels, SUBSET_SEED)
    held_out = round(recipe.holdout * len(order))
    if recipe.holdout and not 0 < held_out < len(order) - 1:
        raise InputError(
            f"--holdout {recipe.holdout} keeps {held_out} of {len(order)} images out; at least 1 "
            "must be kept out and 2 left to train on"
        )
    chosen = order[held_out:][: recipe.limit or None]
    images = SeededImages(train_set, sorted(chosen))
    tests = SeededImages(test_set, sorted(order[:held_out]) if held_out else None)
    if len(tests) < world.size:
        raise InputError(
            f"{len(tests)} images to evaluate for {world.size} processes; give torchrun fewer, or "
            "more images"
        )
    workers = worker_count(recipe.workers, world.local_size)
    if recipe.cache == "auto" and not recipe.plain:
        print(keep_in_memory([images, tests], processes=world.local_size), flush=True)
    _check_data(images, tests, world)
    return (
        make_loader(
            images,
            TrainingBatches(
                len(images),
                recipe.batch_size,
                recipe.seed,
                partial(recipe.sampling, images.labels),
                share=world.share,
                least=world.least,
            ),
            workers=workers,
            device=device,
        ),
        make_loader(
            tests,
            OrderedBatches(len(tests), recipe.batch_size, share=world.share),
            workers=workers,
            device=device,
        ),
    )


def _check_data(images: SeededImages, tests: SeededImages, world: World) -> None:
    """Raises InputError in a process that finds other data than the first."""
    labels = zlib.crc32(repr((images.labels, tests.labels)).encode())
    found = (len(images), len(tests), labels)
    first = world.same(lambda: found)
    if found != first:
        raise InputError(
            f"process {world.rank} of {world.size} finds other data than the first in "
            f"{images.dataset.root}: {found[0]} training and {found[1]} evaluated images, there "
            f"{first[0]} and {first[1]}, or other labels; every machine needs the same data"
        )


def train_epoch(current: Run) -> None:
    """One pass over the training split, one over the evaluated one; then write both."""
    started = time.perf_counter()
    epoch, epochs = current.epoch + 1, current.recipe.epochs
    lr = current.optimizer.param_groups[0]["lr"]
    current.left_out = LeftOut()
    means = optimize_epoch(current, epoch, lr)
    images_per_second = len(current.training.dataset) / (time.perf_counter() - started)
    current.scheduler.step()
    current.world.take_over_statistics(current.network)
    logits, labels = predict(
        current.evaluating(),
        current.evaluation,
        current.device,
        progress=current.bar(len(current.evaluation.dataset), f"evaluation {epoch}/{epochs}"),
        left_out=current.left_out.evaluation if current.skips else None,
    )
    scores = confusion_of(current.world.joined(logits), current.world.joined(labels)).metrics()
    current.epoch = epoch
    current.rows.append({"epoch": epoch, "lr": lr, **means, **scores})
    if current.world.first:
        _write(current)
    current.saved = current.epoch
    seconds = time.perf_counter() - started
    terms = "  ".join(f"{name} {value:.4f}" for name, value in means.items())
    print(
        f"epoch {epoch}/{epochs}  lr {lr:.3g}  {terms}  {_scores(scores)}  "
        f"{images_per_second:.0f} images/s  {seconds:.0f} s, "
        f"{duration(seconds * (epochs - epoch))} left",
        flush=True,
    )
    current.left_out.report(current.folder, epoch)


@dead_workers_told()
@compiler_told()
def optimize_epoch(current: Run, epoch: int, lr: float) -> dict[str, float]:
    """Take the steps of one epoch; returns the mean of the loss and of its terms."""
    current.network.train()
    current.criterion.train()
    batches, world = current.training.batch_sampler, current.world
    batches.epoch = epoch
    log = LossLog(current, epoch, lr)
    bar = current.bar(len(current.training.dataset), f"epoch {epoch}/{current.recipe.epochs}")
    left_out = current.left_out.training if current.skips else None
    sizes = iter(batches.sizes)
    with tqdm(**bar) as progress:
        loaded = batches_on(current.training, current.device, left_out, plain=current.recipe.plain)
        for images, labels, indices in loaded:
            if left_out and len(images) < 2:  # too few for BatchNorm
                left_out.append(f"{current.dataset.describe(int(indices))} alone in its batch")
                continue
            # torch averages over the processes, so each counts by its share of the batch.
            size = next(sizes) if world.size > 1 else len(images)
            total, loss, terms = current.parallel(images, labels, world.size * len(images) / size)
            log.add(loss, terms, indices)
            current.optimizer.zero_grad(set_to_none=True)
            total.backward()
            current.optimizer.step()
            progress.set_postfix(log.shown(), refresh=False)
            progress.update(size)
    return log.means()


def _write(current: Run) -> None:
    """metrics.csv, last.pth, and best.pth where this epoch is the best so far."""
    names = list(current.rows[0])
    lines = [",".join(names)]
    lines += [",".join(repr(row[name]) for name in names) for row in current.rows]
    write_text(current.folder / "metrics.csv", "\n".join(lines) + "\n")
    content = current.content()
    if current.best_row() is current.rows[-1]:
        save_checkpoint(current.folder / BEST, content)
    # Last, since --resume goes by it: a run that is cut before it repeats the epoch.
    save_checkpoint(current.folder / LAST, content)


def _config(current: Run) -> dict[str, Any]:
    """config.json: what was asked for, and what it ran on."""
    return {
        "recipe": current.recipe.name,
        "settings": settings(current.recipe),
        "dataset": current.dataset.name,
        "class_names": list(current.dataset.classes),
        "training_images": len(current.training.dataset),
        "evaluated_images": len(current.evaluation.dataset),
        "evaluated_split": "holdout" if current.recipe.holdout else current.evaluated.split,
        "published_images": current.dataset.is_published() and current.evaluated.is_published(),
        "layout": current.dataset.layout,
        "parameters": sum(p.numel() for p in current.network.parameters()),
        "bf16": current.bf16,
        "processes": current.world.size,
        "device": _device_name(current.device),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
        },
        "command": shlex.join(command_line()),
    }


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} {torch.cuda.get_device_name(device)}"
    return f"{device} ({torch.get_num_threads()} threads)"


def _announce(current: Run) -> None:
    recipe = current.recipe
    split = "held out" if recipe.holdout else current.evaluated.split
    layout = f" from the layout {current.dataset.layout!r}" if current.dataset.layout else ""
    print(
        f"{recipe.name}: {len(current.training.dataset):,} training and "
        f"{len(current.evaluation.dataset):,} {split} images{layout} at {recipe.image_size} px, "
        f"{type(current.network).__name__} on {_device_name(current.device)}"
        f"{' in bfloat16' if current.bf16 else ''}"
        f"{f' in {current.world.size} processes' if current.world.size > 1 else ''}"
        f", seed {recipe.seed} -> {current.folder}"
        f"{f', from epoch {current.epoch + 1}' if current.epoch else ''}",
        flush=True,
    )


def _scores(row: dict[str, float]) -> str:
    return (
        f"accuracy {100 * row['accuracy']:.2f} % "
        f"(mean class accuracy {100 * row['mean_class_accuracy']:.2f} %)"
    )
