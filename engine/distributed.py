"""One run in several processes, one a GPU: torchrun starts them, torch's own engine joins them.

    torchrun --nproc-per-node=4 train_affectnet.py --data ... --resume

Every process holds the whole network and takes its part of every batch, so the step is that of
one process on the whole batch:

- The batch size is what the flag says, over all processes. Where it does not divide evenly the
  parts differ by one image, and each process's loss counts by its number of images.
- Sampling, balanced too, is drawn once for the whole batch; each process takes other draws.
- Network and loss are one module to torch, so gradients of the centres are shared as well. The
  affinity loss and Equation 6 are means over images: their gradients are those of the whole
  batch. `--partition released` has its mean inside a logarithm; each process takes that of its
  own part.
- Batch statistics are those of the whole batch on GPUs (SyncBatchNorm). On a CPU, where torch has
  no such layer, each process takes those of its part, and the running ones are the first's: all
  take them over before they evaluate.
- Evaluation gives each process a part of the images; the parts are put together in order.
- The first process alone writes and prints.
- Settings and data have to be the same on every machine; that is looked at before the first step.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from common.errors import InputError
from common.signals import overlook_signals

from .device import autocast
from .endings import Notes, ending

# How long the processes wait for each other to start, seconds: importing torch takes minutes on a
# busy machine.
PATIENCE = 600.0


@dataclass(frozen=True)
class World:
    """The processes of a run, and which of them this one is."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # on this machine
    local_size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    @property
    def machine(self) -> int:
        """What tells this machine from others: the number of its first process."""
        return self.rank - self.local_rank

    @property
    def least(self) -> int:
        """The smallest batch that leaves BatchNorm two images in every process."""
        return 2 * self.size

    def device_name(self, name: str) -> str:
        """The device of this process where `--device` asks for `name`.

        Raises InputError where several processes would share a GPU.
        """
        if self.size == 1 or name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
            return name
        if name not in ("auto", "cuda"):
            raise InputError(
                f"--device {name} with {self.size} processes; expected auto, cuda or cpu: each "
                "process takes the GPU of its number"
            )
        return f"cuda:{self.local_rank}"

    def same(self, make: Callable[[], Any]) -> Any:
        """What `make` returns in the first process, in all of them."""
        if self.size == 1:
            return make()
        made = [make() if self.first else None]
        dist.broadcast_object_list(made, src=0)
        return made[0]

    def joined(self, rows: Tensor) -> Tensor:
        """The rows of all processes below each other, in the order of the processes."""
        if self.size == 1:
            return rows
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, rows)
        return torch.cat(parts)

    def summed(self, values: list[float]) -> list[float]:
        """Sums over the processes."""
        if self.size == 1:
            return values
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, values)
        return [sum(column) for column in zip(*parts, strict=True)]

    def share(self, count: int) -> range:
        """This process's part of `count` things: even, in order, none left out."""
        return range(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    @contextlib.contextmanager
    def last_words(self) -> Iterator[None]:
        """After an error the signals with which torchrun then ends all processes are overlooked."""
        try:
            yield
        except Exception:
            if self.size > 1:
                overlook_signals()
            raise

    def take_over_statistics(self, network: nn.Module) -> None:
        """Give every process the first one's buffers: the running statistics of BatchNorm."""
        if self.size > 1:
            for buffer in network.buffers():
                dist.broadcast(buffer, src=0)

    def together(self, step: Step, device: torch.device) -> nn.Module:
        """A training step whose gradients are those of all processes."""
        if self.size == 1:
            return step
        on = [device] if device.type == "cuda" else None
        return DistributedDataParallel(step, device_ids=on, gradient_as_bucket_view=True)

    def synchronized(self, network: nn.Module, device: torch.device) -> nn.Module:
        """A network whose batch statistics are those of all processes, on GPUs."""
        if self.size == 1 or device.type != "cuda":
            return network
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)


class Step(nn.Module):
    """Network and loss as one module: images and labels to the loss and its terms."""

    def __init__(self, network: nn.Module, criterion: nn.Module, bf16: bool):
        super().__init__()
        self.network, self.criterion, self.bf16 = network, criterion, bf16

    def forward(
        self, images: Tensor, labels: Tensor, weight: float = 1.0
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """What to differentiate, the loss times `weight`; the loss; and its terms.

        images (B, 3, H, W), labels (B,) or (B, C).
        """
        with autocast(images.device, self.bf16):
            output = self.network(images)
        loss = self.criterion(output, labels)
        return loss.total * weight, loss.total.detach(), loss.terms


@contextlib.contextmanager
def world_of(device_name: str) -> Iterator[World]:
    """Join the processes that torchrun started; alone where it did not.

    Processes but the first print nothing and warn of nothing. Raises InputError where another
    process has died, unless that is told elsewhere (engine/endings.py), and for a number of
    processes that the GPUs do not allow.
    """
    world = _world_of_environment()
    if world.size == 1:
        yield world
        return
    with contextlib.ExitStack() as stack:
        if not world.first:
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(_nowhere())))
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
        notes = Notes(dist.HashStore(), world)  # to itself, until it has met the others
        try:
            with world.last_words():
                store, _, _ = next(dist.rendezvous("env://"))
                store = meet(store, world)
                notes = Notes(store, world)
                backend = _backend(device_name, world)
                dist.init_process_group(
                    backend, store=store, rank=world.rank, world_size=world.size
                )
                yield world
                dist.barrier()
                dist.destroy_process_group()
        except BaseException as error:
            end = ending(error, world, notes)
            try:
                if end is error:
                    raise
                raise end from error
            finally:
                # It and this frame would keep each other, and with them the loading processes.
                del end


def _backend(device_name: str, world: World) -> str:
    """What torch joins the processes with; on GPUs this process's is chosen as well."""
    if device_name == "cpu" or not torch.cuda.is_available():
        return "gloo"
    if world.local_size > torch.cuda.device_count():
        raise InputError(
            f"{world.local_size} processes on this machine, but torch sees "
            f"{torch.cuda.device_count()} GPUs; give torchrun --nproc-per-node as many"
        )
    torch.cuda.set_device(world.local_rank)
    return "nccl"


def meet(store: dist.Store, world: World) -> dist.Store:
    """A part of `store` that is new and the same for all processes; waits until all are there.

    torchrun may keep its store over `--max-restarts`, with addresses of dead processes in it, and
    counts restarts on each machine for itself. So the first process gives each start a name. The
    others cannot go on with that of one who has died: its answer holds other words than theirs.
    All wait in Python, where signals are heard.
    """
    word, until = uuid.uuid4().hex, time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if world.first:
            store.set("start", word)
            answers = [f"{word} {rank}" for rank in range(1, world.size)]
            if store.check(answers):
                words = [store.get(answer).decode() for answer in answers]
                store.set(f"{word} go", json.dumps(words))
                return dist.PrefixStore(word, store)
        elif store.check(["start"]):
            start = store.get("start").decode()
            store.set(f"{start} {world.rank}", word)
            if store.check([f"{start} go"]) and word in json.loads(store.get(f"{start} go")):
                return dist.PrefixStore(start, store)
        time.sleep(0.02)
    raise InputError(
        f"process {world.rank} of {world.size} waited {PATIENCE / 60:.0f} minutes for the others; "
        "look at what they say, and start torchrun on every machine"
    )


def command_line() -> list[str]:
    """The words that started this run, for a shell in the same folder: torchrun's where it did."""
    world = _world_of_environment()
    if world.size == 1:
        return ["python", *sys.argv]
    words = _parent_command()
    if words[len(words) - len(sys.argv) + 1 :] != sys.argv[1:]:
        words = ["torchrun", f"--nproc-per-node={world.local_size}", *sys.argv]
    elif len(words) > 1 and Path(words[1]).name == "torchrun":
        del words[0]  # the Python that runs the script torchrun
    return words


def _parent_command() -> list[str]:
    """The words of the command that started this process, where the system tells them."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return Path(f"/proc/{os.getppid()}/cmdline").read_text().split("\0")[:-1]
    return []


def _nowhere() -> Any:
    return Path(os.devnull).open("w", encoding="utf-8")


def _world_of_environment() -> World:
    """What torchrun says of this process."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    if not all(name in os.environ for name in names):
        return World()
    return World(*(int(os.environ[name]) for name in names))
