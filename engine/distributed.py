"""One run in several processes, one a GPU: torchrun starts them, torch's DDP joins them.

    torchrun --nproc-per-node=4 train_affectnet.py --data ... --resume

Every process holds the whole network and takes its part of every batch, so the step is that of
one process on the whole batch: gradients are means over all its images, centers included. What
differs: `--partition released` has its mean inside a logarithm, so each process takes that of its
own part; on a CPU, where torch has no SyncBatchNorm, batch statistics are those of each part, and
before evaluation all take the first one's running statistics.

The first process alone writes and prints. A process that fails ends with its reason and status;
torchrun, or the closed connection, ends the others, and the same command with --resume goes on.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from common.batch import Batch
from common.errors import InputError


@dataclass(frozen=True)
class World:
    """The processes of a run, and which of them this one is."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # on this machine
    local_size: int = 1

    @classmethod
    def of_environment(cls) -> World:
        """What torchrun says of this process; alone where it did not start it."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        values = [os.environ.get(name) for name in names]
        return cls() if None in values else cls(*map(int, values))

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    @property
    def least(self) -> int:
        """The smallest batch that leaves BatchNorm two images in every process."""
        return 2 * self.size

    def share(self, count: int) -> range:
        """This process's part of `count` things: even, in order, none left out."""
        return range(self.rank * count // self.size, (self.rank + 1) * count // self.size)

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
        if self.local_size > torch.cuda.device_count():
            raise InputError(
                f"{self.local_size} processes on this machine, but torch sees "
                f"{torch.cuda.device_count()} GPUs; give torchrun --nproc-per-node as many"
            )
        return f"cuda:{self.local_rank}"

    def broadcast_from_first(self, make: Callable[[], Any]) -> Any:
        """What `make` returns in the first process, in all of them."""
        made = [make() if self.first else None]
        if self.size > 1:
            dist.broadcast_object_list(made, src=0)
        return made[0]

    def check_same(self, what: str, values: Mapping[str, Any]) -> None:
        """Raises InputError in a process whose values, by name, are not those of the first."""
        first = self.broadcast_from_first(lambda: values)
        other = [f"{k} {v}, there {first.get(k)}" for k, v in values.items() if v != first.get(k)]
        if other:
            raise InputError(
                f"process {self.rank} of {self.size} has other {what} than the first: "
                f"{'; '.join(other)}; every process needs the same command and the same data"
            )

    def gather(self, rows: Tensor) -> Tensor:
        """The rows of all processes below each other, in the order of the processes."""
        if self.size == 1:
            return rows
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, rows)
        return torch.cat(parts)

    def broadcast_buffers(self, network: nn.Module) -> None:
        """Give every process the first one's buffers: the running statistics of BatchNorm."""
        if self.size > 1:
            for buffer in network.buffers():
                dist.broadcast(buffer, src=0)


class ShareOfBatch(nn.Module):
    """A criterion whose gradient counts by this process's share of the images of a batch.

    DistributedDataParallel takes the mean over the processes, so with n_r images in process r of W,
    the factor W n_r / sum of n makes it the mean over all images.
    """

    def __init__(self, criterion: nn.Module):
        super().__init__()
        self.criterion = criterion

    def forward(self, output: Any, batch: Batch) -> Any:
        loss = self.criterion(output, batch)
        whole = torch.tensor(len(batch), device=batch.labels.device)
        dist.all_reduce(whole)
        factor = dist.get_world_size() * len(batch) / whole.double()
        loss.total.register_hook(lambda gradient: gradient * factor.to(gradient.dtype))
        return loss


def wrap_ddp(network: nn.Module, criterion: nn.Module, world: World) -> tuple[nn.Module, nn.Module]:
    """Network and criterion such that a backward pass leaves the gradients of all processes."""
    if world.size == 1:
        return network, criterion
    criterion = ShareOfBatch(criterion)
    if any(True for _ in criterion.parameters()):
        criterion = DistributedDataParallel(criterion)
    return DistributedDataParallel(network, gradient_as_bucket_view=True), criterion


@contextlib.contextmanager
def join_processes(device_name: str) -> Iterator[World]:
    """Join the processes that torchrun started; alone where it did not.

    Processes but the first print nothing and warn of nothing. Raises InputError for a number of
    processes that the GPUs do not allow, and where another process has ended.
    """
    world = World.of_environment()
    if world.size == 1:
        yield world
        return
    with contextlib.ExitStack() as stack:
        if not world.first:
            nowhere = stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
        name = world.device_name(device_name)
        if name.startswith("cuda"):
            torch.cuda.set_device(world.local_rank)
        try:
            store, rank, size = next(dist.rendezvous("env://"))
            # torchrun keeps its store over --max-restarts, with addresses of dead processes in it.
            store = dist.PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
            backend = "nccl" if name.startswith("cuda") else "gloo"
            dist.init_process_group(backend, store=store, rank=rank, world_size=size)
            yield world
            dist.barrier()
            dist.destroy_process_group()
        except RuntimeError as error:
            if not _lost_connection(error):
                raise
            raise InputError(
                f"process {world.rank} of {world.size} has lost another one, which ended or was "
                "killed: its reason is above or in the log of its machine; go on with --resume"
            ) from error


def _lost_connection(error: RuntimeError) -> bool:
    """Whether an error says that another process is gone; gloo has no type of its own for it."""
    words = ("gloo", "connection", "nccl", "socket")
    return isinstance(error, dist.DistError) or any(word in str(error).lower() for word in words)
