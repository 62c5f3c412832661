"""The paper's tables with our runs: which runs go where, and the numbers in the cells."""

from __future__ import annotations

import math
import shlex
from pathlib import Path

import pytest

from results import published
from results.experiments import SCRIPTS, TABLES, recipe_with
from results.render import as_text, records
from results.runs import read_runs
from results.tables import Ours, Spread, in_no_table, make_tables
from tests.support.run_folders import write_run

PAPER = ["table1", "table2", "table3", "table4", "table5", "table6", "fig5"]


def tables_of(folder: Path):
    runs, _ = read_runs(folder)
    return make_tables(runs, folder)


def rows_of(folder: Path, **wanted) -> list[dict]:
    """The records of the tables of a folder, of one table, method ..."""
    found = records(tables_of(folder))
    return [row for row in found if all(row[key] == value for key, value in wanted.items())]


# ---- numbers


def test_mean_and_sample_deviation_over_seeds():
    spread = Spread.of([0.60, 0.62, 0.67])
    assert spread.mean == pytest.approx(63)
    assert spread.deviation == pytest.approx(math.sqrt((9 + 1 + 16) / 2))
    assert str(spread) == "63.00 ± 3.61"
    assert str(Spread.of([0.5])) == "50.00"
    assert Spread.of([0.5]).deviation is None


def test_a_row_joins_its_seeds(tmp_path):
    for seed, last in ((2, 0.80), (0, 0.84)):
        write_run(tmp_path / f"r{seed}", "rafdb", [0.85, last], seed=seed)
    runs, _ = read_runs(tmp_path)
    ours = Ours.of(sorted(runs, key=lambda run: run.seed))
    assert ours.last["accuracy"].mean == pytest.approx(82)
    assert ours.last["accuracy"].deviation == pytest.approx(2 * math.sqrt(2))
    assert ours.last["mean_class_accuracy"].mean == pytest.approx(72)
    assert ours.best["accuracy"] == pytest.approx((85, 0))
    assert (ours.seeds, ours.best_epochs) == ([0, 2], [1, 1])
    # Wilson's interval of 82 % of 3,068 images.
    assert ours.interval == pytest.approx((80.60, 83.32), abs=0.01)


# ---- which run goes where


def test_without_runs_the_tables_are_the_papers_with_commands(tmp_path):
    tables = make_tables([], tmp_path)
    assert [table.name for table in tables] == PAPER
    rows = records(tables)
    printed = {(row["table"], row["method"]): row["paper_accuracy"] for row in rows}
    for number in published():
        if number.table != "text" and number.metric == "accuracy":
            assert printed[f"table{number.table}", number.method] == number.percent
    assert printed["fig5", "DAN with 1 head"] is None
    own = {row.method for table in TABLES for row in table.rows}
    for row in rows:
        assert bool(row["command"]) == (row["method"] in own)
        assert row["last_accuracy"] is None


def test_every_command_for_an_empty_cell_is_one_that_the_script_takes(tmp_path):
    for row in records(make_tables([], tmp_path)):
        if row["command"]:
            python, script, *flags = shlex.split(row["command"])
            assert (python, script) == ("python", SCRIPTS[row["dataset"]].name)
            recipe_with(row["dataset"], flags)


def test_runs_on_the_published_images_stand_beside_the_paper(tmp_path):
    write_run(tmp_path / "a", "rafdb", [0.9])
    write_run(tmp_path / "b", "rafdb", [0.8], fcn_loss="none")
    write_run(tmp_path / "c", "rafdb", [0.7], arch="resnet18")
    write_run(tmp_path / "d", "rafdb", [0.6], heads=2)
    found = {
        (row["table"], row["method"]): row["last_accuracy"]
        for row in rows_of(tmp_path)
        if row["last_accuracy"] is not None
    }
    assert found == pytest.approx(
        {
            ("table1", "DAN with affinity loss"): 90,
            ("table1", "DAN without FCN loss"): 80,
            ("table2", "DAN with partition loss"): 90,
            ("table5", "DAN"): 90,
            ("table5", "ResNet-18"): 70,
            ("fig5", "DAN with 4 heads"): 90,
            ("fig5", "DAN with 2 heads"): 60,
        }
    )
    assert all(row["beside_the_paper"] for row in rows_of(tmp_path))
    assert [table.name for table in tables_of(tmp_path)] == PAPER


@pytest.mark.parametrize(
    ("dataset", "change"),
    [
        ("fer2013", {}),
        ("ferplus", {}),
        ("rafdb", {"published": False}),
        ("rafdb", {"limit": 500}),
        ("rafdb", {"holdout": 0.1}),
    ],
)
def test_other_data_never_stand_beside_the_papers_numbers(tmp_path, dataset, change):
    write_run(tmp_path / "a", dataset, [0.9], **change)
    write_run(tmp_path / "b", dataset, [0.8], **change, partition="none")
    filled = [row for row in rows_of(tmp_path) if row["last_accuracy"] is not None]
    assert {row["method"]: row["last_accuracy"] for row in filled} == pytest.approx(
        {"DAN with partition loss": 90, "DAN without partition loss": 80}
    )
    for row in filled:
        assert not row["beside_the_paper"]
        assert row["paper_accuracy"] is None
        assert row["title"].startswith(f"Loss on the heads (the form of Table 2), on {dataset}")


def test_own_tables_do_not_print_a_column_for_the_paper(tmp_path):
    write_run(tmp_path / "a", "fer2013", [0.9])
    write_run(tmp_path / "b", "fer2013", [0.8], arch="resnet18")
    (own,) = [table for table in tables_of(tmp_path) if not table.is_papers]
    assert own.title.startswith("Results (the form of Tables 3 to 6), on fer2013, 12,271 training")
    assert "paper" not in as_text([own]).split("Percent.")[0].split("\n")[2]


def test_rows_are_compared_only_within_one_protocol(tmp_path):
    """DAN at one learning rate and its ablation at another are no comparison."""
    write_run(tmp_path / "a", "fer2013", [0.9], lr=0.5)
    write_run(tmp_path / "b", "fer2013", [0.8], partition="none")
    assert [table.name for table in tables_of(tmp_path)] == PAPER
    runs, _ = read_runs(tmp_path)
    assert len(in_no_table(runs, tables_of(tmp_path))) == 2
    write_run(tmp_path / "c", "fer2013", [0.7], lr=0.5, partition="none")
    (row,) = rows_of(tmp_path, method="DAN without partition loss", beside_the_paper=False)
    assert row["last_accuracy"] == pytest.approx(70)


def test_the_command_for_an_empty_cell_keeps_the_protocol_of_its_table(tmp_path):
    write_run(tmp_path / "a", "fer2013", [0.9], lr=0.5)
    write_run(tmp_path / "b", "fer2013", [0.7], lr=0.5, partition="none")
    (row,) = rows_of(tmp_path, table="table2", dataset="fer2013", last_accuracy=None)
    shared, own = row["command"].split(" --partition ")
    assert shared.startswith("python train_fer2013.py ")
    assert "--lr 0.5" in shared
    assert own.startswith("released --seed 0 --output ")


def test_two_protocols_on_the_papers_images_are_two_tables(tmp_path):
    write_run(tmp_path / "a", "rafdb", [0.9] * 40)
    write_run(tmp_path / "b", "rafdb", [0.8] * 40, image_size=112)
    commands = [table.protocol for table in tables_of(tmp_path) if table.name == "table5"]
    assert sorted(commands) == [
        "python train_rafdb.py",
        "python train_rafdb.py --image-size 112",
    ]


def test_a_baseline_is_one_row_whatever_its_unused_flags(tmp_path):
    write_run(tmp_path / "a", "fer2013", [0.9], seed=0)
    write_run(tmp_path / "b", "fer2013", [0.5], seed=0, arch="resnet18")
    write_run(tmp_path / "c", "fer2013", [0.7], seed=1, arch="resnet18", heads=2)
    (row,) = rows_of(tmp_path, method="ResNet-18", dataset="fer2013")
    assert (row["seeds"], row["last_accuracy"]) == ([0, 1], pytest.approx(60))


def test_where_a_run_computed_does_not_matter(tmp_path):
    write_run(tmp_path / "a", "fer2013", [0.9], seed=0, device="cpu", workers=2, data="x")
    write_run(tmp_path / "b", "fer2013", [0.7], seed=1, device="cuda", output="y")
    write_run(tmp_path / "c", "fer2013", [0.7], heads=2)
    (row,) = rows_of(tmp_path, method="DAN with 4 heads", dataset="fer2013")
    assert row["seeds"] == [0, 1]
