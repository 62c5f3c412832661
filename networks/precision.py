"""Full precision for the parts of a network where half precision is not enough."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def full_precision(tensor: Tensor) -> Tensor:
    """Half precision converted to float32; float32 and float64 unchanged."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def no_autocast(tensor: Tensor) -> AbstractContextManager[None]:
    """A context that turns autocast off on the tensor's device."""
    if tensor.device.type == "meta":  # a device of shapes alone, which autocast does not know
        return nullcontext()
    return torch.autocast(tensor.device.type, enabled=False)
