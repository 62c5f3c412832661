"""Means of the loss terms over an epoch, and the check that the loss is finite."""

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

    Values are read every `every` steps, since each read stalls a GPU; on a CPU, every step.
    """

    def __init__(self, device: torch.device, describe: Callable[[int], str]):
        """describe: names an image by its index in the data set, for messages."""
        self.every = 1 if device.type == "cpu" else 20
        self.describe = describe
        self.names: list[str] = []
        self.pending: list[tuple[Tensor, list[int]]] = []
        self.sums = torch.zeros(1, dtype=torch.float64)  # the last entry counts the images
        self.steps = 0

    def add(self, loss: Any, batch: Batch) -> None:
        """Record a step's loss (`total`, `terms`).

        Raises InputError once a value that has been read is infinite or nan.
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
        """Means of the loss and its terms over the epoch's images, of all processes.

        Raises InputError for an epoch without a batch, and as `add` does.
        """
        if self.pending:
            self._read()
        if not self.sums[-1]:
            raise InputError("no batch of the epoch had two readable images")
        return self._means(world.gather(self.sums[None]).sum(dim=0))

    def _read(self) -> None:
        """Read the pending values, check them and add them up, in order."""
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
