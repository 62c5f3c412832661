"""Training on a GPU: the same bits twice and after --resume, and no step that waits for the GPU."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from engine import train as engine_train
from engine.loss_log import LossLog
from engine.train import build, train, train_one_epoch
from tests.support.scripts import assert_same_run

pytestmark = pytest.mark.filterwarnings("ignore:.*published are")
EPOCHS = ("--epochs", 2)


@pytest.fixture(autouse=True)
def switches() -> Iterator[None]:
    """Torch's switches as they were: a run sets them for its process."""
    cudnn, before = torch.backends.cudnn, torch.backends.cudnn.benchmark
    yield
    torch.use_deterministic_algorithms(False)
    cudnn.benchmark = before


# --------------------------------------------------------------------------------------------
# The same bits


@pytest.fixture(scope="module", params=["off", "bf16"])
def flags(request) -> tuple[object, ...]:
    return (*EPOCHS, "--deterministic", "--amp", request.param)


@pytest.fixture(scope="module")
def whole(faces, flags, tmp_path_factory) -> Path:
    """A run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train(faces.recipe(folder, *flags))
    return folder


def test_deterministic_gives_the_same_bits_twice(faces, flags, whole, tmp_path):
    train(faces.recipe(tmp_path / "again", *flags))
    assert_same_run(tmp_path / "again", whole)


class Cut(Exception):
    """The end of a run before its second epoch."""


def test_a_resumed_run_has_the_same_bits(faces, flags, whole, tmp_path, monkeypatch):
    folder, run_epoch = tmp_path / "resumed", engine_train.run_epoch

    def cut(run):
        if run.epoch == 1:
            raise Cut
        run_epoch(run)

    monkeypatch.setattr(engine_train, "run_epoch", cut)
    with pytest.raises(Cut):
        train(faces.recipe(folder, *flags))
    monkeypatch.undo()
    torch.manual_seed(1)  # --resume has to put the generators back
    train(faces.recipe(folder, *flags, "--resume"))
    assert_same_run(folder, whole)


# --------------------------------------------------------------------------------------------
# Waiting for the GPU


@contextmanager
def forbidden_to_wait(device: torch.device, log: type[LossLog]) -> Iterator[list[int]]:
    """An error at every wait for the GPU but `log`'s own; yields the steps it read at each.

    On a CPU, which has no such mode, it counts only.
    """

    def allow(mode: str) -> None:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode(mode)

    reads, original = [], log._read

    def read(self: LossLog) -> None:
        reads.append(len(self.pending))
        allow("default")
        original(self)
        allow("error")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log, "_read", read)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the mode does not see every way of waiting
            allow("error")
        try:
            yield reads
        finally:
            allow("default")


@pytest.mark.parametrize("amp", ["off", "bf16"])
def test_steps_wait_only_where_the_loss_is_read(faces, device, amp, tmp_path):
    run = build(faces.recipe(tmp_path, "--batch-size", 4, "--amp", amp))
    train_one_epoch(run, 1)  # memory is laid out and kernels are chosen
    with forbidden_to_wait(device, LossLog) as reads:
        train_one_epoch(run, 2)
    steps = len(run.training)
    every = 20 if device.type == "cuda" else 1
    assert reads == [every] * (steps // every) + [steps % every] * (steps % every > 0)


def test_a_step_that_waits_is_found(faces, device, tmp_path, monkeypatch):
    if device.type != "cuda":
        pytest.skip("a CPU has no such mode")
    run = build(faces.recipe(tmp_path))
    criterion = run.ddp_criterion.forward

    def waiting(output, batch):
        loss = criterion(output, batch)
        loss.total.item()
        return loss

    train_one_epoch(run, 1)
    monkeypatch.setattr(run.ddp_criterion, "forward", waiting)
    with forbidden_to_wait(device, LossLog), pytest.raises(RuntimeError, match="synchroniz"):
        train_one_epoch(run, 2)
