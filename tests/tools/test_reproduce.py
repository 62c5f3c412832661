"""tools.reproduce: what it plans, what it keeps, and a small table from nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from engine.progress import duration

from common.errors import InputError
from engine.recipe import settings
from results.experiments import tables_named
from results.plan import TRUNK, make_plan
from tests.support.run_folders import write_metrics, write_run
from tests.support.scripts import run_script, snapshot, write_fer2013_csv
from tools.reproduce import Estimate, main, published_sizes

RUNS = Path("runs")
TOOL = "tools.reproduce"


def plan(name: str, dataset: str | None, *extra: str, seeds: int = 1, only=None, runs=RUNS):
    return make_plan(tables_named(name, dataset), seeds, runs, extra, only=only)


def names(planned) -> list[str]:
    return [f"{run.folder.parent.name}/{run.folder.name}" for run in planned]


def flags_of(run) -> dict:
    return settings(run.recipe)


# ---- planning


def test_a_table_needs_its_rows_for_every_seed_and_each_run_once():
    assert names(plan("table1", None, seeds=2)) == [
        "rafdb/dan-fcn-none-seed0",
        "rafdb/dan-fcn-center-seed0",
        "rafdb/dan-seed0",
        "rafdb/dan-fcn-none-seed1",
        "rafdb/dan-fcn-center-seed1",
        "rafdb/dan-seed1",
    ]
    everything = names(plan("all", "rafdb"))
    assert len(everything) == len(set(everything)) == 10
    assert everything.count("rafdb/dan-seed0") == 1


def test_all_without_a_data_set_is_the_whole_paper():
    datasets = {run.dataset for run in plan("all", None)}
    assert datasets == {"rafdb", "affectnet8", "affectnet7", "sfew"}


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("dan-seed0", {}),
        ("resnet18-seed0", {"arch": "resnet18"}),
        ("dan-fcn-none-seed0", {"fcn_loss": "none"}),
        ("dan-fcn-center-seed0", {"fcn_loss": "center"}),
        ("dan-partition-none-seed0", {"partition": "none"}),
        ("dan-partition-released-seed0", {"partition": "released"}),
        ("dan-heads1-seed0", {"heads": 1}),
        ("dan-heads5-seed0", {"heads": 5}),
    ],
)
def test_a_run_is_the_papers_recipe_but_for_its_row(folder, expected):
    runs = {run.folder.name: flags_of(run) for run in plan("all", "rafdb")}
    paper = runs["dan-seed0"]
    assert (paper["arch"], paper["heads"], paper["fcn_loss"]) == ("dan", 4, "affinity")
    assert (paper["epochs"], paper["lr"], paper["batch_size"]) == (40, 0.1, 256)
    changed = {k: v for k, v in runs[folder].items() if paper[k] != v and k != "output"}
    assert changed == expected


def test_affectnet_with_seven_classes_is_asked_for():
    (run, *_) = plan("table4", None)
    assert flags_of(run)["classes"] == "7"


def test_extra_flags_reach_every_run_and_the_trunk_keeps_its_own_length():
    trunk, *rows = plan("table2", "fer2013", "--epochs", "3", "--image-size", "48")
    assert {flags_of(run)["image_size"] for run in (trunk, *rows)} == {48}
    assert flags_of(trunk)["epochs"] == TRUNK["epochs"] == 12
    assert flags_of(trunk)["arch"] == "resnet18"
    for run in rows:
        assert flags_of(run)["epochs"] == 3
        assert flags_of(run)["pretrained"] == str(RUNS / "fer2013/trunk/last.pth")


def test_a_named_trunk_takes_the_place_of_ours():
    planned = plan("table2", "fer2013", "--pretrained", "x.pth")
    assert "fer2013/trunk" not in names(planned)
    assert {flags_of(run)["pretrained"] for run in planned} == {"x.pth"}


def test_only_keeps_the_rows_that_are_named():
    planned = plan("all", "rafdb", seeds=2, only=["dan", "dan-heads2"])
    assert sorted(names(planned)) == [
        "rafdb/dan-heads2-seed0",
        "rafdb/dan-heads2-seed1",
        "rafdb/dan-seed0",
        "rafdb/dan-seed1",
    ]


@pytest.mark.parametrize(
    "flags",
    [
        ["--heads", "3"],
        ["--seed=4"],
        ["--output", "x"],
        ["--arch", "dan"],
        ["--fcn-loss", "none"],
        ["--partition", "none"],
        ["--resume"],
        ["--labels", "ferplus"],
        ["--classes", "7"],
    ],
)
def test_what_the_rows_set_cannot_be_given(flags):
    with pytest.raises(InputError, match=r"--\S+ is set by the table"):
        plan("all", "rafdb", *flags)


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


# ---- what is there already


def finished_folder(tmp_path: Path, **flags):
    """A plan of one run, and its folder as that run leaves it."""
    (run,) = plan("table2", "rafdb", "--epochs", "2", only=["dan"], runs=tmp_path)
    write_run(run.folder, "rafdb", [0.5, 0.6], **flags)
    return run


def test_a_finished_run_is_recognised(tmp_path):
    assert finished_folder(tmp_path).is_finished()


def test_an_unfinished_or_absent_run_is_not_finished(tmp_path):
    run = finished_folder(tmp_path)
    write_metrics(run.folder, [0.5])
    assert not run.is_finished()
    (run.folder / "metrics.csv").unlink()
    assert not run.is_finished()
    shutil.rmtree(run.folder)
    assert not run.is_finished()


def test_a_run_with_other_settings_is_refused_by_flag(tmp_path):
    run = finished_folder(tmp_path, lr=0.5)
    with pytest.raises(InputError, match=r"--lr was 0.5, is now 0.1; keep .*--runs DIR"):
        run.is_finished()


def test_a_run_from_before_a_flag_had_its_default(tmp_path):
    """As `--resume` has it."""
    run = finished_folder(tmp_path)
    config = json.loads((run.folder / "config.json").read_text())
    del config["settings"]["center_weight"]
    (run.folder / "config.json").write_text(json.dumps(config))
    assert run.is_finished()


def test_where_it_ran_does_not_matter(tmp_path):
    assert finished_folder(tmp_path, device="cpu", workers=3, data="elsewhere").is_finished()


# ---- time


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (1, "0 min"),
        (119, "2 min"),
        (3600, "1 h 0 min"),
        (9000, "2 h 30 min"),
        (360_000, "4.2 days"),
    ],
)
def test_durations_are_read_at_a_glance(seconds, text):
    assert duration(seconds) == text


def test_published_sizes_are_the_papers():
    assert published_sizes("rafdb") == (12_271, 3_068)
    assert published_sizes("affectnet8") == (287_651, 4_000)
    assert published_sizes("sfew") == (958, 436)


def test_the_estimate_follows_images_and_epochs_and_learns(monkeypatch):
    monkeypatch.setattr("engine.timing.seconds_per_image", lambda recipe, classes: 0.5)
    few, *_ = plan("table2", "rafdb", "--epochs", "2", "--limit", "100", only=["dan"])
    many, *_ = plan("table2", "rafdb", "--epochs", "4", only=["dan"])
    clock = Estimate()
    assert clock.seconds(few) == pytest.approx(2 * (100 + 3068 / 3) * 0.5)
    assert clock.seconds(many) == pytest.approx(4 * (12_271 + 3068 / 3) * 0.5)
    clock.learn(few, 3 * clock.seconds(few))
    assert clock.seconds(many) == pytest.approx(3 * 4 * (12_271 + 3068 / 3) * 0.5)


# ---- as a command


def test_a_dry_run_lists_commands_and_writes_nothing(tmp_path):
    flags = ["--image-size", "32", "--batch-size", "8", "--dry-run"]
    result = run_script(TOOL, "fig5", "--only", "dan", *flags, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    command, total = result.stdout.strip().split("\n")
    assert "train_rafdb.py --image-size 32 --batch-size 8 --seed 0 --output" in command
    assert total.startswith("1 of 1 runs are to be done: about ")
    assert not list(tmp_path.iterdir())


def test_a_table_from_nothing_and_again(tmp_path):
    """Trunk, two rows, the table; then nothing is left to do but a run that was broken."""
    data = write_fer2013_csv(tmp_path / "data", train=16, public=7, private=7)
    flags = ["--data", str(data), "--image-size", "32", "--epochs", "1", "--batch-size", "8"]
    rows = ["--only", "dan-partition-none,resnet18", "--workers", "0", "--device", "cpu"]
    command = [TOOL, "all", "--dataset", "fer2013", *rows, *flags]
    result = run_script(*command, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "== run 3 of 3" in result.stdout
    runs = tmp_path / "runs/fer2013"
    assert sorted(path.name for path in runs.iterdir()) == [
        "dan-partition-none-seed0",
        "resnet18-seed0",
        "trunk",
    ]
    config = json.loads((runs / "dan-partition-none-seed0/config.json").read_text())
    assert config["settings"]["pretrained"] == "runs/fer2013/trunk/last.pth"
    before = snapshot(runs)
    for name in ("metrics.csv", "last.pth", "best.pth"):
        (runs / "resnet18-seed0" / name).unlink()
    again = run_script(*command, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("== run") == 1
    assert "== run 3 of 3" in again.stdout
    assert snapshot(runs)["resnet18-seed0/metrics.csv"] == before["resnet18-seed0/metrics.csv"]


def test_a_run_that_fails_stops_the_table_with_its_status(tmp_path):
    result = run_script(TOOL, "table6", "--image-size", "32", cwd=tmp_path)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert "data folder datasets/sfew-aligned does not exist" in result.stderr
    assert "the same command goes on from here" in result.stderr
