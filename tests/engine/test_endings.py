"""A run in several processes of which one fails: all end, and what happened is told once."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch.distributed as dist
from engine.endings import Notes, ending

from common.errors import InputError
from common.signals import Stopped
from engine import distributed, endings
from engine.distributed import World, command_line, meet
from engine.train import train
from tests.support.processes import processes
from tests.support.scripts import Forked, load, small_recipe, write_rafdb

MANY = ("--epochs", 10_000)  # longer than any test waits


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_rafdb(tmp_path_factory.mktemp("data") / "raf-basic")


def trainings(
    flags: Sequence[tuple], data: Path, folder: Path, *, machines: int = 1
) -> AbstractContextManager[list[Forked]]:
    """As many processes as there are `flags` that train into a folder."""

    def training(own: tuple) -> Callable[[], None]:
        return lambda: train(small_recipe(data, folder, *own))

    return processes([training(own) for own in flags], machines=machines)


def ends(started: list[Forked]) -> tuple[list[int], list[list[str]]]:
    """The exit statuses, and what each process said on stderr apart from warnings."""
    said = []
    for process in started:
        text = process.communicate(timeout=120)[1].decode().replace("\r", "\n")
        assert "Traceback" not in text
        lines = [line for line in text.splitlines() if line.strip() and "%|" not in line]
        said.append([line for line in lines if not line.startswith("warning: ")])
    return [process.returncode for process in started], said


def told_once(said: list[list[str]]) -> str:
    """The one line that all processes said together."""
    (line,) = [line for lines in said for line in lines]
    return line


def assert_whole(folder: Path) -> int:
    """A run folder of complete epochs, and no more; returns their number."""
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["best.pth", "config.json", "last.pth", "metrics.csv"]
    content = load(folder / "last.pth")
    assert content["iter"] == len(content["metrics"]) >= 1
    assert (folder / "metrics.csv").read_text().count("\n") == 1 + content["iter"]
    return content["iter"]


# --------------------------------------------------------------------------------------------
# Input that one process or all of them cannot use


@pytest.mark.parametrize("flags", [("--workers", 0), ("--workers", 1, "--cache", "off")])
def test_an_unreadable_image_is_named_once(tmp_path, flags):
    data = write_rafdb(tmp_path / "data")
    image = data / "Image/aligned/train_00003_aligned.jpg"
    image.write_bytes(image.read_bytes()[:200])
    with trainings([flags, flags], data, tmp_path / "run") as started:
        statuses, said = ends(started)
    assert statuses == [2, 2]
    assert told_once(said).startswith(f"error: image {image} cannot be decoded")
    assert not (tmp_path / "run/.lock").exists()


def test_leaving_out_images_is_refused_once(data, tmp_path):
    skip = ("--on-bad-image", "skip")
    with trainings([skip, skip], data, tmp_path / "run") as started:
        statuses, said = ends(started)
    assert statuses == [2, 2]
    assert told_once(said).startswith("error: --on-bad-image skip with 2 processes is not offered")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_the_first_process_cannot_use_ends_all(data, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/metrics.csv").touch()
    with trainings([(), ()], data, tmp_path / "run") as started:
        statuses, said = ends(started)
    assert statuses == [2, 2]
    assert "run already holds a run (metrics.csv)" in told_once(said)
    assert said[0]


def test_a_file_in_the_place_of_the_folder_ends_all(data, tmp_path):
    (tmp_path / "run").touch()
    with trainings([(), ()], data, tmp_path / "run") as started:
        statuses, said = ends(started)
    assert statuses == [2, 2]
    assert "is a file; expected a folder" in told_once(said)


@pytest.mark.parametrize("machines", [1, 2])
def test_data_that_the_second_process_alone_does_not_find(data, tmp_path, machines):
    flags = [(), ("--data", tmp_path / "gone")]
    with trainings(flags, data, tmp_path / "run", machines=machines) as started:
        statuses, said = ends(started)
    assert statuses == [2, 2]
    found = f"data folder {tmp_path}/gone does not exist"
    (line,) = said[1]
    assert line.startswith(f"error: {found}")
    if machines == 1:
        assert said[0] == []
    else:
        # Whoever looks at the other machine alone reads it as well.
        (line,) = said[0]
        assert line.startswith("error: process 1 of 2 on ")
        assert f"ended: {found}" in line


def test_machines_with_other_settings_are_refused(data, tmp_path):
    with trainings([(), ("--lr", 0.5)], data, tmp_path / "run") as started:
        statuses, said = ends(started)
    assert statuses == [2, 2]
    assert "process 1 of 2 was started with other settings" in told_once(said)
    assert "--lr was 0.001, is now 0.5" in told_once(said)


@pytest.mark.parametrize("change", ["fewer", "labels"])
def test_machines_with_other_data_are_refused(data, tmp_path, change):
    """They would wait for each other's batches for ever, or train on other labels."""
    other = write_rafdb(tmp_path / "other", train=21 if change == "labels" else 20)
    labels = other / "EmoLabel/list_patition_label.txt"
    if change == "labels":
        labels.write_text(labels.read_text().replace("train_00001.jpg 1", "train_00001.jpg 2"))
    with trainings([(), ("--data", other)], data, tmp_path / "run") as started:
        statuses, said = ends(started)
    assert statuses == [2, 2]
    assert f"process 1 of 2 finds other data than the first in {other}" in told_once(said)


# --------------------------------------------------------------------------------------------
# Signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_is_told_by_the_first(data, tmp_path, number):
    with trainings([MANY, MANY], data, tmp_path / "run") as started:
        started[0].wait_for("epoch 2/")
        for process in reversed(started):
            os.kill(process.pid, number)
        statuses, said = ends(started)
    assert statuses == [128 + number] * 2
    done = assert_whole(tmp_path / "run")
    assert f"; {done} of 10000 epochs are in {tmp_path}/run; go on with: " in told_once(said)
    assert said[0][0].startswith("stopped by ")


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_to_one_ends_the_other(data, tmp_path, rank, number):
    with trainings([MANY, MANY], data, tmp_path / "run") as started:
        started[0].wait_for("epoch 2/")
        os.kill(started[rank].pid, number)
        statuses, said = ends(started)
    line = told_once(said)
    assert "; go on with: " in line
    if number == signal.SIGTERM:
        assert "stopped by SIGTERM" in line
        assert statuses[rank] == 143
        # What is written, the first knows.
        assert f"; {assert_whole(tmp_path / 'run')} of 10000 epochs are in" in said[0][0]
    else:
        assert line.startswith("error: one of the 2 processes was killed")
        assert said[1 - rank] == [line]
    assert statuses[1 - rank] == 2


def test_on_another_machine_a_signal_is_told_too(data, tmp_path):
    with trainings([MANY] * 4, data, tmp_path / "run", machines=2) as started:
        started[0].wait_for("epoch 2/")
        for process in started:
            os.kill(process.pid, signal.SIGTERM)
        statuses, said = ends(started)
    assert statuses == [143] * 4
    done = assert_whole(tmp_path / "run")
    assert said[0][0].startswith(f"stopped by SIGTERM; {done} of 10000 epochs")
    assert said[1] == []
    assert told_once(said[2:]).startswith("stopped by SIGTERM; go on with: ")


def test_torchruns_signal_does_not_hide_an_error(data, tmp_path):
    """torchrun ends the processes that are left once it has seen one fail."""
    flags = [(), ("--data", tmp_path / "gone")]
    with trainings(flags, data, tmp_path / "run") as started:
        started[1].communicate()
        os.kill(started[0].pid, signal.SIGTERM)
        statuses, said = ends(started[:1])
    assert said == [[]]
    assert statuses[0] != 0


def test_one_that_waits_for_the_others_hears_a_signal(data, tmp_path):
    with trainings([(), ()], data, tmp_path / "run") as started:
        os.kill(started[0].pid, signal.SIGKILL)
        started[0].communicate()
        os.kill(started[1].pid, signal.SIGTERM)
        statuses, _ = ends(started[1:])
    assert statuses == [143]


# --------------------------------------------------------------------------------------------
# The parts


def meet_all(store: dist.Store, size: int) -> list[dist.Store]:
    """What each of so many processes gets, here threads that start in the wrong order."""
    met: list = [None] * size

    def one(rank: int) -> None:
        met[rank] = meet(store, World(rank, size))

    threads = [threading.Thread(target=one, args=(rank,)) for rank in reversed(range(size))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    return met


def test_every_start_has_a_part_of_the_store_of_its_own():
    """torchrun keeps its store over restarts, and what was written before is of dead processes."""
    store = dist.HashStore()
    starts = [meet_all(store, 3) for _ in range(3)]
    for number, met in enumerate(starts):
        met[0].set("address", str(number))
    for number, met in enumerate(starts):
        assert [part.get("address").decode() for part in met] == [str(number)] * 3


def test_waiting_for_the_others_has_an_end(monkeypatch):
    monkeypatch.setattr(distributed, "PATIENCE", 0.1)
    for rank in (0, 1):
        with pytest.raises(InputError, match=f"process {rank} of 2 waited"):
            meet(dist.HashStore(), World(rank, 2))


def test_the_line_that_started_torchrun_is_the_one_to_go_on_with(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "--lr", "0.1"])
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert command_line() == ["python", "train.py", "--lr", "0.1"]
    for name, value in zip(("RANK", "WORLD_SIZE", "LOCAL_RANK"), "121", strict=True):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    launcher = ["/bin/python3", "/bin/torchrun", "--standalone", "train.py", "--lr", "0.1"]
    for parent, shown in (
        (launcher, "/bin/torchrun --standalone train.py --lr 0.1"),
        (
            ["python", "-m", "torch.distributed.run", *launcher[2:]],
            "python -m torch.distributed.run --standalone train.py --lr 0.1",
        ),
        # Something else, or a system that does not tell.
        (["make", "train"], "torchrun --nproc-per-node=2 train.py --lr 0.1"),
        ([], "torchrun --nproc-per-node=2 train.py --lr 0.1"),
    ):
        monkeypatch.setattr(distributed, "_parent_command", lambda parent=parent: parent)
        assert shlex.join(command_line()) == shown


def test_an_error_of_our_own_keeps_its_traceback_and_silences_the_others():
    store = dist.HashStore()
    worlds = [World(rank, 2, rank, 2) for rank in range(2)]
    notes = [Notes(store, world) for world in worlds]
    for error in (ZeroDivisionError("of our own"), RuntimeError("of our own")):
        assert ending(error, worlds[0], notes[0]) is error
    lost = RuntimeError("Connection closed by peer")
    assert isinstance(ending(lost, worlds[1], notes[1]), SystemExit)


def test_a_stop_because_of_another_machines_error_names_that():
    """Their torchruns end each other's processes with a signal."""
    store = dist.HashStore()
    here, there = World(0, 2), World(1, 2)
    notes = [Notes(store, world) for world in (here, there)]
    error, stopped = InputError("no face"), Stopped(signal.SIGTERM)
    stopped.advice = "1 of 3 epochs are in run"
    assert ending(error, there, notes[1]) is error
    end = ending(stopped, here, notes[0])
    assert isinstance(end, InputError)
    assert str(end).startswith("process 1 of 2 on ")
    assert str(end).endswith(" ended: no face; 1 of 3 epochs are in run")


def test_without_the_store_every_process_tells(monkeypatch):
    """Its process may be the one that has died."""

    class Gone(dist.HashStore):
        def add(self, *_):
            raise dist.DistNetworkError("Connection reset")

        check = compare_set = add

    monkeypatch.setattr(endings, "stop_asked", lambda: None)
    world = World(1, 2, 1, 2)
    notes = Notes(Gone(), world)
    error, stopped = InputError("no"), Stopped(signal.SIGTERM)
    assert ending(error, world, notes) is error
    assert ending(stopped, world, notes) is stopped
    lost = ending(dist.DistNetworkError("Connection reset"), world, notes)
    assert isinstance(lost, InputError)
    assert "start again with --resume" in str(lost)
