"""Which runs a table needs, and which of them are there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from common.errors import InputError
from common.flags import settings
from results.experiments import tables_named
from results.plan import BACKBONE, make_plan, published_sizes
from tests.support.run_folders import write_metrics, write_run

RUNS = Path("runs")


def plan(name: str, dataset: str | None, *extra: str, seeds: int = 1, only=None, runs=RUNS):
    return make_plan(tables_named(name, dataset), seeds, runs, extra, only=only)


def names(planned) -> list[str]:
    return [f"{run.folder.parent.name}/{run.folder.name}" for run in planned]


def flags_of(run) -> dict:
    return settings(run.recipe)


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


def test_extra_flags_reach_every_run_and_the_backbone_keeps_its_own_length():
    backbone, *rows = plan("table2", "fer2013", "--epochs", "3", "--image-size", "48")
    assert {flags_of(run)["image_size"] for run in (backbone, *rows)} == {48}
    assert flags_of(backbone)["epochs"] == BACKBONE["epochs"] == 12
    assert flags_of(backbone)["arch"] == "resnet18"
    for run in rows:
        assert flags_of(run)["epochs"] == 3
        assert flags_of(run)["pretrained"] == str(RUNS / "fer2013/backbone/last.pth")


def test_a_named_backbone_takes_the_place_of_ours():
    planned = plan("table2", "fer2013", "--pretrained", "x.pth")
    assert "fer2013/backbone" not in names(planned)
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


def test_published_sizes_are_the_papers():
    assert published_sizes("rafdb") == (12_271, 3_068)
    assert published_sizes("affectnet8") == (287_651, 4_000)
    assert published_sizes("sfew") == (958, 436)
