"""SFEW 2.0: labels, splits, frames told from aligned faces, bad input."""

from __future__ import annotations

import shutil
import warnings

import pytest

from common.errors import InputError
from datasets import SFEW
from datasets.sfew import FRAME_SIZE
from tests.support.layouts import picture, write_sfew

pytestmark = pytest.mark.filterwarnings("ignore:.*published are")


def test_labels_come_from_the_folders(tmp_path):
    root = write_sfew(tmp_path)
    train, val = SFEW(root, "train"), SFEW(root, "val")
    assert train.class_counts() == (2,) * 7
    assert val.class_counts() == (1,) * 7
    for dataset, folder in ((train, "Train"), (val, "Val")):
        for path, label in dataset.samples:
            assert path.parent == root / folder / SFEW.classes[label]
    assert train.read_image(0).tobytes() == picture(0, (24, 24)).tobytes()


def test_films_stand_for_persons_where_names_have_them(tmp_path):
    root = write_sfew(tmp_path)
    assert SFEW(root, "train").persons() is None
    for name in ("21_000203880_00000041.png", "Film Two_000203880_00000007.png"):
        shutil.copy(next((root / "Train/Angry").iterdir()), root / "Train/Angry" / name)
    found = dict(
        zip(
            (path.name for path, _ in SFEW(root, "train").samples),
            SFEW(root, "train").persons(),
            strict=True,
        )
    )
    assert found["21_000203880_00000041.png"] == "21"
    assert found["Film Two_000203880_00000007.png"] == "Film Two"
    assert len(set(found.values())) == len(found)


def test_the_papers_number_is_on_val(tmp_path):
    assert SFEW.evaluated_split == "val"
    assert SFEW.published_totals == {"train": 958, "val": 436}
    with pytest.raises(InputError, match="sfew has no split 'test'; expected one of train, val"):
        SFEW(write_sfew(tmp_path), "test")


def test_folders_may_be_written_small(tmp_path):
    write_sfew(tmp_path / "a")
    (tmp_path / "a/Val").rename(tmp_path / "a/val")
    (tmp_path / "a/Train/Angry").rename(tmp_path / "a/Train/angry")
    assert len(SFEW(tmp_path / "a", "val")) == 7
    assert SFEW(tmp_path / "a", "train").class_counts() == (2,) * 7


def test_counts_that_differ_from_the_published_ones_give_a_warning(tmp_path):
    with pytest.warns(UserWarning, match="sfew train: 14 images; published are 958"):
        SFEW(write_sfew(tmp_path), "train")


def test_film_frames_are_recognised(tmp_path):
    with pytest.warns(UserWarning, match="film frames, not faces; .* tools.align_sfew"):
        frames = SFEW(write_sfew(tmp_path / "frames", FRAME_SIZE), "val")
    assert frames.layout == "film frames"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*published are")
        assert SFEW(write_sfew(tmp_path / "faces"), "val").layout == "aligned faces"


def test_missing_folders_are_named(tmp_path):
    root = write_sfew(tmp_path)
    shutil.rmtree(root / "Val/Fear")
    with pytest.raises(InputError, match=r"Val has no folder Fear; expected one folder per class"):
        SFEW(root, "val")
    shutil.rmtree(root / "Val")
    with pytest.raises(InputError, match=r"has no folder Val; sfew is read from class folders"):
        SFEW(root, "val")


def test_an_image_that_cannot_be_decoded_is_named(tmp_path):
    path = write_sfew(tmp_path) / "Train/Angry/f_1.png"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=r"f_1.png cannot be decoded"):
        SFEW(tmp_path, "train").read_image(1)
