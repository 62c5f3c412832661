"""What a check of a data set counts and finds, and how it says it."""

from __future__ import annotations

import shutil

from PIL import Image

from datasets import RAFDB, SFEW, AffectNet7, AffectNet8, FERPlus
from datasets.check import check, report_text
from tests.support.layouts import (
    AFFECTNET,
    picture,
    write_annotations,
    write_class_folders,
    write_csv,
    write_expression_folders,
    write_ferplus_images,
    write_rafdb_folders,
    write_sfew,
)


def write_rafdb(root):
    """Three training and two test images of 100 x 100 pixels."""
    (root / "EmoLabel").mkdir(parents=True)
    (root / "Image/aligned").mkdir(parents=True)
    labels = {"train_00001": 1, "train_00002": 4, "train_00003": 7, "test_0001": 4, "test_0002": 2}
    for seed, name in enumerate(labels):
        picture(seed, (100, 100)).save(root / f"Image/aligned/{name}_aligned.jpg")
    lines = [f"{name}.jpg {label}\n" for name, label in labels.items()]
    (root / "EmoLabel/list_patition_label.txt").write_text("".join(lines))
    return root


def found(report) -> dict[str, int]:
    """Number of findings by kind, without the note on counts, which tiny sets always get."""
    return {kind: len(each) for kind, each in report.findings.items() if each and kind != "counts"}


def test_counts_stand_beside_the_published_ones(tmp_path):
    report = check(AffectNet8, write_annotations(tmp_path))
    shown = report_text(report)
    assert "7 Contempt        2   published    3,750  -3,748" in shown
    assert "train has 10 images; published are 287,651" in shown
    assert report.counts["train"] == (1, 2, 1, 1, 1, 1, 1, 2)
    assert sum(report.counts["val"]) == len(AFFECTNET["val"])


def test_everything_that_is_wrong_with_rafdb_is_found(tmp_path):
    root = write_rafdb(tmp_path)
    images = root / "Image/aligned"
    labels = root / "EmoLabel/list_patition_label.txt"
    lines = [
        "train_00004.jpg 8\n",
        "train_00005.jpg 2\n",
        "train_00006.jpg 5\n",
        "test_0003.jpg 1\n",
    ]
    labels.write_text(labels.read_text() + "".join(lines))
    shutil.copy(images / "train_00002_aligned.jpg", images / "train_00004_aligned.jpg")
    # 00005 is missing; 00006 is train_00002 under another label; test_0003 is train_00001.
    shutil.copy(images / "train_00002_aligned.jpg", images / "train_00006_aligned.jpg")
    shutil.copy(images / "train_00001_aligned.jpg", images / "test_0003_aligned.jpg")
    picture(50, (60, 80)).convert("L").save(images / "train_00099_aligned.jpg")
    (images / "train_00003_aligned.jpg").write_bytes(b"\xff\xd8 no image")
    report = check(RAFDB, root)
    assert found(report) == {
        "label": 1,
        "missing": 1,
        "unreadable": 1,
        "across splits": 1,
        "other label": 1,
        "not listed": 2,  # 00099, and 00004 whose label is no label
    }
    assert report.leaked == 1
    assert "'8' on line 6" in report.findings["label"][0]
    assert "train_00005_aligned.jpg does not exist" in report.findings["missing"][0]
    assert "train_00003_aligned.jpg" in report.findings["unreadable"][0]
    (pair,) = report.findings["across splits"]
    assert "train_00001_aligned.jpg (Surprise) = " in pair
    assert "test_0003_aligned.jpg (Surprise)" in pair
    shown = report_text(report)
    assert "delete the copies in the training split" in shown
    assert "problems: missing, label, unreadable, across splits, other label" in shown


def test_everything_that_is_wrong_with_rafdbs_class_folders_is_found(tmp_path):
    root = write_rafdb_folders(write_rafdb(tmp_path / "official"), tmp_path / "data")
    for split in ("train", "test"):
        for label in range(1, 9):
            (root / f"{split}/{label}").mkdir(exist_ok=True)
    (root / "train_labels.csv").write_text(
        "image,label\ntrain_00001_aligned.jpg,1\ntrain_00002_aligned.jpg,5\n"
        "train_00003_aligned.jpg,7\ntrain_00005_aligned.jpg,2\n"
    )
    shutil.copy(root / "train/1/train_00001_aligned.jpg", root / "test/1/test_0003_aligned.jpg")
    shutil.copy(root / "train/1/train_00001_aligned.jpg", root / "train/8/train_00008_aligned.jpg")
    picture(50, (60, 80)).save(root / "train/train_00009_aligned.jpg")
    report = check(RAFDB, root)
    assert set(report.layouts.values()) == {"class folders"}
    assert found(report) == {"folder": 1, "missing": 1, "across splits": 1, "not listed": 2}
    assert (
        "train/4/train_00002_aligned.jpg lies in the folder of label 4 (Happiness), but"
        in (report.findings["folder"][0])
    )
    assert "image train_00005_aligned.jpg lies in none" in report.findings["missing"][0]
    assert report.findings["not listed"] == [
        f"{root}/train/train_00009_aligned.jpg",
        f"{root}/train/8/train_00008_aligned.jpg",
    ]
    assert report.counts == {"train": (1, 0, 0, 0, 0, 0, 1), "test": (1, 1, 0, 1, 0, 0, 0)}
    shown = report_text(report)
    assert "train has 2 images; published are 12,271" in shown
    assert "problems: missing, folder, across splits" in shown
    assert "1 images whose class folder and csv disagree" in shown


def test_sizes_and_modes_are_counted(tmp_path):
    root = write_rafdb(tmp_path)
    picture(7, (48, 60)).convert("L").save(root / "Image/aligned/train_00001_aligned.jpg")
    report = check(RAFDB, root)
    assert dict(report.sizes) == {(100, 100): 4, (48, 60): 1}
    assert dict(report.modes) == {"RGB": 4, "L": 1}
    assert report.findings["sizes"] == ["1 images are not 100 x 100 pixels, as published"]
    assert not report.serious


def test_copies_with_the_same_label_are_a_note(tmp_path):
    root = write_class_folders(tmp_path)
    shutil.copy(root / "train/4/9.jpg", root / "train/4/copy.jpg")
    report = check(AffectNet8, root)
    assert found(report) == {"copies": 1}
    assert report.findings["copies"] == ["train/4/9.jpg (Fear) = train/4/copy.jpg (Fear)"]


def test_duplicates_are_equal_pixels_not_equal_files(tmp_path):
    root = write_sfew(tmp_path)
    with Image.open(root / "Train/Fear/f_0.png") as image:
        image.save(root / "Val/Fear/again.png", compress_level=0)
    assert (root / "Train/Fear/f_0.png").read_bytes() != (root / "Val/Fear/again.png").read_bytes()
    report = check(SFEW, root)
    assert found(report) == {"across splits": 1}


def test_pictures_of_another_shape_are_no_copies(tmp_path):
    """Equal bytes do not make equal images."""
    root = write_class_folders(tmp_path)
    Image.new("RGB", (10, 40)).save(root / "train/4/a.png")
    Image.new("RGB", (40, 10)).save(root / "train/4/b.png")
    assert found(check(AffectNet8, root)) == {}


def test_hidden_files_are_not_said_to_be_unlisted(tmp_path):
    root = write_annotations(tmp_path)
    (root / "train_set/images/.DS_Store").touch()
    (root / "train_set/images/mine.txt").touch()
    assert check(AffectNet8, root).findings["not listed"] == [f"{root}/train_set/images/mine.txt"]


def test_images_of_other_labels_are_not_said_to_be_unlisted(tmp_path):
    """AffectNet's labels 8 to 10, contempt, and FER+'s images without a majority."""
    assert found(check(AffectNet7, write_expression_folders(tmp_path / "seven"))) == {}
    assert found(check(AffectNet8, write_csv(tmp_path))) == {}
    assert found(check(FERPlus, write_ferplus_images(tmp_path))) == {}


def test_a_split_without_images_is_a_problem(tmp_path):
    root = write_class_folders(tmp_path)
    for path in (root / "val").rglob("*.jpg"):
        path.unlink()
    report = check(AffectNet8, root)
    assert report.findings["missing"] == ["val holds no images"]
    assert report.serious == ["missing"]


def test_bad_rows_and_boxes_of_the_csv_are_found(tmp_path):
    changes = {
        0: {"expression": 11},
        1: {"face_width": 0},
        2: {"subDirectory_filePath": "../x.png"},
        3: {"face_x": 500},
    }
    report = check(AffectNet8, write_csv(tmp_path, changes))
    kinds = found(report)
    assert {kind: kinds[kind] for kind in ("label", "box", "path", "unreadable")} == {
        "label": 1,
        "box": 1,
        "path": 1,
        "unreadable": 1,  # a box outside its picture shows when the picture is opened
    }


def test_processes_find_the_same(tmp_path):
    root = write_class_folders(tmp_path)
    shutil.copy(root / "train/4/9.jpg", root / "val/1/copy.jpg")
    (root / "train/2/5.jpg").write_bytes(b"no image")
    alone, together = check(AffectNet8, root), check(AffectNet8, root, workers=2)
    assert alone.as_json() == together.as_json()
    assert found(alone) == {"across splits": 1, "other label": 1, "unreadable": 1}
