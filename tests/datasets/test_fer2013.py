"""FER2013: class folders and csv, the parts of its test split, bad input."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import InputError
from datasets import FER2013
from tests.support.layouts import grey_levels

pytestmark = pytest.mark.filterwarnings("ignore:.*published are")

FOLDERS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")


def write_folders(root: Path) -> Path:
    """One grey 48x48 image per class and split, at level 20 label; all of test/ is public."""
    for split, prefix in (("train", "Training"), ("test", "PublicTest")):
        for label, name in enumerate(FOLDERS):
            folder = root / split / name
            folder.mkdir(parents=True)
            Image.new("L", (48, 48), 20 * label).save(folder / f"{prefix}_{label}.jpg")
    Image.new("L", (48, 48), 200).save(root / "test/happy/PrivateTest_7.jpg")
    (root / "train/happy/.DS_Store").write_bytes(b"hidden")
    return root


def test_class_folders_are_read_in_label_order(tmp_path):
    write_folders(tmp_path)
    train, test = FER2013(tmp_path, "train"), FER2013(tmp_path, "test")
    assert grey_levels(train) == [(label, label) for label in range(7)]
    assert train.class_counts() == (1,) * 7
    assert test.class_counts() == (1, 1, 1, 2, 1, 1, 1)
    assert train[0][0].mode == "RGB"


def test_folder_names_may_have_any_case(tmp_path):
    write_folders(tmp_path)
    for name in FOLDERS:
        (tmp_path / "train" / name).rename(tmp_path / "train" / name.upper())
    assert grey_levels(FER2013(tmp_path, "train")) == [(label, label) for label in range(7)]


def test_the_test_parts_are_told_apart_by_file_name(tmp_path):
    write_folders(tmp_path)
    assert FER2013(tmp_path, "public").labels == list(range(7))
    assert grey_levels(FER2013(tmp_path, "private")) == [(10, 3)]


def test_a_class_folder_that_is_missing_is_named(tmp_path):
    shutil.rmtree(write_folders(tmp_path) / "train" / "sad")
    with pytest.raises(InputError, match=r"train has no folder Sad; expected .*Angry, Disgust"):
        FER2013(tmp_path, "train")


def test_the_message_says_what_was_looked_for(tmp_path):
    with pytest.raises(InputError, match=r"neither train/ nor fer2013\.csv.*class folders"):
        FER2013(tmp_path, "train")


def test_two_layouts_in_one_folder_are_refused(tmp_path):
    write_csv(write_folders(tmp_path) / "fer2013.csv")
    with pytest.raises(InputError, match=r"holds both fer2013\.csv and class folders"):
        FER2013(tmp_path, "train")


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (48, 48), dtype=np.uint8)


def line(emotion: object, seed: int, usage: str, pixels: str | None = None) -> str:
    if pixels is None:
        pixels = " ".join(map(str, noise(seed).ravel()))
    return f"{emotion},{pixels},{usage}"


LINES = (
    line(0, 0, "Training"),
    line(3, 1, "PublicTest"),
    line(6, 2, "Training"),
    line(5, 3, "PrivateTest"),
    line(1, 4, "PublicTest"),
)


def write_csv(path: Path, rows: Iterable[str] = LINES, header: str = "emotion,pixels,Usage"):
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")


def icml_line(row: str) -> str:
    """As in icml_face_data.csv: emotion, Usage, pixels, a space after each comma."""
    emotion, pixels, usage = row.split(",")
    return f"{emotion}, {usage}, {pixels}"


@pytest.mark.parametrize(
    ("split", "labels", "seeds"),
    [
        ("train", [0, 6], [0, 2]),
        ("test", [3, 5, 1], [1, 3, 4]),
        ("public", [3, 1], [1, 4]),
        ("private", [5], [3]),
    ],
)
@pytest.mark.parametrize("form", ["fer2013.csv", "icml_face_data.csv"])
def test_the_csv_is_read_exactly(form, split, labels, seeds, tmp_path):
    if form == "fer2013.csv":
        write_csv(tmp_path / form)
    else:
        write_csv(tmp_path / form, map(icml_line, LINES), "emotion, Usage, pixels")
    dataset = FER2013(tmp_path, split)
    assert dataset.labels == labels
    for (image, _, _), seed in zip(dataset, seeds, strict=True):
        assert image.mode == "RGB"
        assert (np.asarray(image) == noise(seed)[:, :, None]).all()


def test_an_image_of_the_csv_is_described_by_the_row_an_editor_shows(tmp_path):
    write_csv(tmp_path / "fer2013.csv")
    dataset = FER2013(tmp_path, "train")
    assert [dataset.describe(i) for i in (0, 1)] == [
        f"{tmp_path / 'fer2013.csv'} row {row}" for row in (2, 4)
    ]


PIXELS = "1 " * 2303


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            line(9, 0, "Training"),
            r"row 7 of .*fer2013\.csv has emotion 9; expected 0 to 6 \(Angry",
        ),
        (line(-1, 0, "Training"), "row 7 .* has emotion -1"),
        (line(2.5, 0, "Training"), r"row 7 .* has emotion 2\.5"),
        (line("", 0, "Training"), "row 7 .* has emotion nan"),
        (line(1, 0, "Training", "1 2 3"), "row 7 .* does not hold 2304 pixel values"),
        (line(1, 0, "Training", ""), "row 7 .* does not hold 2304"),
        (line(1, 0, "Training", PIXELS), "row 7 .* does not hold 2304"),
        (line(1, 0, "Training", PIXELS + "256"), "row 7 .* from 0 to 255"),
        (line(1, 0, "Training", PIXELS + "-1"), "row 7 .* from 0 to 255"),
        (line(1, 0, "Training", PIXELS + "x"), "row 7 .* from 0 to 255"),
        pytest.param(
            line(1, 0, "Training", PIXELS + "9" * 30),
            "row 7 .* from 0 to 255",
        ),
        pytest.param(
            line("happy", 0, "Training"),
            "row 7 .* has emotion happy",
        ),
    ],
    ids=lambda value: value[:30],
)
def test_a_bad_row_is_refused_by_number(row, message, tmp_path):
    write_csv(tmp_path / "fer2013.csv", [*LINES, row])
    with pytest.raises(InputError, match=message):
        FER2013(tmp_path, "train")


def test_a_csv_without_its_columns_is_refused(tmp_path):
    write_csv(tmp_path / "fer2013.csv", ["0,1 2 3"], "emotion,pixels")
    with pytest.raises(
        InputError, match="has no column Usage; expected a first line with emotion, pixels, Usage"
    ):
        FER2013(tmp_path, "train")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00\x01", b'"a\n'])
def test_what_is_not_a_csv_is_refused(content, tmp_path):
    (tmp_path / "fer2013.csv").write_bytes(content)
    with pytest.raises(InputError, match=r"fer2013\.csv"):
        FER2013(tmp_path, "train")


def test_an_empty_part_is_refused(tmp_path):
    write_csv(tmp_path / "fer2013.csv", LINES[:3])
    with pytest.raises(InputError, match=r"split private below .* holds no images"):
        FER2013(tmp_path, "private")
