"""tools.reproduce: what it estimates, what it refuses, and a small table from nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import train_fer2013
from common.errors import InputError
from common.flags import parse_flags
from engine.train import train
from results.experiments import tables_named
from results.plan import BACKBONE, make_plan
from tests.support.run_folders import write_run
from tests.support.scripts import snapshot, write_fer2013_csv
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
        (["table1", "--frobnicate", "1"], "--frobnicate"),
        (["table1", "--epochs", "none"], "--epochs"),
        (["table1", "--only", "dan-heads2"], "--only names 'dan-heads2'"),
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


@pytest.fixture
def trained_here(monkeypatch) -> list[str]:
    """Train scripts run in this process; the list takes their names."""
    ran = []

    def call(command: list[str]) -> int:
        _, script, *arguments = command
        ran.append(Path(script).name)
        assert ran[-1] == "train_fer2013.py"
        train(parse_flags(train_fer2013.RECIPE, "", arguments))
        return 0

    monkeypatch.setattr(reproduce.subprocess, "call", call)
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


@pytest.mark.parametrize(("status", "expected"), [(3, 3), (-9, 137)])
def test_a_run_that_fails_stops_the_table(status, expected, tmp_path, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(reproduce.subprocess, "call", lambda words: calls.append(words) or status)
    monkeypatch.setattr(reproduce, "seconds_per_image", lambda recipe: 0.5)
    assert main(["table1", "--runs", str(tmp_path)]) == expected
    assert len(calls) == 1
    assert "the same command goes on from here" in capsys.readouterr().err


def test_the_table_is_of_all_finished_runs_on_its_data(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reproduce, "run_all", lambda waiting, total: 0)
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
