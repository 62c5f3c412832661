"""What tests/test_distributed.py has several processes run; a train script for torchrun.

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

from engine import run
from engine import train as engine_train
from engine.distributed import Step, World, world_of
from networks import DAN, DANLoss
from tests.support.scripts import TINY

IMAGES = 7  # of two processes one takes 3, the other 4


def step_and_batch() -> tuple[Step, torch.Tensor, torch.Tensor]:
    """DAN with its loss in float64, BatchNorm in eval mode, and a batch."""
    torch.manual_seed(0)
    step = Step(DAN(7, 2), DANLoss(7), bf16=False).double()
    step.network.eval()
    return step, torch.randn(IMAGES, 3, 32, 32).double(), torch.randint(7, (IMAGES,))


def gradients(world: World) -> dict[str, torch.Tensor]:
    """Of every parameter, the centres included, for this process's part of the batch."""
    step, images, labels = step_and_batch()
    if not world.first:
        # What differs at the start must not stay different.
        nn.init.ones_(step.network.fc.weight)
    part = torch.tensor(list(world.share(IMAGES)))
    parallel = world.together(step, torch.device("cpu"))
    total, _, _ = parallel(images[part], labels[part], world.size * len(part) / IMAGES)
    total.backward()
    return {name: parameter.grad for name, parameter in step.named_parameters()}


def write_parts(target: Path) -> None:
    """Everything that the processes exchange, as the first one sees it."""
    with world_of("cpu") as world:
        content = {
            "size": world.size,
            "gradients": gradients(world),
            "joined": world.joined(torch.tensor(list(world.share(IMAGES)))),
            "summed": world.summed([1.0, world.rank]),
            "same": world.same(lambda: f"from {world.rank}"),
        }
        if world.first:
            torch.save(content, target)
        print(f"printed by {world.rank}")


def die_on_time() -> None:
    """Put the end of this process before an epoch."""
    original = engine_train.train_epoch

    def train_epoch(current):
        mark = Path(os.environ["DIE_MARK"])
        here = (str(current.world.rank), str(current.epoch + 1))
        if here == (os.environ["DIE_RANK"], os.environ["DIE_EPOCH"]) and not mark.exists():
            mark.touch()
            if os.environ.get("DIE_BY") == "Ctrl-C":
                os.kill(os.getppid(), signal.SIGINT)
                time.sleep(600)
            os.kill(os.getpid(), signal.SIGKILL)
        original(current)

    engine_train.train_epoch = train_epoch


def keep_logits() -> None:
    """Write down what the metrics are computed from."""
    original = engine_train.confusion_of

    def confusion_of(logits, labels):
        if os.environ["RANK"] == "0":
            torch.save(logits, os.environ["LOGITS"])
        return original(logits, labels)

    engine_train.confusion_of = confusion_of


if __name__ == "__main__":
    torch.set_num_threads(1)
    if "LOGITS" in os.environ:
        keep_logits()
    if "DIE_MARK" in os.environ:
        die_on_time()
    run(TINY, "a tiny network")
