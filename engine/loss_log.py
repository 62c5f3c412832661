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
        self.sums = torch.zeros((), dtype=torch.float64)
        self.images = self.steps = 0

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
        return {name: f"{value:.3f}" for name, value in self._means().items()}

    def means(self, world: World) -> dict[str, float]:
        """Means over all images of the epoch, of all processes: the loss and its terms.

        Raises InputError for an epoch without a batch, and as `add` does.
        """
        self._read()
        if not self.images:
            raise InputError("no batch of the epoch had two images that can be used")
        totals = world.gather(torch.cat([self.sums, torch.tensor([self.images])])[None]).sum(dim=0)
        self.sums, self.images = totals[:-1], int(totals[-1])
        return self._means()

    def _read(self) -> None:
        """Add up what is pending, in order."""
        if not self.pending:
            return
        rows = torch.stack([values for values, _ in self.pending]).double().cpu()
        for row, (_, indices) in zip(rows, self.pending, strict=True):
            self.steps += 1
            if not row.isfinite().all():
                self._stop(row, indices)
            self.sums = self.sums + row * len(indices)
            self.images += len(indices)
        self.pending.clear()

    def _stop(self, row: Tensor, indices: list[int]) -> None:
        named = zip(self.names, row.tolist(), strict=True)
        raise InputError(
            f"the loss is not finite in step {self.steps} of the epoch: "
            f"{', '.join(f'{name} {value:g}' for name, value in named)}; lower --lr or look at "
            f"the batch: {' '.join(map(self.describe, indices))}"
        )

    def _means(self) -> dict[str, float]:
        if not self.images:
            return {}
        return dict(zip(self.names, (self.sums / self.images).tolist(), strict=True))
