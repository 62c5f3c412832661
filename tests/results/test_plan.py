"""Which runs a table needs, and which of them are there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from common.errors import InputError
from common.flags import settings
from results.experiments import SCRIPTS, tables_named
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


# ---- comparisons of ours


def test_methods_start_from_one_backbone_and_go_by_cost_with_all_their_seeds():
    backbone, *rows = plan("rivals", "fer2013", "--limit", "800", seeds=2)
    archs = ["resnet18", "center", "island", "dda", "scn", "dacl", "phanet", "dan", "eac", "ran"]
    expected = [f"fer2013/{arch}-seed{seed}" for arch in [*archs, "feratt"] for seed in (0, 1)]
    assert names(rows) == expected
    assert backbone.folder == RUNS / "protocol/fer2013/backbone"
    for run in (backbone, *rows):
        flags = flags_of(run)
        shown = [flags[name] for name in ("image_size", "batch_size", "limit", "label_noise")]
        assert shown == [112, 64, 800, 0.0]
    lengths = {flags_of(run)["epochs"] for run in rows}
    assert (lengths, flags_of(backbone)["epochs"]) == ({4}, 12)
    starts = {run.folder.name[:-6]: flags_of(run)["pretrained"] for run in rows}
    assert starts.pop("feratt") == "none"
    assert set(starts.values()) == {str(backbone.folder / "last.pth")}


def test_a_method_has_the_optimiser_that_it_needs():
    rows = {run.folder.name[:-6]: flags_of(run) for run in plan("rivals", "fer2013")[1:]}
    common = rows["resnet18"]
    assert (common["optimizer"], common["lr"]) == ("AdamW(weight_decay=0.05)", 3e-4)
    assert (rows["feratt"]["optimizer"], rows["feratt"]["lr"]) == (
        "Adam(weight_decay=0.0005)",
        1e-4,
    )
    assert (rows["dan"]["lr"], rows["dan"]["backbone_lr"]) == (0.01, 0.01)
    for name, flags in rows.items():
        same = {"epochs", "batch_size", "scheduler", "image_size", "limit", "seed"}
        assert {k: flags[k] for k in same} == {k: common[k] for k in same}
        assert flags["arch"] == name


def test_the_protocol_can_be_overridden_but_not_the_rows():
    given = ("--image-size", "96", "--epochs", "9", "--pretrained", "x.pth")
    rows = plan("rivals", "ferplus", *given)
    assert len(rows) == 11  # no backbone to train
    assert {(flags_of(run)["image_size"], flags_of(run)["epochs"]) for run in rows} == {(96, 9)}
    for flag in ("--lr", "--optimizer", "--label-noise", "--dda-gamma"):
        with pytest.raises(InputError, match=f"{flag} is set by the table"):
            plan("rivals", "ferplus", flag, "0.1")


def test_noise_shares_clean_runs_with_the_methods_and_each_share_has_its_backbone():
    methods = {run.folder: run for run in plan("rivals", "fer2013")}
    noise = {run.folder: run for run in plan("noise", "fer2013")}
    assert len(noise) == 4 * 12
    for folder, run in methods.items():
        assert flags_of(noise[folder]) == flags_of(run)
    place = RUNS / "protocol/fer2013"
    assert flags_of(noise[place / "backbone-noise20"])["label_noise"] == 0.2
    noisy = flags_of(noise[place / "eac-noise20-seed0"])
    assert noisy["label_noise"] == 0.2
    assert noisy["pretrained"] == str(place / "backbone-noise20/last.pth")


def test_ablations_share_the_resnet18_and_dan_with_the_methods():
    methods = {run.folder: run for run in plan("rivals", "ferplus", "--votes", "soft", seeds=3)}
    backbone, *rows = plan("ablations", "ferplus", "--votes", "soft", seeds=3)
    assert flags_of(backbone) == flags_of(methods[backbone.folder])
    shared = names([run for run in rows if run.folder in methods])
    assert shared == [f"ferplus/{name}-seed{i}" for name in ("resnet18", "dan") for i in range(3)]
    assert len(rows) == 3 * 21
    for run in rows:
        flags = flags_of(run)
        assert flags == flags_of(methods.get(run.folder, run))
        rates = (3e-4, 1.0) if flags["arch"] == "resnet18" else (0.01, 0.01)
        assert (flags["lr"], flags["backbone_lr"]) == rates
        assert (flags["image_size"], flags["votes"]) == (112, "soft")


def test_synthetic_faces_lie_where_the_demo_writes_them():
    backbone, *_ = plan("rivals", "demo")
    assert flags_of(backbone)["data"] == "build/demo/raf-basic"
    assert flags_of(backbone)["optimizer"] == "AdamW(weight_decay=0.05)"
    elsewhere, *_ = plan("rivals", "demo", "--data", "mine")
    assert flags_of(elsewhere)["data"] == "mine"
    assert published_sizes("demo") == (3000, 1000)


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
    assert published_sizes("ferplus") == published_sizes("fer2013") == (28_709, 7_178)
    assert all(min(published_sizes(dataset)) > 0 for dataset in SCRIPTS)
