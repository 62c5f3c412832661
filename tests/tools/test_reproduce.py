"""tools.reproduce: what it estimates, what it refuses, and a small table from nothing."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

import train_fer2013
from common.errors import InputError
from common.flags import parse_flags
from datasets.demo import write_rafdb
from engine.train import train
from results.experiments import tables_named
from results.paired import paired_comparison
from results.plan import BACKBONE, make_plan
from tests.support.run_folders import write_run
from tests.support.scripts import PATIENCE, Forked, run_script, snapshot, write_fer2013_csv
from tools import reproduce
from tools.reproduce import Estimate, main


def planned(name: str, *extra: str, only: list[str]):
    return make_plan(tables_named(name, "rafdb"), 1, Path("runs"), extra, only=only)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["table9"], "no table is named 'table9'"),
        (["table1", "--dataset", "mine"], "--dataset is 'mine'"),
        (["table1", "--seeds", "0"], "--seeds is 0"),
        (["table1", "--jobs", "0"], "--jobs is 0"),
        (["table1", "--frobnicate", "1"], "--frobnicate"),
        (["table1", "--epochs", "none"], "--epochs"),
        (["table1", "--only", "dan-heads2"], "--only names 'dan-heads2'"),
        (["table1", "--methods", "dan"], "--methods is for rivals, noise and ablations"),
        (["rivals", "--methods", "poster"], "--methods names 'poster'"),
        (["rivals", "--only", "dan-heads2"], "--only names 'dan-heads2'"),
        (["noise", "--label-noise", "0.5"], "--label-noise is set by the table"),
    ],
)
def test_a_bad_request_is_refused_before_anything_runs(arguments, message):
    with pytest.raises(InputError, match=message):
        main([*arguments, "--dry-run"])


def test_the_estimate_follows_images_and_epochs_and_learns(monkeypatch):
    monkeypatch.setattr(reproduce, "seconds_per_image", lambda recipe: 0.5)
    few, *_ = planned("table2", "--epochs", "2", "--limit", "100", only=["dan"])
    many, *_ = planned("table2", "--epochs", "4", only=["dan"])
    clock = Estimate()
    assert clock.seconds(few) == pytest.approx(2 * (100 + 3068 / 3) * 0.5)
    assert clock.seconds(many) == pytest.approx(4 * (12_271 + 3068 / 3) * 0.5)
    clock.learn(few, 3 * clock.seconds(few))
    assert clock.seconds(many) == pytest.approx(3 * 4 * (12_271 + 3068 / 3) * 0.5)


# ---- as a command


def test_a_dry_run_lists_commands_and_writes_nothing(tmp_path, monkeypatch, capsys):
    flags = ["--image-size", "32", "--batch-size", "8", "--dry-run"]
    monkeypatch.chdir(tmp_path)
    assert main(["fig5", "--only", "dan", *flags]) == 0
    command, total = capsys.readouterr().out.strip().split("\n")
    assert "train_rafdb.py --image-size 32 --batch-size 8 --seed 0 --output" in command
    assert total.startswith("1 of 1 runs are to be done: about ")
    assert not list(tmp_path.iterdir())


class Ended:
    """A process that ended with this status."""

    def __init__(self, status: int):
        self.returncode = status

    def poll(self) -> int:
        return self.returncode


@pytest.fixture
def trained_here(monkeypatch) -> list[str]:
    """Train scripts run in this process; the list takes their names."""
    ran = []

    def start(command: list[str], **_output) -> Ended:
        _, script, *arguments = command
        ran.append(Path(script).name)
        assert ran[-1] == "train_fer2013.py"
        train(parse_flags(train_fer2013.RECIPE, "", arguments))
        return Ended(0)

    monkeypatch.setattr(reproduce.subprocess, "Popen", start)
    return ran


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*published are")
def test_a_table_from_nothing_and_again(trained_here, tmp_path, monkeypatch, capsys):
    """Backbone, two rows, the table; then nothing is left to do but a run that was broken."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(BACKBONE, "epochs", 1)
    data = write_fer2013_csv(tmp_path / "data", train=16, public=7, private=7)
    flags = ["--data", str(data), "--image-size", "32", "--epochs", "1", "--batch-size", "8"]
    rows = ["--only", "dan-partition-none,dan", "--workers", "0", "--device", "cpu"]
    command = ["all", "--dataset", "fer2013", *rows, *flags]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "== run 3 of 3" in shown
    assert "Loss on the heads (the form of Table 2), on fer2013" in shown
    runs = tmp_path / "runs/fer2013"
    assert sorted(path.name for path in runs.iterdir()) == [
        "backbone",
        "dan-partition-none-seed0",
        "dan-seed0",
    ]
    config = json.loads((runs / "dan-partition-none-seed0/config.json").read_text())
    assert config["settings"]["pretrained"] == "runs/fer2013/backbone/last.pth"
    before = snapshot(runs)
    for name in ("metrics.csv", "last.pth", "best.pth"):
        (runs / "dan-seed0" / name).unlink()
    assert main(command) == 0
    again = capsys.readouterr().out
    assert again.count("== run") == 1
    assert "== run 3 of 3" in again
    assert len(trained_here) == 4
    assert snapshot(runs)["dan-seed0/metrics.csv"] == before["dan-seed0/metrics.csv"]


@pytest.mark.slow
def test_methods_are_compared_from_nothing_and_the_table_is_theirs(tmp_path):
    """On synthetic faces, as commands; a second call has nothing to do."""
    write_rafdb(tmp_path / "faces", train=14, test=14, workers=1)
    small = ["--image-size", 32, "--batch-size", 8, "--epochs", 1, "--device", "cpu"]
    command = ["rivals", "--dataset", "demo", "--data", tmp_path / "faces", "--workers", 0]
    command += ["--methods", "resnet18,eac", *small]
    first = run_script("tools.reproduce", *command, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "== run 3 of 3" in first.stdout
    table = first.stdout[first.stdout.index("Methods under one protocol") :]
    again = run_script("tools.reproduce", *command, cwd=tmp_path)
    assert "== run" not in again.stdout
    assert table in again.stdout
    shown = run_script("eval.py", "--tables", "--format", "json", cwd=tmp_path)
    rows = {r["method"]: r for r in json.loads(shown.stdout) if r["table"] == "rivals"}
    assert list(rows) == ["ResNet-18", "EAC"]
    right = {}
    for method, arch in (("ResNet-18", "resnet18"), ("EAC", "eac")):
        file = tmp_path / f"runs/protocol/demo/{arch}-seed0/predictions.csv"
        table = np.loadtxt(file, delimiter=",", skiprows=1, dtype=int)
        right[arch] = table[:, 1] == table[:, 2]
        assert right[arch].shape == (14,)
        assert rows[method]["last_accuracy"] == pytest.approx(100 * right[arch].mean())
        assert rows[method]["images_per_second"] > 0
    difference = 100 * (right["eac"].mean() - right["resnet18"].mean())
    assert rows["EAC"]["difference"] == pytest.approx(difference)
    assert rows["EAC"]["p_value"] == pytest.approx(paired_comparison(*right.values()).p_value)
    assert rows["EAC"]["parameters"] == rows["ResNet-18"]["parameters"] == 11_180_103


@pytest.mark.parametrize(("status", "expected"), [(3, 3), (-9, 137)])
def test_a_run_that_fails_stops_the_table(status, expected, tmp_path, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(
        reproduce.subprocess, "Popen", lambda words, **_: calls.append(words) or Ended(status)
    )
    monkeypatch.setattr(reproduce, "seconds_per_image", lambda recipe: 0.5)
    assert main(["table1", "--runs", str(tmp_path)]) == expected
    assert len(calls) == 1
    assert "the same command goes on from here" in capsys.readouterr().err


def test_the_table_is_of_all_finished_runs_on_its_data(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reproduce, "run_all", lambda waiting, **_: 0)
    write_run(tmp_path / "a", "rafdb", [0.5])
    write_run(tmp_path / "b", "fer2013", [0.25])
    write_run(tmp_path / "c", "fer2013", [0.75], arch="resnet18")
    assert main(["table5", "--runs", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "Table 5: RAF-DB" in shown
    assert "50.00" in shown
    assert "75.00" not in shown
    assert "Table 6" not in shown
    assert main(["table5", "--dataset", "fer2013", "--runs", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "75.00" in shown
    assert "50.00" not in shown


@pytest.mark.slow
def test_a_script_that_refuses_ends_the_command_with_its_status(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert main(["table6", "--image-size", "32"]) == 2
    message = capfd.readouterr().err
    assert "Traceback" not in message
    assert "data folder datasets/sfew-aligned does not exist" in message
    assert "the same command goes on from here" in message


# ---- several at a time


class Started:
    """A process that runs until `end`."""

    def __init__(self, command: list[str], **_output):
        self.command, self.returncode, self.stopped = command, None, False

    def poll(self) -> int | None:
        return self.returncode

    def end(self, status: int) -> None:
        self.returncode = status

    def terminate(self) -> None:
        self.stopped = True

    def wait(self) -> int:
        return self.returncode


@pytest.fixture
def started(monkeypatch) -> list[Started]:
    """The processes that were started; none of them is real."""
    processes = []

    def start(command: list[str], **output) -> Started:
        processes.append(Started(command, **output))
        return processes[-1]

    monkeypatch.setattr(reproduce.subprocess, "Popen", start)
    monkeypatch.setattr(reproduce, "seconds_per_image", lambda recipe: 0.5)
    monkeypatch.setattr(reproduce, "available_cores", lambda: list(range(8)))
    return processes


def threads(command: list[str]) -> int:
    """What a train script makes of its flags."""
    return parse_flags(train_fer2013.RECIPE, "", command[2:]).threads


def at_each_look(monkeypatch, *steps) -> None:
    """Do one step whenever tools.reproduce waits."""
    remaining = iter(steps)
    monkeypatch.setattr(reproduce.time, "sleep", lambda _seconds: next(remaining)())


def test_rows_wait_for_their_backbone_and_then_share_the_cores(
    started, tmp_path, monkeypatch, capsys
):
    def only_the_backbone_runs():
        assert [Path(p.command[p.command.index("--output") + 1]).name for p in started] == [
            "backbone"
        ]
        started[0].end(0)

    def two_rows_run():
        assert len(started) == 3
        started[2].end(0)

    def the_third_takes_the_free_place():
        assert len(started) == 4
        started[1].end(0)
        started[3].end(0)

    at_each_look(monkeypatch, only_the_backbone_runs, two_rows_run, the_third_takes_the_free_place)
    monkeypatch.setattr(reproduce, "print_tables", lambda *_: None)
    table = ["all", "--dataset", "fer2013", "--only", "dan,dan-heads2,resnet18"]
    assert main([*table, "--jobs", "2", "--runs", str(tmp_path)]) == 0
    assert {threads(p.command) for p in started} == {4}
    shown = capsys.readouterr().out
    assert shown.count("finished after") == 4
    assert f"> {tmp_path / 'fer2013/backbone.log'}" in shown


def test_after_a_failure_running_ones_go_on_and_none_is_started(
    started, tmp_path, monkeypatch, capsys
):
    at_each_look(monkeypatch, lambda: started[0].end(3), lambda: started[1].end(0))
    command = ["fig5", "--only", "dan,dan-heads2,dan-heads3", "--jobs", "2", "--threads=3"]
    assert main([*command, "--runs", str(tmp_path)]) == 3
    assert len(started) == 2
    assert not any(process.stopped for process in started)
    assert {threads(p.command) for p in started} == {3}
    shown = capsys.readouterr()
    assert shown.out.count("finished after") == 1
    assert ".log; the same command goes on from here" in shown.err


# In the place of a train script: says where it is, and waits to be stopped.
SCRIPT = """
import os, pathlib, sys, time
folder = pathlib.Path(sys.argv[sys.argv.index("--output") + 1])
folder.mkdir(parents=True, exist_ok=True)
part = folder / "part"
part.write_text(str(os.getpid()))
print("waiting", flush=True)
part.rename(folder / "pid")
time.sleep(60)
"""


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(
    ("number", "whom"), [(signal.SIGINT, "the job"), (signal.SIGTERM, "the command")]
)
def test_a_signal_leaves_no_run_behind(tmp_path, monkeypatch, number, whom):
    """Ctrl-C reaches every process of the job; SIGTERM may reach the command alone."""
    (tmp_path / "train_rafdb.py").write_text(SCRIPT)
    monkeypatch.setattr(reproduce, "ROOT", tmp_path)
    monkeypatch.setattr(reproduce, "seconds_per_image", lambda recipe: 0.5)
    runs = tmp_path / "runs"
    command = ["fig5", "--only", "dan,dan-heads2,dan-heads3", "--jobs", "2", "--runs", str(runs)]
    process = Forked(lambda: main(command))
    try:
        pids: list[Path] = []
        deadline = time.monotonic() + PATIENCE
        while len(pids) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
            pids = sorted(runs.rglob("pid"))
        (os.killpg if whom == "the job" else os.kill)(process.pid, number)
        _, errors = process.communicate()
        assert process.returncode == 128 + number
        assert errors.decode().splitlines()[-1].startswith("stopped by ")
        assert len(list(runs.rglob("pid"))) == 2  # the third was not started
        assert not [path for path in pids if alive(int(path.read_text()))]
        assert sorted(log.read_text()[:7] for log in runs.rglob("*.log")) == ["waiting"] * 2
    finally:
        process.end()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*published are")
def test_two_real_runs_at_a_time_write_their_folders_and_logs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = write_fer2013_csv(tmp_path / "data", train=16, public=7, private=7)
    flags = ["--data", str(data), "--image-size", "32", "--epochs", "1", "--batch-size", "8"]
    rows = ["--only", "resnet18,dan", "--pretrained", "none", "--workers", "0", "--device", "cpu"]
    assert main(["all", "--dataset", "fer2013", *rows, *flags, "--jobs", "2"]) == 0
    assert capsys.readouterr().out.count("finished after") == 2
    for name in ("dan-seed0", "resnet18-seed0"):
        assert (tmp_path / "runs/fer2013" / name / "last.pth").exists()
        assert "epoch 1/1" in (tmp_path / f"runs/fer2013/{name}.log").read_text()
