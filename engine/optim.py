"""Optimisers, learning rate schedules and samplers, by the names their flags take."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, ExponentialLR, LRScheduler, StepLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import WeightedRandomSampler

OPTIMIZERS = {
    "sgd": partial(SGD, momentum=0.9, weight_decay=1e-4),
    "sgd-5e-4": partial(SGD, momentum=0.9, weight_decay=5e-4),
    "adam": partial(Adam, weight_decay=0.0),
    "adam-1e-4": partial(Adam, weight_decay=1e-4),
    "adam-5e-4": partial(Adam, weight_decay=5e-4),
    "adamw": partial(AdamW, weight_decay=0.05),
}
KERNELS = ("fused", "foreach")


def make_optimizer(
    make: Callable[..., Optimizer],
    parameters: Sequence[nn.Parameter],
    *,
    lr: float,
    backbone: Iterable[nn.Parameter] = (),
    backbone_lr: float = 1.0,
) -> Optimizer:
    """The optimiser of a recipe, fused where possible: one pass over the memory, not several.

    backbone: those of the parameters whose learning rate is `backbone_lr` * `lr`; unless that
        factor is 1, they are the second group.
    """
    groups: Any = parameters
    if backbone_lr != 1:
        own = dict.fromkeys(backbone)
        others = [parameter for parameter in parameters if parameter not in own]
        groups = [{"params": others}, {"params": [*own], "lr": backbone_lr * lr}]
    optimizer = make(groups, lr=lr)
    # None: the recipe leaves the choice to us; missing: the optimiser offers none.
    open_choice = all(optimizer.defaults.get(name, "none") is None for name in KERNELS)
    if open_choice and {p.device.type for p in parameters} <= {"cpu", "cuda"}:
        # Not every setting has a fused implementation; torch raises right away.
        with contextlib.suppress(RuntimeError):
            optimizer = make(groups, lr=lr, fused=True)
    optimizer.register_load_state_dict_pre_hook(_keep_kernels)
    return optimizer


def _keep_kernels(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """A saved state with the kernels that this optimiser uses, which depend on the machine."""
    groups = [
        {**saved, **{key: ours[key] for key in KERNELS if key in ours}}
        for saved, ours in zip(state["param_groups"], optimizer.param_groups, strict=True)
    ]
    return {**state, "param_groups": groups}


def moving_average(network: nn.Module, decay: float) -> AveragedModel | None:
    """The exponential moving average of weights and buffers, from the present ones; 0: None.

    After n steps its decay is (1 + n) / (10 + n) or `decay`, whichever is lower: in a short run it
    covers about the last ninth, and nothing is left of random first weights.
    """
    if not decay:
        return None

    def update(averaged: list[Tensor], present: list[Tensor], steps: Tensor) -> None:
        n = int(average.n_averaged)  # on the CPU; `steps` may be a copy on the GPU
        get_ema_multi_avg_fn(min(decay, (1 + n) / (10 + n)))(averaged, present, steps)

    average = AveragedModel(network, multi_avg_fn=update, use_buffers=True)
    average.n_averaged.fill_(1)  # at 0 the first update would copy
    return average


def constant(optimizer: Optimizer) -> LRScheduler:
    """The same rate in every epoch."""
    return StepLR(optimizer, step_size=2**31)


def cosine(optimizer: Optimizer, epochs: int) -> LRScheduler:
    """Half a cosine from the first rate down towards 0 over the run."""
    return CosineAnnealingLR(optimizer, T_max=epochs)


SCHEDULES = {
    "step": partial(StepLR, step_size=10, gamma=0.1),
    "step-20": partial(StepLR, step_size=20, gamma=0.1),
    "step-30": partial(StepLR, step_size=30, gamma=0.1),
    "exponential": partial(ExponentialLR, gamma=0.6),
    "exponential-0.9": partial(ExponentialLR, gamma=0.9),
    "cosine": cosine,
    "constant": constant,
}


def shuffle(labels: Sequence[int], generator: torch.Generator) -> list[int]:
    """Every image once, in a random order; takes the labels of the training images."""
    return torch.randperm(len(labels), generator=generator).tolist()


def balanced(labels: Sequence[int], generator: torch.Generator) -> list[int]:
    """Draws with replacement, every class that occurs being equally likely.

    This up-samples rare classes and down-samples frequent ones (paper, section 4.2).
    """
    return _draws(labels, generator, power=0.0)


def square_root(labels: Sequence[int], generator: torch.Generator) -> list[int]:
    """Draws with replacement, every class as likely as the square root of its images.

    Halfway between `shuffle` and `balanced` (Mahajan et al., ECCV 2018).
    """
    return _draws(labels, generator, power=0.5)


def _draws(labels: Sequence[int], generator: torch.Generator, *, power: float) -> list[int]:
    """As many draws as images; the chance of a class is its number of images to this power."""
    classes = torch.tensor(labels)
    weights = torch.bincount(classes).double() ** (power - 1)
    return list(WeightedRandomSampler(weights[classes], len(labels), generator=generator))


SAMPLINGS = {"shuffle": shuffle, "sqrt": square_root, "balanced": balanced}
