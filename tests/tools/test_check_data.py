"""tools.check_data: what it prints and writes, its exit status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from common.errors import InputError
from tests.support.layouts import (
    write_annotations,
    write_class_folders,
    write_csv,
    write_expression_folders,
    write_ferplus_images,
    write_rafdb_folders,
    write_sfew,
)
from tests.support.scripts import write_fer2013_csv, write_rafdb
from tools import check_data


def write_class_folders_of_rafdb(root: Path) -> Path:
    """RAF-DB in class folders in DATASET/, with csv files beside it."""
    official = write_rafdb(root.parent / "official")
    write_rafdb_folders(official, root / "DATASET", csv_in=root)
    return root


def write_seven_folders(root: Path) -> Path:
    """AffectNet in class folders without contempt."""
    return write_class_folders(root, tuple("0123456"))


@pytest.mark.parametrize(
    ("name", "write", "expected"),
    [
        ("rafdb", write_rafdb, ("official", {"counts", "sizes"})),
        ("rafdb", write_class_folders_of_rafdb, ("class folders", {"counts", "sizes"})),
        ("affectnet", write_annotations, ("annotations", {"counts"})),
        ("affectnet", write_class_folders, ("folders", {"counts"})),
        ("affectnet", write_expression_folders, ("folders", {"counts"})),
        ("affectnet7", write_seven_folders, ("folders", {"counts"})),
        ("affectnet", write_csv, ("csv", {"counts"})),
        ("sfew", write_sfew, ("aligned faces", {"counts"})),
        ("fer2013", write_fer2013_csv, ("csv", {"counts"})),
        ("ferplus", write_ferplus_images, ("class folders", set())),
    ],
)
def test_a_clean_set_is_clean(name, write, expected, tmp_path, capsys):
    """expected: the layout, and notes on the tiny sets, which have not the published counts."""
    layout, notes = expected
    path = tmp_path / "report.json"
    root = write(tmp_path / "data")
    assert check_data.main([name, str(root), "--json", str(path), "--workers", "1"]) == 0
    content = json.loads(path.read_text())
    assert content["ok"] is True
    assert set(content["layouts"].values()) == {layout}
    assert set(content["findings"]) == notes
    shown = capsys.readouterr().out
    assert "no problems found" in shown
    assert f"layout {layout}" in shown


def test_what_changes_results_gives_status_1(tmp_path, capsys):
    root = write_rafdb(tmp_path / "data")
    (root / "Image/aligned/train_00003_aligned.jpg").write_bytes(b"no image")
    path = tmp_path / "report.json"
    flags = ["--json", str(path), "--workers", "1", "--examples", "0"]
    assert check_data.main(["rafdb", str(root), *flags]) == 1
    content = json.loads(path.read_text())
    assert content["ok"] is False
    assert "train_00003_aligned.jpg" in content["findings"]["unreadable"][0]
    assert "problems: unreadable" in capsys.readouterr().out


def test_mixed_layouts_need_a_choice(tmp_path):
    write_annotations(tmp_path)
    write_class_folders(tmp_path)
    with pytest.raises(InputError, match="choose one with --layout"):
        check_data.main(["affectnet", str(tmp_path)])
    assert (
        check_data.main(["affectnet", str(tmp_path), "--layout", "folders", "--workers", "1"]) == 0
    )


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(InputError, match="rafdb is read from"):
        check_data.main(["rafdb", str(tmp_path)])
