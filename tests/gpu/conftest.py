"""The device of the GPU tests, and the sizes at which they run there.

TEST_DEVICE=cpu runs the same functions on a CPU, small: `tools.gpu_check --dry-run` does.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from common.devices import find_device
from engine.recipe import Recipe
from tests.support.scripts import TINY, small_recipe, write_rafdb
from train_rafdb import RECIPE

# As `common.devices.set_determinism` does; here other tests have worked on the GPU before.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


class Faces(NamedTuple):
    """A data set on disk, and a network and flags that fit it and the device."""

    root: Path
    network: Recipe
    flags: tuple[object, ...]

    def recipe(self, output: Path, *flags: object) -> Recipe:
        """A run of a second or so."""
        return small_recipe(self.root, output, *self.flags, *flags, recipe=self.network)


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The GPU, or what TEST_DEVICE names, which has to be there."""
    if "TEST_DEVICE" not in os.environ and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    return find_device(os.environ.get("TEST_DEVICE", "cuda"))


@pytest.fixture(scope="session")
def faces(device, tmp_path_factory) -> Faces:
    """On a GPU DAN at its real image size, so that it takes the kernels of real runs."""
    root = tmp_path_factory.mktemp("faces") / "raf-basic"
    if device.type == "cpu":
        return Faces(write_rafdb(root), TINY, ())
    size = ("--image-size", 224, "--batch-size", 32, "--workers", 2)
    flags = ("--device", device, "--optimizer", "sgd", "--lr", 0.01, *size)
    return Faces(write_rafdb(root, train=96, test=32), RECIPE, flags)
