"""A recipe describes one experiment: callables, and fields that are command-line flags."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LinearLR, LRScheduler, SequentialLR

from common.errors import InputError
from common.flags import flag, fraction, not_negative, positive, seed_number
from common.growing import check_schedule, is_schedule, size_at

from .folds import is_fold
from .optim import OPTIMIZERS, SAMPLINGS, SCHEDULES, shuffle


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that defines a run.

    The callables, in the order in which they are used:
        dataset(root, split, transform) -> data set whose items are `common.batch.Sample`, with
            `name`, `root`, `split`, `classes`, `labels`, `layout`, `describe(i)`, `read_image(i)`,
            `sample(i, image)`, `targets(i)`, `add_targets(method.targets)`, `is_published()`,
            `persons()`, `listed_labels(file)`, `default_root` and `evaluated_split`. A class, or a
            dataclass whose fields are flags
        train_transform(size), evaluation_transform(size) -> image -> tensor (3, size, size)
        method.network(num_classes), method.criterion(num_classes) -> modules; the network takes
            images, the criterion the network's output and the batch: its `total` is
            differentiated, its `terms` are logged; its `epoch` is set, from 1. A network with a
            parameter `image_size` is given the recipe's
        method.backbone(network) -> the module that is pre-trained
        method.training_batch(batch, num_classes) -> the batch to train on
        method.fast(network, device) -> a faster network with the same output, for --fast
        method.advice(optimizer) -> lines of warning to print before the first step
        sampling(labels, generator) -> positions of the images of an epoch, in order
        optimizer(parameters, lr=...) and scheduler(optimizer), stepped once an epoch; a
            scheduler with a parameter `epochs` is given those after the warm-up

    The other fields, and those of a nested dataclass such as `method`, are flags of the script.
    """

    name: str
    dataset: Callable[..., Any]
    train_transform: Callable[[int], Callable]
    evaluation_transform: Callable[[int], Callable]
    method: Any

    epochs: int = flag(check=positive, expected="at least 1", help="passes over the training split")
    batch_size: int = flag(
        check=lambda size: size >= 2, expected="at least 2 (BatchNorm)", help="images per step"
    )
    lr: float = flag(check=positive, help="learning rate of the first epoch")
    backbone_lr: float = flag(
        1.0,
        check=positive,
        help="learning rate of the pre-trained backbone, as a multiple of --lr",
    )
    optimizer: Callable = flag(choices=OPTIMIZERS, help="optimiser over network and centers")
    scheduler: Callable = flag(choices=SCHEDULES, help="learning rate over the epochs")
    warmup: int = flag(
        0,
        check=not_negative,
        help="epochs in which the rate rises linearly, before the scheduler begins",
    )
    ema: float = flag(
        0.0,
        check=fraction,
        help="decay per step of an exponential moving average of the weights, which is then what "
        "is evaluated and saved; it begins with a lower one (0: off)",
    )
    sampling: Callable = flag(
        shuffle,
        choices=SAMPLINGS,
        help="images of an epoch: shuffle (each once), balanced (as many draws, with replacement, "
        "every class equally likely), or sqrt (each as likely as the root of its images)",
    )
    image_size: int = flag(
        224,
        check=lambda size: 32 <= size <= 4096,
        expected="32 to 4096",
        help="side of the square network input, pixels",
    )
    grow: str = flag(
        "",
        check=is_schedule,
        expected="SIZExEPOCHS,... such as 64x20,96x5",
        help="smaller images first: 64x20,96x5 for 20 epochs at 64 px and 5 at 96 px, before those "
        "at --image-size",
    )
    amp: str = flag(
        "off",
        choices=("auto", "bf16", "off"),
        help="mixed precision: off, bf16, or auto: bf16 where the hardware natively supports it",
    )
    holdout: float = flag(
        0.0,
        check=fraction,
        help="fraction of each class of the training split to hold out and evaluate on instead of "
        "the test split, for choosing settings",
    )
    fold: str = flag(
        "",
        check=is_fold,
        expected="I/K such as 2/5, with I from 1 to K and K at least 2",
        help="of K folds of the training split, train on all but the I-th and evaluate on that "
        "instead of the test split; give 1/K to K/K in turn",
    )
    limit: int = flag(
        0,
        check=not_negative,
        help="train on this many images, with the classes in proportion (0: all)",
    )
    label_noise: float = flag(
        0.0,
        check=fraction,
        help="probability with which a training label is replaced by one of the other classes, all "
        "equally likely; the evaluated labels stay clean",
    )
    noise_seed: int = flag(
        0,
        check=seed_number,
        help="seed of --label-noise alone, so that runs with other seeds have the same labels",
    )
    noisy_labels: str = flag(
        "",
        help="file with a line 'image label' for every training image, to train on those labels "
        "instead",
    )
    seed: int = flag(
        0,
        check=seed_number,
        help="seed of all random numbers: weights, order, augmentation",
    )
    data: str = flag("", help="data folder (default: the data set's own)", affects_result=False)
    output: str = flag(
        "", help="run folder (default: runs/<recipe>-seed<seed>)", affects_result=False
    )
    workers: int = flag(
        -1,
        check=lambda workers: workers >= -1,
        expected="at least 0, or -1",
        help="DataLoader workers (0: none; -1: on a GPU one per core, on a CPU one for every four "
        "--threads; 8 at most)",
        affects_result=False,
    )
    threads: int = flag(
        0,
        check=not_negative,
        help="threads for the network on a CPU (0: one per core); other numbers round differently",
        affects_result=False,
    )
    cache: str = flag(
        "auto",
        choices=("auto", "off"),
        help="keep decoded images in memory: auto (if they fit in half of the free memory), off",
        affects_result=False,
    )
    device: str = flag(
        "auto", help="auto (a GPU if there is one), cpu, cuda, cuda:1, mps", affects_result=False
    )
    fast: bool = flag(
        False,
        help="evaluate with a fused network: faster, the same numbers up to rounding",
        affects_result=False,
    )
    compile: bool = flag(
        False,
        help="compile the network with torch.compile: for a GPU; takes a minute at the start",
        affects_result=False,
    )
    deterministic: bool = flag(
        False,
        help="on a GPU, use only deterministic algorithms, or fail where there is none (slower); "
        "a CPU is deterministic anyway",
        affects_result=False,
    )
    on_bad_image: str = flag(
        "stop",
        choices=("stop", "skip"),
        help="an unreadable image ends the run (stop), or is skipped and listed after the epoch",
        affects_result=False,
    )
    resume: bool = flag(
        False, help="continue the run in the run folder, if there is one", affects_result=False
    )

    def __post_init__(self):
        """Raises InputError for flags that exclude each other, or that leave no epochs."""
        if self.fold and self.holdout:
            raise InputError(
                f"--fold {self.fold} and --holdout {self.holdout} both hold training images out; "
                "give one of them"
            )
        if self.label_noise and self.noisy_labels:
            raise InputError("give either --label-noise or --noisy-labels, not both")
        if self.warmup >= self.epochs:
            raise InputError(f"--warmup {self.warmup} leaves none of --epochs {self.epochs}")
        check_schedule(self.grow, self.image_size, self.epochs)

    def run_folder(self) -> Path:
        """The folder that the run writes to."""
        return Path(self.output) if self.output else Path("runs") / f"{self.name}-seed{self.seed}"

    def data_root(self) -> Path:
        """The folder that the data set is read from."""
        return Path(self.data) if self.data else self.dataset.default_root

    def image_size_at(self, epoch: int) -> int:
        """The image size of an epoch, counted from 1."""
        return size_at(self.grow, self.image_size, epoch)

    def make_scheduler(self, optimizer: Optimizer) -> LRScheduler:
        """The recipe's scheduler for an optimiser, after a warm-up if there is one."""
        if not self.warmup:
            return _call(self.scheduler, optimizer, epochs=self.epochs)
        # Epoch i of n has i / (n + 1) of the rate.
        rising = LinearLR(optimizer, 1 / (self.warmup + 1), total_iters=self.warmup)
        falling = _call(self.scheduler, optimizer, epochs=self.epochs - self.warmup)
        return SequentialLR(optimizer, [rising, falling], milestones=[self.warmup])

    def make_network(self, num_classes: int) -> nn.Module:
        """The method's network; passes `image_size` if it has that parameter."""
        return _call(self.method.network, num_classes, image_size=self.image_size)


def _call(make: Callable[..., Any], argument: Any, **offered: Any) -> Any:
    """Call with the argument and those of the offered ones that have a parameter."""
    known = inspect.signature(make).parameters
    return make(argument, **{name: value for name, value in offered.items() if name in known})


def flags_that_may_change() -> set[str]:
    """Names of the flags that may change between a run and its `--resume`."""
    fields = (field for field in dataclasses.fields(Recipe) if "help" in field.metadata)
    return {field.name for field in fields if not field.metadata["affects_result"]}
