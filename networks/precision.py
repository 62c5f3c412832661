"""Where half types are not enough."""

from __future__ import annotations

import torch
from torch import Tensor


def full_precision(tensor: Tensor) -> Tensor:
    """Half types up to float32; float32 and float64 as they are."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def no_autocast(tensor: Tensor) -> torch.autocast:
    """A context on the tensor's device in which nothing is taken in a half type."""
    return torch.autocast(tensor.device.type, enabled=False)
