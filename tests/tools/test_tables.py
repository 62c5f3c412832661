"""What docs/reproducing.md says of our own runs is what results/ holds."""

from __future__ import annotations

import pytest

from common.errors import InputError
from results.runs import read_runs
from tests.support.run_folders import write_run
from tools import tables
from tools.tables import END, START, with_tables


def test_the_page_has_the_tables_of_our_runs():
    assert tables.main(["--check"]) == 0


def test_our_runs_have_three_seeds_at_the_ends_of_each_comparison():
    runs, _ = read_runs(tables.RUNS)
    seeds = {}
    for run in runs:
        flags = tuple(run.settings[name] for name in ("arch", "heads", "fcn_loss", "partition"))
        seeds.setdefault(flags, set()).add(run.seed)
    for flags in (
        ("resnet18", 4, "affinity", "eq6"),
        ("dan", 4, "affinity", "eq6"),
        ("dan", 4, "none", "eq6"),
        ("dan", 4, "affinity", "none"),
        ("dan", 1, "affinity", "eq6"),
    ):
        assert seeds[flags] >= {0, 1, 2}


def test_our_runs_name_no_folder_of_the_machine_they_ran_on():
    runs, _ = read_runs(tables.RUNS)
    for run in runs:
        assert run.folder.startswith("runs/fer2013/")
        assert not str(run.settings["pretrained"]).startswith("/")


def test_a_page_that_lags_behind_is_noticed_and_written(tmp_path, monkeypatch, capsys):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{START}\nold\n{END}\nafter\n")
    monkeypatch.setattr(tables, "PAGE", page)
    monkeypatch.setattr(tables, "RUNS", tmp_path / "fer2013.csv")
    for name, accuracy, flags in (("a", 0.5, {}), ("b", 0.25, {"arch": "resnet18"})):
        write_run(tmp_path / "runs" / name, "fer2013", [accuracy], **flags)
    write_run(tmp_path / "runs/backbone", "fer2013", [0.4], arch="resnet18", lr=0.1)
    assert tables.main(["--runs", str(tmp_path / "runs")]) == 0
    assert len(read_runs(tmp_path / "fer2013.csv")[0]) == 2
    text = page.read_text()
    assert "| ResNet-18 | 25.00 |" in text
    assert "| DAN | 50.00 |" in text
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert tables.main(["--check"]) == 0
    page.write_text(text.replace("25.00", "99.00"))
    assert tables.main(["--check"]) == 1
    assert "does not agree" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", START, f"{END}{START}", f"{START}{START}{END}"])
def test_a_page_without_the_marker_lines_is_refused(text):
    with pytest.raises(InputError, match="once each"):
        with_tables(text, "tables")


def test_checking_writes_nothing(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text(f"{START}\nold\n{END}\n")
    monkeypatch.setattr(tables, "PAGE", page)
    assert tables.main(["--check"]) == 1
    assert page.read_text() == f"{START}\nold\n{END}\n"
    with pytest.raises(InputError, match="--check writes nothing"):
        tables.main(["--check", "--runs", str(tmp_path)])


def test_runs_that_fill_no_table_are_not_taken_over(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "RUNS", tmp_path / "fer2013.csv")
    write_run(tmp_path / "runs/a", "fer2013", [0.5])
    with pytest.raises(InputError, match="no table can be made of the 1 FER2013 runs"):
        tables.take_over(tmp_path / "runs")
    assert not (tmp_path / "fer2013.csv").exists()
