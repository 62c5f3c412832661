"""Tables as text, markdown, csv and json: the same cells in each."""

from __future__ import annotations

import csv
import io
import json

import pytest

import eval as eval_script
from common.errors import InputError
from results.render import FORMATS, as_csv, as_json, as_markdown, as_text, remarks
from results.runs import read_runs
from results.tables import in_no_table, make_tables
from tests.support.run_folders import write_metrics, write_run


@pytest.fixture
def tables(tmp_path):
    write_run(tmp_path / "a", "rafdb", [0.91, 0.9], seed=0)
    write_run(tmp_path / "b", "rafdb", [0.91, 0.8], seed=1)
    return make_tables(read_runs(tmp_path)[0], tmp_path)


def test_text_and_markdown_have_the_same_cells(tables):
    for form in (as_text, as_markdown):
        (line,) = [line for line in form(tables).split("\n") if "DAN with affinity loss" in line]
        cells = line.strip("| ").split("|") if "|" in line else line.split("  ")
        assert [cell.strip() for cell in cells if cell.strip()] == [
            "DAN with affinity loss",
            "89.70",
            "85.00 ± 7.07",
            "91.00 ± 0.00",
            "83.70 to 86.23",  # Wilson, 2,608 of 3,068
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


def test_runs_that_no_table_shows_are_listed(tmp_path):
    folder = write_run(tmp_path / "a", "rafdb", [0.9])
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dataset": "mine"}))
    runs, unfinished = read_runs(tmp_path)
    tables = make_tables(runs, tmp_path)
    assert in_no_table(runs, tables) == runs
    (line,) = remarks(runs, unfinished, tables)
    assert str(folder) in line
    write_metrics(write_run(tmp_path / "b", "rafdb", [0.5, 0.6]), [0.5])
    _, unfinished = read_runs(tmp_path)
    assert remarks([], unfinished, tables) == [f"unfinished runs: 1, the first is {tmp_path / 'b'}"]


# ---- eval.py --tables


def test_eval_prints_the_tables(tmp_path, capsys):
    write_run(tmp_path / "runs/a", "rafdb", [0.5])
    for form in FORMATS:
        eval_script.main(["--tables", "--format", form, "--runs", str(tmp_path / "runs")])
        shown = capsys.readouterr()
        assert "50.0" in shown.out
        assert not shown.err
    assert json.loads(shown.out)


def test_eval_prints_the_papers_tables_before_anything_ran(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    eval_script.main(["--tables"])
    assert "89.70" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_eval_needs_a_checkpoint_or_tables():
    for words in ([], ["x.pth", "--tables"]):
        with pytest.raises(InputError, match="CHECKPOINT or --tables"):
            eval_script.main(words)
    with pytest.raises(InputError, match="--runs nowhere does not exist"):
        eval_script.main(["--tables", "--runs", "nowhere"])
