"""Several processes on the GPUs there are, over NCCL; with one GPU a single process."""

from __future__ import annotations

import csv
import subprocess
import sys

import pytest
import torch

from engine.distributed import World
from engine.train import train
from tests.gpu.ddp_script import IMAGES, one_step
from tests.support.scripts import ROOT, SIZE, load, script_environment, small_recipe

pytestmark = pytest.mark.filterwarnings("ignore:.*published are")


@pytest.fixture(scope="module")
def processes(device) -> int:
    """One a GPU; one on a CPU, as on most machines with a GPU."""
    return torch.cuda.device_count() if device.type == "cuda" else 1


def torchrun(processes: int, *command: object) -> None:
    """Run a module in so many processes to its end."""
    options = ["--standalone", f"--nproc-per-node={processes}", "-m", *map(str, command)]
    result = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *options],
        cwd=ROOT,
        env=script_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def exchanged(processes, tmp_path_factory) -> dict:
    """What the first of the processes sees."""
    target = tmp_path_factory.mktemp("ddp") / "exchanged.pth"
    torchrun(processes, "tests.gpu.ddp_script", target)
    return load(target)


@pytest.fixture(scope="module")
def alone(device) -> dict[str, torch.Tensor]:
    """The same step in one process without DDP."""
    return one_step(World(), device, wrapped=False)


def assert_close(ours: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == expected.keys()
    for name, tensor in expected.items():
        difference = (ours[name] - tensor).norm()
        # Where a gradient is 0 but for rounding there is nothing to be relative to.
        assert difference <= 1e-8 * tensor.norm() + 1e-12, name


def test_the_backend_is_that_of_the_device(exchanged, device, processes):
    assert exchanged["backend"] == ("nccl" if device.type == "cuda" else "gloo")
    assert exchanged["size"] == processes


def test_tensors_and_objects_are_exchanged(exchanged):
    assert exchanged["gathered"].tolist() == list(range(IMAGES))
    assert exchanged["from first"] == "from 0"


def test_gradients_are_those_of_the_whole_batch_in_one_process(exchanged, alone):
    ours, expected = (
        {name: tensor for name, tensor in side.items() if name.startswith("gradient")}
        for side in (exchanged["step"], alone)
    )
    assert len(expected) > 100
    assert_close(ours, expected)


def test_batch_statistics_are_those_of_the_whole_batch(exchanged, alone, device, processes):
    if device.type != "cuda" or processes < 2:
        pytest.skip("SyncBatchNorm needs two CUDA GPUs")
    ours, expected = (
        {name: tensor for name, tensor in side.items() if "running" in name}
        for side in (exchanged["step"], alone)
    )
    assert len(expected) > 40
    assert_close(ours, expected)


def test_a_run_on_all_gpus_has_the_loss_of_one(device, processes, data, tmp_path):
    if device.type != "cuda" or processes < 2:
        pytest.skip("needs two CUDA GPUs")
    step = ("--batch-size", 2 * processes, "--optimizer", "sgd", "--lr", 0.01)
    flags = ("--device", "cuda", "--epochs", 2, *step)
    train(small_recipe(data, tmp_path / "one", *flags))
    small = ("--image-size", SIZE, "--workers", 0, "--pretrained", "none")
    where = ("--data", data, "--output", tmp_path / "all")
    torchrun(processes, "tests.support.distributed_script", *flags, *small, *where)
    losses = [
        [float(row["loss"]) for row in csv.DictReader(path.read_text().splitlines())]
        for path in (tmp_path / "one/metrics.csv", tmp_path / "all/metrics.csv")
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)
