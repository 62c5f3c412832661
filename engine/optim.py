"""torch's optimisers and schedules by their own names; torch is imported when one is called."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from common.late import Late

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

SGD = Late("torch.optim", "SGD")
Adam = Late("torch.optim", "Adam")
AdamW = Late("torch.optim", "AdamW")

StepLR = Late("torch.optim.lr_scheduler", "StepLR")
ExponentialLR = Late("torch.optim.lr_scheduler", "ExponentialLR")
CosineAnnealingLR = Late("torch.optim.lr_scheduler", "CosineAnnealingLR")

KERNELS = ("fused", "foreach")
#: Devices on which torch takes an optimiser's whole step in one kernel.
FUSED_ON = ("cpu", "cuda")


def make_optimizer(
    make: Callable[..., Optimizer],
    parameters: Sequence[nn.Parameter],
    *,
    lr: float,
    plain: bool = False,
) -> Optimizer:
    """The optimiser of a recipe, fused where it can be: one pass over the memory, not several.

    plain: let it go through the parameters one by one instead.
    """
    optimizer = make(parameters, lr=lr)
    on = {parameter.device.type for parameter in parameters}
    # None means that the recipe leaves the choice open; an optimiser without it has no choice.
    open_choice = all(optimizer.defaults.get(name, "none") is None for name in KERNELS)
    if open_choice and (plain or on <= set(FUSED_ON)):
        kernel = {"foreach": False} if plain else {"fused": True}
        # Not every setting and every device has a fused form; torch says so at once.
        with contextlib.suppress(RuntimeError):
            optimizer = make(parameters, lr=lr, **kernel)
    optimizer.register_load_state_dict_pre_hook(_keep_implementation)
    return optimizer


def _keep_implementation(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """A saved state with this optimiser's choice of kernel: that of the machine it is on."""
    groups = [
        {**saved, **{key: ours[key] for key in KERNELS if key in ours}}
        for saved, ours in zip(state["param_groups"], optimizer.param_groups, strict=True)
    ]
    return {**state, "param_groups": groups}
