"""`Sample`, an item of a data set, and `Batch`, what a method gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Sample(NamedTuple):
    """One item of a data set."""

    image: Any  # (3, S, S) after the transform
    label: int
    targets: Mapping[str, Tensor] = {}  # other annotations, by name: see `Batch`


@dataclass(frozen=True)
class Batch:
    """Images with their labels, and the named targets that a data set may have."""

    images: Tensor  # (B, 3, S, S), normalised
    labels: Tensor  # (B,) int64
    indices: Tensor  # (B,) int64, the images' indices in the data set; stays on the CPU
    #: By name, each (B, ...): "soft_labels" (B, C), the fraction of the votes for each class.
    targets: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device, memory_format: torch.memory_format) -> Batch:
        """The batch on a device, its images in a memory format."""

        def moved(tensor: Tensor) -> Tensor:
            # Only to a GPU: on other devices a non-blocking copy may be read before it is complete.
            return tensor.to(device, non_blocking=device.type == "cuda")

        return Batch(
            moved(self.images).contiguous(memory_format=memory_format),
            moved(self.labels),
            self.indices,
            {name: moved(target) for name, target in self.targets.items()},
        )

    def pin_memory(self) -> Batch:
        """The batch in pinned memory; DataLoader calls this where `pin_memory` is set."""
        targets = {name: target.pin_memory() for name, target in self.targets.items()}
        return Batch(self.images.pin_memory(), self.labels.pin_memory(), self.indices, targets)
