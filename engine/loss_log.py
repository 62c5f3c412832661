"""The loss of an epoch, step by step, without making a GPU wait for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from common.errors import InputError

if TYPE_CHECKING:
    from .train import Run


class Arriving(NamedTuple):
    """Values on their way from the device."""

    values: Tensor  # (steps, 1 + terms), on the CPU; to be read once they have arrived
    event: torch.cuda.Event | None  # None: they are there
    indices: list[Tensor]  # of the images of each step

    @classmethod
    def of(cls, values: Tensor, indices: list[Tensor]) -> Arriving:
        """Send values to the CPU; a GPU does so when it gets there, and nobody waits."""
        if values.device.type != "cuda":
            return cls(values.cpu(), None, indices)
        there = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        there.copy_(values, non_blocking=True)
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(values.device))
        return cls(there, event, indices)

    def arrived(self, *, wait: bool) -> bool:
        """Whether the values can be read; with `wait`, only once they can."""
        if self.event is not None and wait:
            self.event.synchronize()
        return self.event is None or self.event.query()


class LossLog:
    """Means of the loss terms over an epoch, and the watch for a loss that is not finite.

    The values leave the device every `every` steps: at once on a CPU, in groups on a GPU, and
    are looked at when they have arrived.
    """

    def __init__(self, current: Run, epoch: int, lr: float):
        self.current, self.epoch, self.lr = current, epoch, lr
        self.every = 1 if current.device.type == "cpu" else 20
        self.names: list[str] = []
        self.pending: list[tuple[Tensor, Tensor]] = []
        self.sent: list[Arriving] = []
        self.sums = torch.zeros(0, dtype=torch.float64)
        self.images = 0
        self.steps = 0

    def add(self, total: Tensor, terms: dict[str, Tensor], indices: Tensor) -> None:
        """Take note of a step's loss and of the images (indices) it came from.

        Raises InputError at the first loss known to be not finite.
        """
        self.names = ["loss", *terms]
        self.pending.append((torch.stack([total, *terms.values()]).detach(), indices))
        if len(self.pending) >= self.every:
            self._send()
        self._read(wait=False)

    def shown(self) -> dict[str, str]:
        """Means so far and the learning rate, for the progress bar."""
        if not self.images:
            return {}
        means = (self.sums / self.images).tolist()
        texts = {name: f"{mean:.3f}" for name, mean in zip(self.names, means, strict=True)}
        return {**texts, "lr": f"{self.lr:.3g}"}

    def means(self) -> dict[str, float]:
        """Means over all images of the epoch, of all processes: the loss and its terms.

        Raises InputError for an epoch without a batch, and for a loss that is not finite.
        """
        self._send()
        self._read(wait=True)
        if not self.images:
            raise InputError(f"no batch of epoch {self.epoch} had two images that can be used")
        *sums, images = self.current.world.summed([*self.sums.tolist(), self.images])
        return {name: value / images for name, value in zip(self.names, sums, strict=True)}

    def _send(self) -> None:
        if self.pending:
            values, indices = zip(*self.pending, strict=True)
            self.sent.append(Arriving.of(torch.stack(values), list(indices)))
            self.pending.clear()

    def _read(self, *, wait: bool) -> None:
        """Look at what has arrived, in order; with `wait`, at everything that was sent."""
        while self.sent and self.sent[0].arrived(wait=wait):
            group = self.sent.pop(0)
            values = group.values.double()
            if not self.images:
                self.sums = torch.zeros(values.shape[1], dtype=torch.float64)
            for row, indices in zip(values, group.indices, strict=True):
                self.steps += 1
                if not row.isfinite().all():
                    self._stop(row, indices)
                self.sums += row * len(indices)
                self.images += len(indices)

    def _stop(self, row: Tensor, indices: Tensor) -> None:
        terms = ", ".join(
            f"{name} {value:g}" for name, value in zip(self.names, row.tolist(), strict=True)
        )
        files = [self.current.dataset.describe(index) for index in indices.tolist()]
        saved = self.current.saved
        before = f"the last checkpoint is from epoch {saved}" if saved else "there is no checkpoint"
        raise InputError(
            f"the loss is not finite in epoch {self.epoch}, step {self.steps}: {terms}; learning "
            f"rate {self.lr:g}; {before}; lower --lr or look at the batch: {' '.join(files)}"
        )
