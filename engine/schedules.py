"""Learning rates over the epochs, by the name that `--scheduler` takes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from .optim import CosineAnnealingLR, ExponentialLR, StepLR

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler


def constant(optimizer: Optimizer) -> LRScheduler:
    """The same rate in every epoch."""
    return StepLR(optimizer, step_size=2**31)


def cosine(optimizer: Optimizer, epochs: int) -> LRScheduler:
    """Half a cosine from the first rate down towards 0 over the run."""
    return CosineAnnealingLR(optimizer, T_max=epochs)


SCHEDULES = {
    "step": partial(StepLR, step_size=10, gamma=0.1),
    "exponential": partial(ExponentialLR, gamma=0.6),
    "cosine": cosine,
    "constant": constant,
}
