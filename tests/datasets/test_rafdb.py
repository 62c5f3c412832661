"""RAF-DB: its official layout and label order, bad input."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest

from common.errors import InputError
from datasets import RAFDB
from tests.support.layouts import grey, grey_levels
from tests.support.scripts import LABEL_FILE

pytestmark = pytest.mark.filterwarnings("ignore:.*published are")

LINES = (
    "test_0001.jpg 1",
    "train_00001.jpg 7",
    "train_00002.jpg 1",
    "train_00003.jpg 4",
    "test_0002.jpg 6",
)


def write(root: Path, lines: Iterable[str] = LINES) -> Path:
    """RAF-DB's layout; the image of line i is grey of level 20 i."""
    images = root / "Image" / "aligned"
    images.mkdir(parents=True)
    (root / "EmoLabel").mkdir()
    (root / LABEL_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
    for i, line in enumerate(lines):
        if line.split():
            stem = line.split()[0].removesuffix(".jpg")
            grey(20 * i).save(images / f"{stem}_aligned.jpg")
    return root


@pytest.mark.parametrize("base", [".", "raf-basic", "basic"])
def test_the_official_layout_is_read(base, tmp_path):
    write(tmp_path / base)
    train, test = RAFDB(tmp_path, "train"), RAFDB(str(tmp_path), "test")
    assert grey_levels(train) == [(1, 6), (2, 0), (3, 3)]
    assert grey_levels(test) == [(0, 0), (4, 5)]
    names = [path.name for path, _ in train.samples]
    assert names == [f"train_0000{i}_aligned.jpg" for i in (1, 2, 3)]
    assert train.labels == [6, 0, 3]
    assert train.class_counts() == (1, 0, 0, 1, 0, 0, 1)
    assert len(train) == 3
    assert train.describe(1).endswith("train_00002_aligned.jpg")


def test_labels_1_to_7_become_0_to_6(tmp_path):
    write(tmp_path, [f"train_{i}.jpg {i}" for i in range(1, 8)])
    assert RAFDB(tmp_path, "train").labels == list(range(7))


def test_blank_lines_and_windows_line_ends_are_fine(tmp_path):
    write(tmp_path)
    (tmp_path / LABEL_FILE).write_bytes(b"\r\n".join(line.encode() for line in LINES) + b"\r\n\r\n")
    assert RAFDB(tmp_path, "train").labels == [6, 0, 3]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train_00009.jpg", r"line 6 .*'train_00009\.jpg'; expected 'train_00001\.jpg 5'"),
        ("train_00009.jpg 5 extra", "line 6 .*expected 'train_00001"),
        ("face_00009.jpg 5", "line 6 .*expected 'train_00001"),
        ("train_00009.jpg 0", r"label '0' on line 6 .* out of range; expected 1 to 7 \(Surprise"),
        ("train_00009.jpg 8", "label '8' on line 6"),
        ("train_00009.jpg -1", "label '-1' on line 6"),
        ("train_00009.jpg x", "label 'x' on line 6"),
        ("train_00009.jpg 1.5", "label '1.5' on line 6"),
        ("train_/../../secret.jpg 1", "line 6 .*expected a file name"),
        ("train_x/../test_0001.jpg 1", "line 6 .*expected a file name"),
        ("../secret.jpg 1", r"line 6 .*secret\.jpg"),
        ("/etc/secret.jpg 1", r"line 6 .*secret\.jpg"),
    ],
)
def test_a_malformed_line_is_refused_by_number(line, message, tmp_path):
    write(tmp_path)
    with (tmp_path / LABEL_FILE).open("a", encoding="utf-8") as stream:
        stream.write(line + "\n")
    with pytest.raises(InputError, match=message) as refusal:
        RAFDB(tmp_path, "train")
    assert LABEL_FILE in str(refusal.value)


def test_a_listed_image_that_is_missing_is_named(tmp_path):
    write(tmp_path)
    (tmp_path / "Image/aligned/train_00002_aligned.jpg").unlink()
    with pytest.raises(InputError, match=r"train_00002_aligned\.jpg does not exist, but line 3"):
        RAFDB(tmp_path, "train")


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        ("EmoLabel", rf"{LABEL_FILE} not found.*rafdb is read from {LABEL_FILE}"),
        (LABEL_FILE, f"{LABEL_FILE} not found"),
        ("Image", r"Image/aligned does not exist.*unpack aligned\.zip"),
    ],
)
def test_the_message_says_what_was_looked_for(remove, message, tmp_path):
    path = write(tmp_path) / remove
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(InputError, match=message):
        RAFDB(tmp_path, "train")


def test_a_label_file_that_is_not_text_is_refused(tmp_path):
    write(tmp_path)
    (tmp_path / LABEL_FILE).write_bytes(b"\xff\xfe\x00train")
    with pytest.raises(InputError, match=r"list_patition_label\.txt is not a text file"):
        RAFDB(tmp_path, "train")


def test_an_empty_split_is_refused(tmp_path):
    write(tmp_path, ["train_00001.jpg 1"])
    with pytest.raises(InputError, match=r"split test below .* holds no images"):
        RAFDB(tmp_path, "test")
