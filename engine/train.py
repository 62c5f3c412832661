"""The training loop: a recipe in, a run folder out.

`train` is the whole run, `build` makes what it needs, `train_one_epoch` takes the steps.
"""

from __future__ import annotations

import time
import warnings
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.elastic.multiprocessing.errors import record
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader
from tqdm import tqdm

from common.cli import call_main
from common.devices import find_device, set_determinism, wants_bf16
from common.flags import parse_flags, settings
from common.machine import use_threads
from common.progress import duration, progress_bar
from common.random_states import seed_everything
from common.signals import Stopped

from .checkpoint import checkpoint_to_resume, restore, save_run
from .data import batches_on, make_loaders, reporting_worker_crashes
from .distributed import World, join_processes, wrap_ddp
from .evaluate import Metrics, Predictions, predict
from .loss_log import LossLog
from .optim import make_optimizer, moving_average
from .recipe import Recipe
from .run_folder import LAST, Skipped, announcement, refuse_existing_run, run_lock, write_config
from .speed import MEMORY_FORMAT, autocast, reporting_compiler_errors


@dataclass
class Run:
    """The state of a run."""

    recipe: Recipe
    folder: Path
    world: World
    device: torch.device
    bf16: bool
    image_size: int  # of the two loaders
    training: DataLoader
    evaluation: DataLoader
    network: nn.Module
    criterion: nn.Module
    ddp_network: nn.Module  # the two above; wrapped if there are several processes
    ddp_criterion: nn.Module
    optimizer: Optimizer
    scheduler: LRScheduler
    average: AveragedModel | None  # with --ema, the moving average of the network
    epoch: int = 0  # finished epochs
    saved: int = 0  # epochs that are on disk
    rows: list[dict[str, float]] = field(default_factory=list)  # of metrics.csv
    skipped: Skipped = field(default_factory=Skipped)  # in the current epoch

    @property
    def dataset(self) -> Any:
        """The training data set."""
        return self.training.dataset.dataset

    @property
    def result(self) -> nn.Module:
        """The network to evaluate and to use: the average if there is one."""
        return self.network if self.average is None else self.average.module

    def best_row(self) -> dict[str, float]:
        """The epoch with the best accuracy of those at the last image size, the first of equals."""
        size_at = self.recipe.image_size_at
        rows = [row for row in self.rows if size_at(row["epoch"]) == size_at(len(self.rows))]
        return max(rows, key=lambda row: row["accuracy"])

    def list_if_skipping(self, found: list[str]) -> list[str] | None:
        """`found` with --on-bad-image skip, else None: an unreadable image is then an error."""
        return found if self.recipe.on_bad_image == "skip" else None

    def bar(self, images: int, description: str) -> dict[str, Any]:
        """Arguments of tqdm; only the first process shows a bar."""
        return progress_bar(images, description) if self.world.first else {"disable": True}


def run(recipe: Recipe, description: str) -> None:
    """What a train script does: read the flags, train, exit with a status."""
    # With `record`, torchrun's summary shows the exception of the process that failed.
    call_main(lambda: record(train)(parse_flags(recipe, description)))


def train(recipe: Recipe) -> None:
    """Train as the recipe says and write its run folder.

    Raises InputError for data, weights, a device or a folder that does not fit the recipe.
    """
    folder = recipe.run_folder()
    with join_processes(recipe.device) as world, run_lock(folder) if world.first else nullcontext():
        world.check_same("settings", settings(recipe, result_only=True))
        if world.first:
            refuse_existing_run(folder, resume=recipe.resume)
        checkpoint = world.broadcast_from_first(lambda: checkpoint_to_resume(folder, recipe))
        if checkpoint is not None and checkpoint["iter"] >= recipe.epochs:
            print(f"{folder} is finished: {recipe.epochs} epochs; nothing to resume")
            return
        run = build(recipe, world, epoch=checkpoint["iter"] + 1 if checkpoint else 1)
        if checkpoint is not None:
            restore(run, checkpoint)
        elif world.first:
            write_config(run)
        print(announcement(run), flush=True)
        try:
            while run.epoch < recipe.epochs:
                run_epoch(run)
        except Stopped as stopped:
            done = f"{run.saved} of {recipe.epochs} epochs are in {folder}; " if world.first else ""
            stopped.advice = f"{done}to continue, repeat the command with --resume"
            raise
        best, last = run.best_row(), run.rows[-1]
        print(
            f"done: {_scores(last)} after the last epoch; best epoch {best['epoch']}: "
            f"{_scores(best)}; evaluate with: python eval.py {folder / LAST}"
        )


def build(recipe: Recipe, world: World | None = None, *, epoch: int = 1) -> Run:
    """Seed, then make data, network, loss, optimiser and scheduler; `epoch` is the first to run."""
    world = world or World()
    device = find_device(world.device_name(recipe.device))
    set_determinism(deterministic=recipe.deterministic)
    use_threads(recipe.threads, device)
    image_size = recipe.image_size_at(epoch)
    training, evaluation = make_loaders(recipe, device, world, image_size)
    seed_everything(recipe.seed)
    num_classes = len(training.dataset.dataset.classes)
    network = recipe.make_network(num_classes).to(device, memory_format=MEMORY_FORMAT)
    if world.size > 1 and device.type == "cuda":
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    criterion = recipe.method.criterion(num_classes).to(device)
    # The release's order: the network's parameters, then the centers.
    parameters = [*network.parameters(), *criterion.parameters()]
    backbone = [] if recipe.backbone_lr == 1 else recipe.method.backbone(network).parameters()
    rates = {"lr": recipe.lr, "backbone_lr": recipe.backbone_lr}
    optimizer = make_optimizer(recipe.optimizer, parameters, backbone=backbone, **rates)
    for line in recipe.method.advice(optimizer):
        warnings.warn(line, stacklevel=2)
    average = moving_average(network, recipe.ema)
    if recipe.compile:
        network.compile()
    ddp_network, ddp_criterion = wrap_ddp(network, criterion, world)
    return Run(
        recipe=recipe,
        folder=recipe.run_folder(),
        world=world,
        device=device,
        bf16=wants_bf16(recipe.amp, device),
        image_size=image_size,
        training=training,
        evaluation=evaluation,
        network=network,
        criterion=criterion,
        ddp_network=ddp_network,
        ddp_criterion=ddp_criterion,
        optimizer=optimizer,
        scheduler=recipe.make_scheduler(optimizer),
        average=average,
    )


def run_epoch(run: Run) -> None:
    """Train for one epoch, evaluate, and write metrics and checkpoints."""
    started = time.perf_counter()
    recipe, epoch, epochs = run.recipe, run.epoch + 1, run.recipe.epochs
    if run.image_size != (size := recipe.image_size_at(epoch)):
        run.image_size = size
        run.training, run.evaluation = make_loaders(recipe, run.device, run.world, size)
    lr = run.optimizer.param_groups[0]["lr"]
    run.skipped = Skipped()
    means = train_one_epoch(run, epoch)
    images_per_second = len(run.training.dataset) / (time.perf_counter() - started)
    run.scheduler.step()
    found = evaluate(run, epoch)
    scores = Metrics.of(found.logits, found.labels).scores()
    run.epoch = epoch
    run.rows.append({"epoch": epoch, "lr": lr, **means, **scores})
    if run.world.first:
        save_run(run, found, images_per_second)
    run.saved = epoch
    seconds = time.perf_counter() - started
    terms = "  ".join(f"{name} {value:.4f}" for name, value in means.items())
    print(
        f"epoch {epoch}/{epochs}  lr {lr:.3g}  {terms}  {_scores(scores)}  "
        f"{images_per_second:.0f} images/s  {seconds:.0f} s, "
        f"{duration(seconds * (epochs - epoch))} left",
        flush=True,
    )
    run.skipped.report(run.folder, epoch)


@reporting_worker_crashes()
@reporting_compiler_errors()
def train_one_epoch(run: Run, epoch: int) -> dict[str, float]:
    """Take the steps of one epoch; returns the means of the loss and its terms."""
    network, criterion = run.ddp_network.train(), run.ddp_criterion.train()
    run.training.batch_sampler.epoch = run.criterion.epoch = epoch
    log = LossLog(run.device, run.dataset.describe)
    skipped = run.list_if_skipping(run.skipped.training)
    with tqdm(**run.bar(len(run.training.dataset), f"epoch {epoch}/{run.recipe.epochs}")) as bar:
        for loaded in batches_on(run.training, run.device, skipped=skipped, min_size=2):
            batch = run.recipe.method.training_batch(loaded, len(run.dataset.classes))
            with autocast(run.device, run.bf16):
                output = network(batch.images)
            loss = criterion(output, batch)
            run.optimizer.zero_grad(set_to_none=True)
            loss.total.backward()
            run.optimizer.step()
            if run.average is not None:
                run.average.update_parameters(run.network)
            log.add(loss, batch)
            bar.set_postfix(log.shown(), refresh=False)
            bar.update(len(batch) * run.world.size)
    return log.means(run.world)


@reporting_compiler_errors()
def evaluate(run: Run, epoch: int) -> Predictions:
    """The network's output on the evaluated split, after an epoch."""
    run.world.broadcast_buffers(run.result)
    logits, labels, indices = predict(
        run.recipe.method.fast(run.result, run.device) if run.recipe.fast else run.result,
        run.evaluation,
        run.device,
        progress=run.bar(len(run.evaluation.dataset), f"evaluation {epoch}/{run.recipe.epochs}"),
        skipped=run.list_if_skipping(run.skipped.evaluation),
    )
    logits, labels, positions = map(run.world.gather, (logits, labels, torch.tensor(indices)))
    return Predictions(logits, labels, positions.tolist())


def _scores(row: dict[str, float]) -> str:
    return (
        f"accuracy {100 * row['accuracy']:.2f} % "
        f"(mean class accuracy {100 * row['mean_class_accuracy']:.2f} %)"
    )
