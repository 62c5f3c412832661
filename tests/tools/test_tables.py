"""What the docs say of our own runs is what results/ holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import InputError
from results.experiments import COMMON, DAN_NEEDS, PROTOCOL
from results.runs import read_runs
from tests.support.run_folders import write_run
from tools import tables
from tools.tables import END, START


def test_the_pages_have_the_tables_of_our_runs():
    assert tables.main(["--check"]) == 0


def test_our_runs_name_no_folder_of_the_machine_they_ran_on():
    runs, _ = read_runs(tables.RUNS)
    for run in runs:
        assert run.folder.startswith("runs/")
        assert not str(run.settings["pretrained"]).startswith("/")


@pytest.fixture
def page(tmp_path, monkeypatch) -> Path:
    """The page of the ablations, with a csv of runs, in a temporary folder."""
    page = tmp_path / "page.md"
    page.write_text(f"before\n{START}\nold\n{END}\nafter\n")
    monkeypatch.setattr(tables, "PAGES", {"ablations": page})
    monkeypatch.setattr(tables, "RUNS", tmp_path / "runs.csv")
    return page


def write(folder: Path, accuracy: float, *, dataset: str = "ferplus", **flags) -> None:
    """A run of the ablations."""
    rates = COMMON if flags.get("arch") == "resnet18" else {**COMMON, **DAN_NEEDS}
    given = {**PROTOCOL, **rates, "pretrained": "b.pth", **flags}
    given.pop("why", "")
    del given["epochs"]
    write_run(folder, dataset, [accuracy], **given)


def write_rows(folder: Path, *, dan: float = 0.5, seed: int = 0) -> None:
    """Two rows of the ablations."""
    write(folder / "dan", dan, seed=seed)
    write(folder / "resnet18", 0.25, arch="resnet18", seed=seed)


def test_a_page_that_lags_behind_is_noticed_and_written(tmp_path, page, capsys):
    write_rows(tmp_path / "runs")
    write(tmp_path / "runs/backbone", 0.4, arch="resnet18", lr=0.1)
    write(tmp_path / "runs/other", 0.4, dataset="rafdb")
    write(tmp_path / "runs/other-rows", 0.4, dataset="rafdb", arch="resnet18")
    assert tables.main(["--runs", str(tmp_path / "runs")]) == 0
    assert len(read_runs(tmp_path / "runs.csv")[0]) == 2
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


def test_runs_are_added_to_those_that_are_there(tmp_path, page):
    write_rows(tmp_path / "one")
    tables.add_runs(tmp_path / "one")
    write(tmp_path / "two/dan", 0.75, seed=1)
    for _ in range(2):
        tables.main(["--runs", str(tmp_path / "two")])
    assert len(read_runs(tmp_path / "runs.csv")[0]) == 3
    assert "| DAN | 62.50 ± 17.68 |" in page.read_text()


def test_every_page_has_its_own_tables(tmp_path, page, monkeypatch):
    rivals = tmp_path / "rivals.md"
    rivals.write_text(f"{START}{END}")
    monkeypatch.setattr(tables, "PAGES", {"ablations": page, "rivals": rivals})
    write_rows(tmp_path / "runs")
    write(tmp_path / "runs/heads", 0.375, heads=2)
    tables.main(["--runs", str(tmp_path / "runs")])
    assert "| 2 heads | 37.50 |" in page.read_text()
    assert "| DAN | 50.00 |" in rivals.read_text()
    assert "heads |" not in rivals.read_text()


@pytest.mark.parametrize("text", ["", START, f"{END}{START}", f"{START}{START}{END}"])
def test_a_page_without_the_marker_lines_is_refused(text, tmp_path, page):
    page.write_text(text)
    write_rows(tmp_path / "runs")
    with pytest.raises(InputError, match=r"page.md needs the lines .* once each"):
        tables.main(["--runs", str(tmp_path / "runs")])
    assert page.read_text() == text


def test_checking_writes_nothing(tmp_path, page):
    before = page.read_text()
    write_rows(tmp_path / "runs")
    tables.add_runs(tmp_path / "runs")
    assert tables.main(["--check"]) == 1
    assert page.read_text() == before
    with pytest.raises(InputError, match="--check writes nothing"):
        tables.main(["--check", "--runs", str(tmp_path)])


def test_runs_that_fill_no_table_are_refused(tmp_path, page):
    write(tmp_path / "runs/a", 0.5)
    with pytest.raises(InputError, match="none of the 1 runs on open data"):
        tables.add_runs(tmp_path / "runs")
    assert not (tmp_path / "runs.csv").exists()
