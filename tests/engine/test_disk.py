"""Disks that are full, read-only or gone: one line, status 2, and the last checkpoint loads."""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from engine import train as engine_train
from engine.train import train
from tests.support.scripts import Forked, load, small_recipe, write_rafdb


def run_with(data: Path, folder: Path, fault: Callable[[], None]) -> tuple[int | None, str]:
    """Train in a process of its own to which something happens after the first epoch."""
    original = engine_train.train_epoch

    def train_epoch(current):
        if current.epoch == 1:
            fault()
        original(current)

    def main():
        engine_train.train_epoch = train_epoch
        train(small_recipe(data, folder, "--epochs", 3))

    process = Forked(main)
    errors = process.communicate()[1].decode()
    status = process.returncode
    process.end()
    assert "Traceback" not in errors
    return status, errors.strip().splitlines()[-1]


def limit_files() -> None:
    """As `ulimit -f`, and as a quota: writing beyond some kilobytes fails."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


def test_a_limit_on_the_size_of_files_leaves_the_last_checkpoint(tmp_path):
    data = write_rafdb(tmp_path / "data")
    status, line = run_with(data, tmp_path / "run", limit_files)
    assert status == 2
    assert line.startswith(f"error: cannot write {tmp_path}/run/")
    assert "still whole" in line
    assert load(tmp_path / "run/last.pth")["iter"] == 1
    assert load(tmp_path / "run/best.pth")["iter"] == 1
    names = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert names == ["best.pth", "config.json", "last.pth", "metrics.csv"]
    train(small_recipe(data, tmp_path / "run", "--epochs", 3, "--resume"))
    assert load(tmp_path / "run/last.pth")["iter"] == 3


def test_a_run_folder_that_vanishes_is_one_line(tmp_path):
    data = write_rafdb(tmp_path / "data")
    status, line = run_with(data, tmp_path / "run", lambda: shutil.rmtree(tmp_path / "run"))
    assert status == 2
    assert line.startswith(f"error: cannot write {tmp_path}/run/metrics.csv: No such file")


@pytest.mark.skipif(os.geteuid() != 0, reason="takes another user")
def test_a_folder_that_one_may_not_write_is_one_line():
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        data = write_rafdb(root / "data")
        (root / "run").mkdir()
        root.chmod(0o755)

        def main():
            os.setgid(65534)
            os.setuid(65534)
            train(small_recipe(data, root / "run"))

        process = Forked(main)
        errors = process.communicate()[1].decode()
        process.end()
        assert process.returncode == 2, errors
        assert errors.strip() == f"error: cannot write {root}/run/.lock: Permission denied"
        assert list((root / "run").iterdir()) == []
