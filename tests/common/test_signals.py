"""What ends a run from outside: signals to it, to its whole job, and to its workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from common.errors import InputError
from common.signals import Stopped
from engine import data as engine_data
from engine.data import Loaded
from engine.train import train
from tests.support.scripts import (
    PATIENCE,
    ROOT,
    Forked,
    batch_of,
    load,
    small_recipe,
)

FLAGS = ("--epochs", 10_000)  # longer than any test waits

pytestmark = pytest.mark.slow


@contextmanager
def running(data: Path, folder: Path, *flags: object) -> Iterator[Forked]:
    """A training in a session of its own, from the end of its first epoch on."""
    process = Forked(lambda: train(small_recipe(data, folder, *FLAGS, *flags)))
    try:
        process.wait_for("epoch 1/")
        yield process
    finally:
        process.end()


def children(pid: int) -> list[int]:
    """Processes that a process has started."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in listed]


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def last_line(process: Forked | subprocess.Popen) -> str:
    """The last line of stderr at the end of a process, without a traceback before it."""
    _out, errors = process.communicate(timeout=PATIENCE)
    text = errors.decode().replace("\r", "\n")
    assert "Traceback" not in text
    assert "Exception ignored" not in text
    return text.strip().splitlines()[-1]


@pytest.mark.parametrize("to", ["the process", "its job"])
@pytest.mark.parametrize(
    ("number", "name"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")]
)
def test_a_signal_ends_a_run_that_can_go_on(data, tmp_path, number, name, to):
    """Batch systems signal all processes of a job, workers included; so does a terminal."""
    with running(data, tmp_path / "run", "--workers", 2) as process:
        workers = children(process.pid)
        (os.kill if to == "the process" else os.killpg)(process.pid, number)
        line = last_line(process)
    assert process.returncode == 128 + number
    content = load(tmp_path / "run/last.pth")
    done = content["iter"]
    assert done == len(content["metrics"]) >= 1
    assert line.startswith(
        f"stopped by {name}; {done} of 10000 epochs are in {tmp_path}/run; to continue"
    )
    assert line.endswith("to continue, repeat the command with --resume")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        *("best.pth", "config.json", "last.pth", "metrics.csv", "predictions.csv", "speed.csv")
    ]
    assert len(workers) >= 2
    assert not [pid for pid in workers if alive(pid)]


def test_a_run_that_ignores_hangups_goes_on(data, tmp_path):
    """`nohup python train_rafdb.py`: what is ignored at the start stays so."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with running(data, tmp_path / "run", "--workers", 0) as process:
            os.kill(process.pid, signal.SIGHUP)
            process.wait_for("epoch 3/")
            os.kill(process.pid, signal.SIGTERM)
            assert "SIGTERM" in last_line(process)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_worker_that_the_system_kills_is_reported_as_such(data, tmp_path):
    with running(data, tmp_path / "run", "--workers", 2) as process:
        workers = children(process.pid)
        os.kill(workers[0], signal.SIGKILL)
        line = last_line(process)
    assert process.returncode == 2
    assert line.startswith("error: a DataLoader worker died: killed by the system")
    assert "memory runs out" in line
    assert "--workers" in line
    assert load(tmp_path / "run/last.pth")["iter"] >= 1
    assert not (tmp_path / "run/.lock").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("DataLoader worker (pid 7) is killed by signal: Killed. ", "memory runs out"),
        ("DataLoader worker (pid 7) is killed by signal: Bus error. It is", "shared memory"),
        ("DataLoader worker (pid(s) 7, 8) exited unexpectedly", "memory runs out"),
        ("DataLoader worker (pid 7) is killed by signal: Terminated. ", "Terminated"),
    ],
)
def test_the_death_of_a_worker_is_one_line(text, words, monkeypatch):
    monkeypatch.setattr(engine_data.time, "sleep", lambda seconds: None)
    with pytest.raises(InputError) as error, engine_data.reporting_worker_crashes():
        raise RuntimeError(text)
    assert words in str(error.value)
    with pytest.raises(RuntimeError, match="of our own"), engine_data.reporting_worker_crashes():
        raise RuntimeError("of our own")


def test_a_stop_that_was_swallowed_is_raised_at_the_next_batch(monkeypatch):
    """Python prints what is raised inside a destructor and goes on."""
    batch = batch_of(torch.zeros(1))
    batches = engine_data.batches_on([Loaded(batch, [])] * 2, torch.device("cpu"))
    next(batches)
    monkeypatch.setattr(engine_data, "stop_asked", lambda: Stopped(signal.SIGTERM))
    with pytest.raises(Stopped):
        next(batches)


def run_code(code: str, *, start_new_session: bool = False) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-u", "-c", "from common.cli import call_main\n" + code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=start_new_session,
        # Shells start what runs in the background with Ctrl-C ignored, these tests perhaps too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )


def test_every_command_ends_at_a_signal_in_one_line():
    process = run_code("import time\ncall_main(lambda: (print('up'), time.sleep(60)))")
    assert process.stdout.readline() == b"up\n"
    process.terminate()
    assert last_line(process) == "stopped by SIGTERM"
    assert process.returncode == 143


def test_ctrl_c_to_a_job_with_a_pool_of_processes_ends_it_in_one_line():
    """As `datasets.demo` and `tools.check_data` work: all of them get the signal."""
    code = """
import time
from concurrent.futures import ProcessPoolExecutor
def work(number):
    time.sleep(0.05)
    return number
def main():
    with ProcessPoolExecutor(2) as pool:
        for number in pool.map(work, range(2000)):
            if number == 3:
                print('up')
call_main(main)
"""
    process = run_code(code, start_new_session=True)
    assert process.stdout.readline() == b"up\n"
    os.killpg(process.pid, signal.SIGINT)
    assert last_line(process) == "stopped by Ctrl-C"
    assert process.returncode == 130


def test_one_that_hangs_while_it_ends_is_ended_by_a_later_signal():
    code = """
import time, common.signals
common.signals.PATIENCE = 0
def main():
    try:
        print('up')
        time.sleep(60)
    finally:
        print('ending')
        time.sleep(60)
call_main(main)
"""
    process = run_code(code)
    assert process.stdout.readline() == b"up\n"
    process.terminate()
    assert process.stdout.readline() == b"ending\n"
    time.sleep(0.05)
    process.terminate()
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 143


def test_other_errors_end_as_before():
    process = run_code(
        "from common.errors import InputError\ndef main(): raise InputError('no')\ncall_main(main)"
    )
    _out, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, errors) == (2, b"error: no\n")


def test_a_second_run_into_a_folder_in_use_is_refused(data, tmp_path):
    with running(data, tmp_path / "run") as process:
        for flags in ((), ("--resume",)):
            with pytest.raises(InputError, match=f"in use by process {process.pid} on"):
                train(small_recipe(data, tmp_path / "run", *FLAGS, *flags))
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    assert (tmp_path / "run/.lock").exists()
    # The lock of the dead process is no obstacle.
    done = load(tmp_path / "run/last.pth")["iter"]
    with pytest.raises(InputError, match=r"--lr was 0\.001, is now 9"):
        train(small_recipe(data, tmp_path / "run", *FLAGS, "--resume", "--lr", 9))
    assert load(tmp_path / "run/last.pth")["iter"] == done
    assert not (tmp_path / "run/.lock").exists()
