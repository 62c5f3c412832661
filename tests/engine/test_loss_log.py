"""Means of the loss terms over an epoch, and the watch for a loss that is not finite."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch

from common.batch import Batch
from common.errors import InputError
from engine.distributed import World
from engine.loss_log import LossLog
from networks import LossTerms

ALONE = World()
# (images of the batch, total, term): three steps of an epoch of 21 images.
STEPS = [(8, 3.5, 1.25), (8, 2.0, 0.5), (5, 0.25, 0.125)]


def log_of(every: int = 1) -> LossLog:
    log = LossLog(torch.device("cpu"), lambda index: f"image-{index}")
    log.every = every
    return log


def add(log: LossLog, images: int, total: float, term: float) -> None:
    start = 100 * (log.steps + len(log.pending))
    indices = torch.arange(start, start + images)
    batch = Batch(torch.zeros(images, 3, 1, 1), torch.zeros(images, dtype=torch.int64), indices)
    log.add(LossTerms(torch.tensor(total), {"cls": torch.tensor(term)}), batch)


@pytest.mark.parametrize("every", [1, 2, 20])
def test_means_count_every_image_alike(every):
    log = log_of(every)
    for step in STEPS:
        add(log, *step)
    means = log.means(ALONE)
    assert list(means) == ["loss", "cls"]
    assert means["loss"] == pytest.approx(sum(n * total for n, total, _ in STEPS) / 21, rel=1e-12)
    assert means["cls"] == pytest.approx(sum(n * term for n, _, term in STEPS) / 21, rel=1e-12)


class TwoProcesses(World):
    """Two processes, of which the other one has these sums and this number of images."""

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        """Both processes' rows."""
        return torch.cat([rows, torch.tensor([[40.0, 8.0, 4.0]], dtype=torch.float64)])


def test_means_are_over_the_images_of_all_processes():
    log = log_of()
    add(log, 12, 2.0, 1.0)
    means = log.means(TwoProcesses(size=2))
    assert means == {"loss": (12 * 2 + 40) / 16, "cls": (12 * 1 + 8) / 16}


def test_on_a_gpu_values_are_read_every_20_steps():
    cpu, gpu = (LossLog(torch.device(name), str) for name in ("cpu", "cuda"))
    assert (cpu.every, gpu.every) == (1, 20)
    shown: list[Sequence[str]] = []
    for _ in range(20):
        add(gpu, 2, 3.0, 1.5)
        shown.append(list(gpu.shown().values()))
    assert shown == [[]] * 19 + [["3.000", "1.500"]]


def test_the_means_so_far_are_shown():
    log = log_of()
    assert log.shown() == {}
    for step in STEPS[:2]:
        add(log, *step)
    assert log.shown() == {"loss": "2.750", "cls": "0.875"}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("every", "noticed"), [(1, 2), (2, 2), (3, 3), (20, 4)])
def test_the_step_whose_loss_is_not_finite_is_named(bad, every, noticed):
    """However rarely values are read: in step `noticed`, or after the third at the end."""
    log = log_of(every)
    steps = [(1.0, 1.0), (bad, 0.5), (1.0, 1.0)]
    for total, term in steps[: noticed - 1]:
        add(log, 2, total, term)
    with pytest.raises(InputError) as error:
        add(log, 2, *steps[noticed - 1]) if noticed <= 3 else log.means(ALONE)
    message = str(error.value)
    assert "the loss is not finite in step 2 of the epoch" in message
    assert f"loss {bad:g}, cls 0.5; lower --lr" in message
    assert message.endswith("the batch: image-100 image-101")


def test_a_term_that_is_not_finite_is_refused_although_the_sum_is():
    """Its weight may be 0."""
    with pytest.raises(InputError, match="loss 1, cls nan"):
        add(log_of(), 2, 1.0, math.nan)


def test_an_epoch_without_a_batch_is_refused():
    with pytest.raises(InputError, match="no batch of the epoch"):
        log_of().means(ALONE)
