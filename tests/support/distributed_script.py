"""What tests/engine/test_distributed.py has several processes run; a train script for torchrun.

A process whose number is in DIE_RANK kills itself at the start of the epoch in DIE_EPOCH, once:
it leaves the file DIE_MARK. With DIE_BY=Ctrl-C it gives torchrun that signal instead, and waits.
The first process leaves the logits of the last evaluation in the file LOGITS.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import torch
from torch import nn

from common.batch import Batch
from engine import run
from engine import train as engine_train
from engine.distributed import World, join_processes, wrap_ddp
from engine.evaluate import Metrics
from networks import DAN, DANLoss
from tests.support.scripts import TINY, batch_of

IMAGES = 7  # of two processes one takes 3, the other 4


def network_loss_and_batch() -> tuple[DAN, DANLoss, Batch]:
    """DAN with its loss in float64, BatchNorm in eval mode, and a batch."""
    torch.manual_seed(0)
    network, criterion = DAN(7, 2).double().eval(), DANLoss(7).double()
    return network, criterion, batch_of(torch.randint(7, (IMAGES,)), images_of(IMAGES))


def images_of(count: int) -> torch.Tensor:
    """Random images (count, 3, 32, 32) in float64."""
    return torch.randn(count, 3, 32, 32, dtype=torch.float64)


def gradients(world: World) -> dict[str, torch.Tensor]:
    """Of every parameter, the centers included, for this process's part of the batch."""
    network, criterion, batch = network_loss_and_batch()
    if not world.first:
        # What differs at the start must not stay different.
        nn.init.ones_(network.fc.weight)
        nn.init.ones_(criterion.affinity.centers)
    part = torch.tensor(list(world.share(IMAGES)))
    ddp_network, ddp_criterion = wrap_ddp(network, criterion, world)
    mine = batch_of(batch.labels[part], batch.images[part])
    ddp_criterion(ddp_network(mine.images), mine).total.backward()
    named = [*network.named_parameters(), *criterion.named_parameters()]
    return {name: parameter.grad for name, parameter in named}


def write_parts(target: Path) -> None:
    """Everything that the processes exchange, as the first one sees it."""
    with join_processes("cpu") as world:
        content = {
            "size": world.size,
            "gradients": gradients(world),
            "gathered": world.gather(torch.tensor(list(world.share(IMAGES)))),
            "from first": world.broadcast_from_first(lambda: f"from {world.rank}"),
        }
        if world.first:
            torch.save(content, target)
        print(f"printed by {world.rank}")


def die_on_time() -> None:
    """Put the end of this process before an epoch."""
    original = engine_train.run_epoch

    def run_epoch(current):
        mark = Path(os.environ["DIE_MARK"])
        here = (str(current.world.rank), str(current.epoch + 1))
        if here == (os.environ["DIE_RANK"], os.environ["DIE_EPOCH"]) and not mark.exists():
            mark.touch()
            if os.environ.get("DIE_BY") == "Ctrl-C":
                os.kill(os.getppid(), signal.SIGINT)
                time.sleep(600)
            os.kill(os.getpid(), signal.SIGKILL)
        original(current)

    engine_train.run_epoch = run_epoch


def keep_logits() -> None:
    """Write down what the metrics are computed from."""
    original = Metrics.of

    def of(logits, labels):
        if os.environ["RANK"] == "0":
            torch.save(logits, os.environ["LOGITS"])
        return original(logits, labels)

    Metrics.of = of


if __name__ == "__main__":
    torch.set_num_threads(1)
    if "LOGITS" in os.environ:
        keep_logits()
    if "DIE_MARK" in os.environ:
        die_on_time()
    run(TINY, "a tiny network")
