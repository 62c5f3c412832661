"""What a criterion that keeps a state needs in several processes: the same state in all of them."""

from __future__ import annotations

from typing import TypeVar

import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def sum_over_processes(tensor: Tensor) -> Tensor:
    """The sum of the tensors that all processes give; without torchrun the tensor itself."""
    if not (dist.is_available() and dist.is_initialized()):
        return tensor
    total = tensor.clone()
    dist.all_reduce(total)
    return total


def gather_objects(value: T) -> list[T]:
    """The values of all processes, in the order of their ranks."""
    if not (dist.is_available() and dist.is_initialized()):
        return [value]
    parts: list[T] = [value] * dist.get_world_size()
    dist.all_gather_object(parts, value)
    return parts
