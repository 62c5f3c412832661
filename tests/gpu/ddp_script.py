"""What tests/gpu/test_distributed.py has torchrun start: what the processes exchange, one a GPU."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from engine.distributed import World, join_processes, wrap_ddp
from tests.support.distributed_script import IMAGES, network_loss_and_batch
from tests.support.scripts import batch_of


@contextmanager
def joined(device_name: str) -> Iterator[World]:
    """The processes, joined; a single one too, which a run would leave alone."""
    with join_processes(device_name) as world:
        if world.size > 1:
            yield world
            return
        backend = "nccl" if device_name == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        yield world
        dist.destroy_process_group()


def one_step(world: World, device: torch.device, *, wrapped: bool) -> dict[str, torch.Tensor]:
    """Gradients, and the running statistics of BatchNorm, of a step on this process's images.

    Float64, and 14 images of 32 pixels over all processes. On a CPU, where the processes do not
    share their statistics, BatchNorm keeps to those it has.
    """
    torch.manual_seed(1)
    network, criterion, _ = network_loss_and_batch()
    batch = batch_of(torch.arange(2 * IMAGES) % 7, torch.randn(2 * IMAGES, 3, 32, 32).double())
    network, criterion = network.to(device).train(device.type == "cuda"), criterion.to(device)
    if world.size > 1 and device.type == "cuda":  # as engine.train.build
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    part = torch.tensor(list(world.share(2 * IMAGES)))
    mine = batch_of(batch.labels[part].to(device), batch.images[part].to(device))
    # A single process is wrapped as well: wrap_ddp looks only at whether there are several.
    several = dataclasses.replace(world, size=max(2, world.size)) if wrapped else world
    ddp_network, ddp_criterion = wrap_ddp(network, criterion, several)
    ddp_criterion(ddp_network(mine.images), mine).total.backward()
    named = [*network.named_parameters(), *criterion.named_parameters()]
    found = {f"gradient {name}": parameter.grad for name, parameter in named}
    buffers = {name: b for name, b in network.named_buffers() if b.is_floating_point()}
    return {name: tensor.cpu() for name, tensor in (found | buffers).items()}


def main(device_name: str, target: Path) -> None:
    """Write what the first process sees."""
    with joined(device_name) as world:
        device = torch.device(device_name, world.local_rank if device_name == "cuda" else None)
        content = {
            "size": world.size,
            "backend": dist.get_backend(),
            "step": one_step(world, device, wrapped=True),
            "gathered": world.gather(torch.tensor(list(world.share(IMAGES)))),
            "from first": world.broadcast_from_first(lambda: f"from {world.rank}"),
        }
        if world.first:
            torch.save(content, target)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(os.environ.get("TEST_DEVICE", "cuda"), Path(sys.argv[1]))
