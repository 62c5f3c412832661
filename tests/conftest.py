"""What every test runs under, and the data that many of them read."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from common import machine
from tests.support.scripts import write_rafdb

# The tensors of the tests are small: a second thread gains little, and on a busy machine the two
# wait for each other.
torch.set_num_threads(1)
# Nor does a test wait to see whether the machine is busy.
machine.LOOK = 0.0


def pytest_configure(config: pytest.Config) -> None:
    """Ignore warnings that are right for the tests' data: few images, random weights."""
    for message in (".*published are", "DAN from random weights under SGD"):
        config.addinivalue_line("filterwarnings", f"ignore:{message}")


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RAF-DB's layout with 21 training and 14 test images, to be left as it is."""
    return write_rafdb(tmp_path_factory.mktemp("data") / "raf-basic")


@pytest.fixture
def own_data(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of `data` that a test may change."""
    return shutil.copytree(data, tmp_path_factory.mktemp("own") / "raf-basic")
