"""The paper's tables with our runs: which runs go where, and the numbers in the cells."""

from __future__ import annotations

import csv
import io
import json
import math
import shlex
from pathlib import Path

import pytest

from common.errors import InputError
from results import published
from results.experiments import SCRIPTS, TABLES, Variant, tables_named
from results.render import FORMATS, as_csv, as_json, as_markdown, as_text, records, remarks
from results.runs import read_metrics, read_run, read_runs, write_runs
from results.tables import Ours, Spread, left_out, make_tables
from tests.support.run_folders import write_metrics, write_run
from tests.support.scripts import assert_refused, run_script

PAPER = ["table1", "table2", "table3", "table4", "table5", "table6", "fig5"]


def tables_of(folder: Path):
    runs, _ = read_runs(folder)
    return make_tables(runs, folder)


def rows_of(folder: Path, **wanted) -> list[dict]:
    """The records of the tables of a folder, of one table, method ..."""
    found = records(tables_of(folder))
    return [row for row in found if all(row[key] == value for key, value in wanted.items())]


# ---- reading runs


def test_a_run_is_read_as_it_was_written(tmp_path):
    folder = write_run(tmp_path / "r", "rafdb", [0.5, 0.75, 0.6], seed=3, heads=2)
    run = read_run(folder)
    assert (run.dataset, run.seed, run.epochs, run.best_epoch) == ("rafdb", 3, 3, 2)
    assert run.last == {"accuracy": 0.6, "mean_class_accuracy": 0.5}
    assert run.best == {"accuracy": 0.75, "mean_class_accuracy": 0.65}
    assert run.settings["heads"] == 2
    assert not {"output", "data", "workers", "device", "resume"} & run.settings.keys()


def test_the_best_epoch_is_the_first_of_equals(tmp_path):
    assert read_run(write_run(tmp_path / "r", "rafdb", [0.5, 0.7, 0.7])).best_epoch == 2


def test_an_unfinished_run_is_named_and_left_out(tmp_path):
    folder = write_run(tmp_path / "a/r", "rafdb", [0.5, 0.6])
    write_metrics(folder, [0.5])
    started = write_run(tmp_path / "b", "rafdb", [0.5])
    (started / "metrics.csv").unlink()
    assert read_runs(tmp_path) == ([], [folder, started])


def test_a_csv_of_runs_is_read_back_as_the_same_runs(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path / f"runs/r{seed}", "fer2013", [0.25 + seed / 3], seed=seed)
    runs, _ = read_runs(tmp_path / "runs")
    assert len(runs) == 2
    write_runs(tmp_path / "runs.csv", runs)
    assert read_runs(tmp_path / "runs.csv") == (runs, [])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", "{"),
        ("config.json", "[]"),
        ("config.json", '{"dataset": "rafdb"}'),
        ("config.json", '{"dataset": 1, "settings": {}}'),
        ("metrics.csv", "epoch,accuracy\n1,0.5\n"),
        ("metrics.csv", "epoch,accuracy,mean_class_accuracy\n1,high,0.5\n"),
        ("metrics.csv", "epoch,accuracy,mean_class_accuracy\n1,nan,0.5\n"),
        ("metrics.csv", "epoch,accuracy,mean_class_accuracy\n1,0.5,0.5,0.5\n"),
        ("metrics.csv", "\0"),
    ],
)
def test_a_damaged_run_is_refused_by_name(tmp_path, name, content):
    folder = write_run(tmp_path / "r", "rafdb", [0.5])
    (folder / name).write_text(content)
    with pytest.raises(InputError, match=name):
        read_runs(tmp_path)


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", "folder,dataset\nx,y\n", "folder\n"])
def test_a_csv_that_is_none_of_ours_is_refused(tmp_path, content):
    (tmp_path / "x.csv").write_text(content)
    with pytest.raises(InputError, match="is no csv of runs"):
        read_runs(tmp_path / "x.csv")


def test_metrics_that_are_not_there_are_no_rows(tmp_path):
    assert read_metrics(tmp_path / "metrics.csv") == []


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
    from engine.recipe import parse_flags
    from results.experiments import recipe_of

    for row in records(make_tables([], tmp_path)):
        if row["command"]:
            python, script, *flags = shlex.split(row["command"])
            assert (python, script) == ("python", SCRIPTS[row["dataset"]].module + ".py")
            parse_flags(recipe_of(row["dataset"]), "", flags)


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
    assert len(left_out(runs, tables_of(tmp_path))) == 2
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


def test_runs_of_unknown_data_are_left_out_and_told(tmp_path):
    folder = write_run(tmp_path / "a", "rafdb", [0.9])
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dataset": "mine"}))
    runs, unfinished = read_runs(tmp_path)
    tables = make_tables(runs, tmp_path)
    assert left_out(runs, tables) == runs
    (line,) = remarks(runs, unfinished, tables)
    assert str(folder) in line


# ---- formats


@pytest.fixture
def tables(tmp_path):
    write_run(tmp_path / "a", "rafdb", [0.91, 0.9], seed=0)
    write_run(tmp_path / "b", "rafdb", [0.91, 0.8], seed=1)
    return tables_of(tmp_path)


def test_text_and_markdown_have_the_same_cells(tables):
    for form in (as_text, as_markdown):
        (line,) = [line for line in form(tables).split("\n") if "DAN with affinity loss" in line]
        cells = line.strip("| ").split("|") if "|" in line else line.split("  ")
        assert [cell.strip() for cell in cells if cell.strip()] == [
            "DAN with affinity loss",
            "89.70",
            "85.00 ± 7.07",
            "91.00 ± 0.00",
            "83.69 to 86.22",
            "75.00 ± 7.07",
            "2",
        ]


def test_markdown_rows_have_as_many_cells_as_their_head(tables):
    blocks = [block for block in as_markdown(tables).split("\n\n") if block.startswith("|")]
    assert len(blocks) == len(tables)
    for block in blocks:
        assert len({line.count("|") for line in block.split("\n")}) == 1


def test_csv_and_json_hold_the_same_rows(tables):
    from_json = json.loads(as_json(tables))
    from_csv = list(csv.DictReader(io.StringIO(as_csv(tables))))
    assert len(from_json) == len(from_csv) == sum(len(table.lines) for table in tables)
    for one, other in zip(from_json, from_csv, strict=True):
        assert list(one) == list(other)
        assert other["method"] == one["method"]
        assert other["last_accuracy"] == (
            "" if one["last_accuracy"] is None else str(one["last_accuracy"])
        )
        assert other["seeds"] == " ".join(map(str, one["seeds"]))


def test_the_authors_correction_stands_under_table_5(tables):
    (table,) = [table for table in tables if table.name == "table5"]
    assert "82.75" in as_text([table])
    assert "82.75" in as_markdown([table])


# ---- choosing


def test_all_tables_on_one_data_set_are_each_shape_once():
    names = [table.name for table, _ in tables_named("all", "sfew")]
    assert sorted(names) == ["fig5", "table1", "table2", "table6"]
    assert {dataset for _, dataset in tables_named("all", "fer2013")} == {"fer2013"}
    assert [dataset for _, dataset in tables_named("all", None)] == [
        table.dataset for table in TABLES
    ]


def test_every_row_of_ours_in_a_table_of_the_paper_is_in_paper_csv():
    known = {(number.table, number.method) for number in published()}
    for table in TABLES:
        for row in table.rows:
            ours_alone = table.number == "fig5" or "as released" in row.method
            assert ((table.number, row.method) in known) != ours_alone


def test_variants_with_one_name_are_one_variant():
    by_name: dict[str, Variant] = {}
    for table in TABLES:
        for row in table.rows:
            assert by_name.setdefault(row.variant.name, row.variant) == row.variant


# ---- the command


def test_eval_prints_the_tables(tmp_path):
    write_run(tmp_path / "runs/a", "rafdb", [0.5])
    for form in FORMATS:
        result = run_script("eval.py", "--tables", "--format", form, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert "50.0" in result.stdout
        assert not result.stderr
    assert json.loads(run_script("eval.py", "--tables", "--format=json", cwd=tmp_path).stdout)


def test_eval_needs_a_checkpoint_or_tables(tmp_path):
    assert_refused(run_script("eval.py", cwd=tmp_path), "CHECKPOINT or --tables")
    result = run_script("eval.py", "x.pth", "--tables", cwd=tmp_path)
    assert_refused(result, "CHECKPOINT or --tables")
    result = run_script("eval.py", "--tables", "--runs", "nowhere", cwd=tmp_path)
    assert_refused(result, "--runs nowhere does not exist")
