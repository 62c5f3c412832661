"""python -m datasets.demo: what it writes, bad input in one line."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from common.errors import InputError
from datasets import AffectNet8
from datasets.demo import main
from tests.support.scripts import LABEL_FILE, assert_refused, run_script

pytestmark = pytest.mark.filterwarnings("ignore:.*published are")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rafdb", "{foreign}"], "files of something else"),
        (["rafdb", "{new}", "--train", "6"], "6 images are too few"),
        (["rafdb", "{new}", "--seed", "-1"], "seed is -1"),
        (["rafdb", "{new}", "--workers", "0"], "workers is 0"),
        (["sheet", "{new}.png", "--per-class", "0"], "0 faces per class"),
        (["sheet", "{new}.png", "--size", "8"], "size is 8"),
        (["sheet", "{new}.nonsense", "--per-class", "1", "--size", "32"], "nonsense"),
    ],
)
def test_bad_input_is_one_line(arguments, message, tmp_path):
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "file").touch()
    places = {"foreign": foreign, "new": tmp_path / "new"}
    with pytest.raises(InputError, match=message):
        main([argument.format(**places) for argument in arguments])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["foreign"]


@pytest.mark.parametrize(
    "arguments", [["rafdb", "x", "--faces", "9"], ["sheet", "x.png", "--siz", "40"], ["rafbd", "x"]]
)
def test_an_unknown_flag_is_one_line_without_the_usage(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="--help lists the flags"):
        main(arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_module_is_a_command(tmp_path):
    """As a user types it."""
    flags = ["--train", "7", "--test", "7", "--workers", "2"]
    result = run_script("datasets.demo", "rafdb", "raf", *flags, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert len((tmp_path / "raf" / LABEL_FILE).read_text().splitlines()) == 14
    again = run_script("datasets.demo", "rafdb", "raf", "--seed", "1", cwd=tmp_path)
    assert_refused(again, "raf holds other synthetic faces")


def test_the_flags_reach_the_writer(tmp_path):
    root = tmp_path / "x"
    flags = ["--layout", "folders", "--train", "8", "--val", "9", "--seed", "3", "--workers", "1"]
    main(["affectnet", str(root), *flags])
    about = json.loads((root / "demo.json").read_text())
    assert about["layout"] == "affectnet folders"
    assert (about["train"], about["val"], about["seed"]) == (8, 9, 3)
    assert len(AffectNet8(root, "val")) == 9


def test_the_sheet_has_a_row_for_each_expression(tmp_path):
    main(["sheet", str(tmp_path / "s.png"), "--per-class", "2", "--size", "40"])
    with Image.open(tmp_path / "s.png") as sheet:
        assert sheet.size == (80 + 2 * 40, 8 * 40)
