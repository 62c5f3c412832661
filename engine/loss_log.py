"""Means of the loss terms over an epoch, and the watch for a loss that is not finite."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from common.batch import Batch
from common.errors import InputError

from .distributed import World


class LossLog:
    """The loss and its terms, step by step.

    Values leave the device every `every` steps, at once on a CPU: a GPU would wait at each.
    """

    def __init__(self, device: torch.device, describe: Callable[[int], str]):
        """describe: names an image by its index in the data set, for messages."""
        self.every = 1 if device.type == "cpu" else 20
        self.describe = describe
        self.names: list[str] = []
        self.pending: list[tuple[Tensor, list[int]]] = []
        self.sums = torch.zeros(1, dtype=torch.float64)  # the last one counts the images
        self.steps = 0

    def add(self, loss: Any, batch: Batch) -> None:
        """Take note of a step's loss (`total`, `terms`).

        Raises InputError at the first that is known to be infinite or not a number.
        """
        self.names = ["loss", *loss.terms]
        values = torch.stack([loss.total, *loss.terms.values()]).detach()
        self.pending.append((values, batch.indices.tolist()))
        if len(self.pending) >= self.every:
            self._read()

    def shown(self) -> dict[str, str]:
        """Means so far, for the progress bar."""
        return {name: f"{value:.3f}" for name, value in self._means(self.sums).items()}

    def means(self, world: World) -> dict[str, float]:
        """Means over all images of the epoch, of all processes: the loss and its terms.

        Raises InputError for an epoch without a batch, and as `add` does.
        """
        if self.pending:
            self._read()
        if not self.sums[-1]:
            raise InputError("no batch of the epoch had two images that can be used")
        return self._means(world.gather(self.sums[None]).sum(dim=0))

    def _read(self) -> None:
        """Add up what is pending, in order."""
        rows = torch.stack([values for values, _ in self.pending]).double().cpu()
        for row, (_, indices) in zip(rows, self.pending, strict=True):
            self.steps += 1
            if not row.isfinite().all():
                terms = ", ".join(f"{k} {v:g}" for k, v in zip(self.names, row, strict=True))
                raise InputError(
                    f"the loss is not finite in step {self.steps} of the epoch: {terms}; lower "
                    f"--lr or look at the batch: {' '.join(map(self.describe, indices))}"
                )
            self.sums = self.sums + torch.cat([row, torch.ones(1)]) * len(indices)
        self.pending.clear()

    def _means(self, sums: Tensor) -> dict[str, float]:
        # None before the first step is read.
        return dict(zip(self.names, (sums[:-1] / sums[-1]).tolist(), strict=False))
