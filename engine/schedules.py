"""Learning rates over the epochs, by the name that `--scheduler` takes."""

from __future__ import annotations

from functools import partial

from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    ExponentialLR,
    LinearLR,
    LRScheduler,
    SequentialLR,
    StepLR,
)


def constant(optimizer: Optimizer) -> LRScheduler:
    """The same rate in every epoch."""
    return StepLR(optimizer, step_size=2**31)


def cosine(optimizer: Optimizer, epochs: int) -> LRScheduler:
    """Half a cosine from the first rate down towards 0 over the run."""
    return CosineAnnealingLR(optimizer, T_max=epochs)


def warmup_cosine(optimizer: Optimizer, epochs: int) -> LRScheduler:
    """A first epoch at a tenth of the rate, then half a cosine over the rest."""
    rest = CosineAnnealingLR(optimizer, T_max=max(epochs - 1, 1))
    return SequentialLR(
        optimizer, [LinearLR(optimizer, start_factor=0.1, total_iters=1), rest], milestones=[1]
    )


SCHEDULES = {
    "step": partial(StepLR, step_size=10, gamma=0.1),
    "exponential": partial(ExponentialLR, gamma=0.6),
    "cosine": cosine,
    "warmup-cosine": warmup_cosine,
    "constant": constant,
}
