"""Lists of images in the forms that circulate: what is matched, told, refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import InputError
from datasets import FER2013, RAFDB, AffectNet8, FERPlus
from datasets.ferplus import VOTE_COLUMNS
from datasets.subsets import parse_line, read_subset
from tests.support.scripts import draw_patch, write_fer2013_csv

pytestmark = pytest.mark.filterwarnings("ignore:.*published are")

HASH = "0a1b2c3d" * 7  # as long as AffectNet's


def written(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(
    ("line", "name", "label"),
    [
        ("test_0003_aligned 4 2", "test_0003", "4"),
        ("4/test_0004_aligned.jpg", "test_0004", "4"),
        ("3_fer0034656.png 8 1", "fer0034656", "3"),
        ("0/fer0032226.jpg", "fer0032226", "0"),
        (f"val/3/{HASH}/", HASH, "3"),
        (f"3/{HASH}.jpg", HASH, "3"),
        (f"6/{HASH}/8.jpg 6", HASH, "6"),
        ("test_0003.jpg", "test_0003", None),
        ("test_0003.jpg,5", "test_0003", "5"),
        ('"my own face.png"; happy', "my own face", "happy"),
        ("Image\\aligned\\test_0003_aligned.jpg", "test_0003", None),
        ("test/happy/a.b.jpg", "a.b", "happy"),
        ("17", "17", None),
        ("17 4", "17", "4"),
        ("test_0003.jpg -1 0.25", "test_0003", "-1"),
    ],
)
def test_a_line_gives_name_and_label(line, name, label):
    entry = parse_line(line)
    assert (entry.name, entry.label) == (name, label)


# ---- RAF-DB: 14 test images, whose labels go round the classes


@pytest.fixture(scope="module")
def rafdb(data) -> RAFDB:
    return RAFDB(data, "test")


def test_rafs_occlusion_list_with_a_duplicate(rafdb, tmp_path):
    lines = [f"test_{i + 1:04}_aligned {i % 7} {1 + i % 4}" for i in (2, 5, 9, 5)]
    subset = read_subset(written(tmp_path / "list.txt", *lines), rafdb)
    assert subset.indices == [2, 5, 9]
    assert (subset.lines, subset.unmatched, subset.contradicting) == (4, [], [])
    assert subset.duplicates == ["line 4, 'test_0006_aligned 5 2'"]
    assert "1 of 4 lines name an image again, which counts once" in subset.text()[0]


@pytest.mark.parametrize("head", ["3 7", "3", "image,label", "Name; class"])
def test_a_leading_line_of_counts_or_columns_is_no_image(rafdb, tmp_path, head):
    lines = [f"{i % 7}/test_{i + 1:04}_aligned.jpg" for i in (0, 7, 13)]
    subset = read_subset(written(tmp_path / "list.txt", head, "", *lines), rafdb)
    assert (subset.indices, subset.lines, subset.text()) == ([0, 7, 13], 3, [])


def test_what_does_not_match_and_what_contradicts_is_told(rafdb, tmp_path):
    names = ["test_0001.jpg 0", "test_0002.jpg 4", "test_0099.jpg 1", "train_0001.jpg 3"]
    subset = read_subset(written(tmp_path / "list.txt", *names), rafdb)
    assert subset.indices == [0, 1]
    first, second = subset.text()
    assert "2 of 4 lines name no image of this split; the first: line 3, 'test_0099" in first
    assert "1 of 4 lines have another label" in second
    assert "line 2, 'test_0002.jpg 4'" in second
    assert subset.json() == {
        "list": str(tmp_path / "list.txt"),
        "lines": 4,
        "duplicates": 0,
        "unmatched": 2,
        "contradicting": 1,
    }


def test_labels_may_count_from_one_or_be_words(rafdb, tmp_path):
    official = [f"test_{i + 1:04}.jpg {i % 7 + 1}" for i in range(14)]
    subset = read_subset(written(tmp_path / "one.txt", *official), rafdb)
    assert (subset.contradicting, subset.first_label) == ([], 1)
    assert "its labels count from 1" in subset.text()[0]
    words = ["test_0001 surprised", "test_0004 Happy", "test_0005 angry"]
    subset = read_subset(written(tmp_path / "words.txt", *words), rafdb)
    assert subset.contradicting == ["line 3, 'test_0005 angry'"]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["1/fer0032226.jpg", "2/fer0032227.jpg"], "none of the 2 lines .* such as test_0001"),
        (["test_0001.jpg 0", "test_0002.jpg 9"], "line 2 of .* has the label 9; expected 0 to 6"),
        (["test_0001.jpg 0", "test_0002.jpg -1"], "has the label -1"),
        (["test_0001.jpg contempt"], "has the label contempt; expected 0 to 6"),
        (["", "# a remark"], "names no image"),
        (["120 7"], "names no image"),
    ],
)
def test_lists_that_do_not_go_with_the_data_set_are_refused(rafdb, tmp_path, lines, words):
    with pytest.raises(InputError, match=words):
        read_subset(written(tmp_path / "list.txt", *lines), rafdb)


def test_a_list_that_is_no_text_or_not_there_is_refused(rafdb, tmp_path):
    (tmp_path / "x.txt").write_bytes(b"\xff\xfe\x00test")
    with pytest.raises(InputError, match="is not a text file"):
        read_subset(tmp_path / "x.txt", rafdb)
    with pytest.raises(InputError, match="cannot read the list"):
        read_subset(tmp_path / "y.txt", rafdb)


# ---- FER+ and FER2013: names are rows of fer2013.csv


def test_ferplus_names_are_rows_of_the_csv(tmp_path):
    root = write_fer2013_csv(tmp_path / "fer2013")
    dataset = FER2013(root, "private")  # rows 23 to 29 of 30, counted from 0; labels 0 to 6
    lines = ["0_fer0000023.png 8 1", "6_fer0000029.png 8 0", "1_fer0000007.png 8 2"]
    subset = read_subset(written(tmp_path / "list.txt", *lines), dataset)
    assert (subset.indices, len(subset.unmatched), subset.contradicting) == ([0, 6], 1, [])


def test_ferplus_in_class_folders_knows_both_names(tmp_path):
    root = tmp_path / "fer2013"
    (root / "test/angry").mkdir(parents=True)
    rows = [f"image,usage,ferplus_name,{','.join(VOTE_COLUMNS)}"]
    for i, votes in enumerate(["0,10", "5,5", "10,0"]):
        name = f"test/angry/PublicTest_{i}.jpg"
        from_pixels(root / name)
        rows.append(f"{name},PublicTest,fer{28638 + i:07}.png,{votes},0,0,0,0,0,0,0,0")
    written(root / "ferplus_votes.csv", *rows)
    dataset = FERPlus(root, "public")  # the second image has no majority
    lines = ["1/fer0028638.png", "0/fer0028639.png", "0/PublicTest_2.jpg"]
    subset = read_subset(written(tmp_path / "list.txt", *lines), dataset)
    assert (subset.indices, subset.contradicting) == ([0, 1], [])
    assert subset.unmatched == ["line 2, '0/fer0028639.png'"]


def from_pixels(path: Path) -> None:

    Image.fromarray(draw_patch(0, np.random.default_rng(0))).save(path)


# ---- AffectNet: class folders that repeat names


def test_folders_decide_where_class_folders_repeat_a_name(tmp_path):
    root = tmp_path / "affectnet"
    for label in range(8):
        (root / f"val/{label}").mkdir(parents=True)
        from_pixels(root / f"val/{label}/face.jpg")
    from_pixels(root / f"val/3/{HASH}.jpg")
    dataset = AffectNet8(root, "val")
    lines = ["val/5/face.jpg", "face.jpg", f"3/{HASH}/8.jpg"]
    subset = read_subset(written(tmp_path / "list.txt", *lines), dataset)
    assert [dataset.labels[i] for i in subset.indices] == [3, 5]
    assert subset.unmatched == ["line 2, 'face.jpg'"]
