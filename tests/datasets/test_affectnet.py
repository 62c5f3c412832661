"""AffectNet: every layout with the same images, seven classes in eight, bad input."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

from common.errors import InputError
from datasets import AffectNet, AffectNet7, AffectNet8, base
from datasets.affectnet import crop_box
from tests.support.layouts import (
    AFFECTNET,
    picture,
    write_annotations,
    write_class_folders,
    write_csv,
    write_expression_folders,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*published are")

WRITERS = {"annotations": write_annotations, "folders": write_class_folders, "csv": write_csv}


@pytest.fixture(params=list(WRITERS))
def layout(request) -> str:
    return request.param


def numbered(dataset: AffectNet8) -> dict[int, int]:
    """Number in the file's name -> label."""
    return {int(path.stem): label for path, label in dataset.samples}


# ---- three layouts


@pytest.mark.parametrize("split", ["train", "val"])
def test_every_layout_gives_the_same_labels(layout, split, tmp_path):
    dataset = AffectNet8(WRITERS[layout](tmp_path), split)
    assert dataset.layout == layout
    assert numbered(dataset) == dict(AFFECTNET[split])
    assert dataset.labels == [label for _, label in dataset.samples]


def test_every_layout_gives_the_same_faces(layout, tmp_path):
    """In csv they are cut out of larger pictures; jpg is near enough in the others."""
    dataset = AffectNet8(WRITERS[layout](tmp_path), "train")
    for index, (path, _) in enumerate(dataset.samples):
        image, expected = dataset.read_image(index), picture(int(path.stem))
        assert image.size == expected.size
        difference = np.abs(np.asarray(image, float) - np.asarray(expected, float)).mean()
        assert difference < (1e-9 if layout == "csv" else 60)


def test_seven_classes_are_the_eight_without_contempt(layout, tmp_path):
    root = WRITERS[layout](tmp_path)
    for split in ("train", "val"):
        eight, seven = AffectNet8(root, split), AffectNet7(root, split)
        assert seven.samples == [sample for sample in eight.samples if sample[1] != 7]
        assert 0 < len(seven) < len(eight)
        assert [seven.read_image(i).tobytes() for i in range(len(seven))] == [
            eight.read_image(i).tobytes() for i in range(len(eight)) if eight.labels[i] != 7
        ]
    assert AffectNet7.classes == AffectNet8.classes[:7]
    assert AffectNet8.classes[7] == "Contempt"


def test_published_counts_are_the_papers():
    assert sum(AffectNet8.published_counts["train"][0]) == 287_651
    assert sum(AffectNet7.published_counts["train"][0]) == 283_901
    assert sum(AffectNet8.published_counts["val"][0]) == 4_000
    assert sum(AffectNet7.published_counts["val"][0]) == 3_500
    assert {sum(counts) for counts in AffectNet8.published_counts["val"][1:]} == {3_999}


def test_labels_8_to_10_of_the_csv_are_not_used(tmp_path):
    dataset = AffectNet8(write_csv(tmp_path), "train")
    assert sorted(int(path.stem) for path in dataset.unused) == [905, 955]
    assert len(dataset) == len(AFFECTNET["train"])


def test_two_layouts_need_a_choice(tmp_path):
    write_annotations(tmp_path)
    write_class_folders(tmp_path)
    with pytest.raises(InputError, match=r"annotations \(train_set, val_set\); folders .*--layout"):
        AffectNet8(tmp_path, "train")
    for wanted in ("annotations", "folders"):
        dataset = AffectNet8(tmp_path, "train", layout=wanted)
        assert dataset.layout == wanted
        assert ("_set" in str(dataset.samples[0][0])) == (wanted == "annotations")
    with pytest.raises(InputError, match="not the layout csv"):
        AffectNet8(tmp_path, "train", layout="csv")


def test_a_split_that_is_missing_is_named(tmp_path):
    shutil.rmtree(write_annotations(tmp_path) / "val_set")
    AffectNet8(tmp_path, "train")
    with pytest.raises(InputError, match=r"val_set does not exist, though .* layout annotations"):
        AffectNet8(tmp_path, "val")


def test_no_layout_says_which_are_read(tmp_path):
    with pytest.raises(InputError, match=r"none of its layouts.*train_set.*train/0.*training.csv"):
        AffectNet8(tmp_path, "train")


def test_the_recipes_choice_passes_its_options_on(tmp_path):
    root = write_csv(tmp_path)
    choice = AffectNet(classes="7", layout="csv", box_margin=0.5)
    dataset = choice(root, "val")
    assert (type(dataset), dataset.layout, dataset.box_margin) == (AffectNet7, "csv", 0.5)
    assert (AffectNet().dataset, choice.evaluated_split) == (AffectNet8, "val")


# ---- class folders


def test_folders_named_by_expression_are_those_named_by_number(tmp_path):
    by_number = AffectNet8(write_class_folders(tmp_path / "a"), "train")
    by_name = AffectNet8(write_expression_folders(tmp_path / "b"), "train")
    assert by_name.layout == by_number.layout == "folders"
    assert by_name.labels == by_number.labels
    assert [p.name for p, _ in by_name.samples] == [p.name for p, _ in by_number.samples]
    assert by_name.samples[-1][0].parent.name == "Contempt"


def test_class_folders_have_one_order_however_the_disk_lists_them(tmp_path, monkeypatch):
    root = write_class_folders(tmp_path)
    once, listed = AffectNet8(root, "train").samples, base.file_names
    assert [path.name for path, _ in once[1:3]] == ["2.jpg", "40.jpg"]
    for reverse in (True, False):
        monkeypatch.setattr(
            base,
            "file_names",
            lambda folder, reverse=reverse: sorted(listed(folder), reverse=reverse),
        )
        assert AffectNet8(root, "train").samples == once


SPELLINGS = "neutral", "happy happiness", "sad sadness", "surprise", "fear", "disgust"
SPELLINGS += "anger angry", "contempt"


@pytest.mark.parametrize(
    ("label", "spelling"),
    [(label, word) for label, words in enumerate(SPELLINGS) for word in words.split()],
)
@pytest.mark.parametrize("case", [str.lower, str.upper, str.capitalize])
def test_every_usual_spelling_of_an_expression_is_read(label, spelling, case, tmp_path):
    root = write_class_folders(tmp_path)
    (root / f"train/{label}").rename(root / "train" / case(spelling))
    assert numbered(AffectNet8(root, "train")) == dict(AFFECTNET["train"])


@pytest.mark.parametrize("names", ["0123456", "neutral happy sad surprise fear disgust anger"])
def test_a_copy_of_seven_classes_is_read_without_contempt(names, tmp_path):
    root = write_class_folders(tmp_path, names.split() if " " in names else tuple(names))
    expected = {number: label for number, label in AFFECTNET["train"] if label < 7}
    assert numbered(AffectNet7(root, "train")) == expected
    with pytest.raises(InputError, match=r"train has no folder Contempt; .*, Contempt or 7$"):
        AffectNet8(root, "train")


def test_images_of_contempt_are_known_and_not_used(tmp_path):
    dataset = AffectNet7(write_expression_folders(tmp_path), "train")
    assert sorted(path.stem for path in dataset.unused) == ["21", "3"]


@pytest.mark.parametrize("name", ["happy", "Happiness", "HAPPY"])
def test_two_folders_for_one_expression_are_refused(name, tmp_path):
    root = write_class_folders(tmp_path)
    (root / "train" / name).mkdir()
    for kind in (AffectNet8, AffectNet7):
        with pytest.raises(
            InputError, match=f"train has more than one folder for the class Happy: 1, {name}; join"
        ):
            kind(root, "train")


# ---- a csv without column names


def without_first_line(path: Path) -> None:
    """Take the column names away."""
    path.write_text(path.read_text().partition("\n")[2])


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_csv_without_column_names_is_read_and_said(split, tmp_path):
    root = write_csv(tmp_path)
    table = root / {"train": "training.csv", "val": "validation.csv"}[split]
    named = AffectNet8(root, split)
    without_first_line(table)
    with pytest.warns(UserWarning, match=f"{table.name} has no first line .* facial_landmarks"):
        nameless = AffectNet8(root, split)
    assert nameless.samples == named.samples
    assert nameless.unused == named.unused
    assert (nameless.boxes == named.boxes).all()
    assert nameless.layout == "csv"


def test_nothing_is_said_of_a_csv_with_column_names(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*published are")
        AffectNet8(write_csv(tmp_path), "val")


def test_rows_are_numbered_as_in_an_editor_without_column_names_too(tmp_path):
    root = write_csv(tmp_path, {2: {"expression": 11}})
    without_first_line(root / "training.csv")
    with (
        pytest.warns(UserWarning, match="has no first line"),
        pytest.raises(InputError, match=r"row 3 of .*training.csv has the expression 11"),
    ):
        AffectNet8(root, "train")


def test_a_csv_without_column_names_and_with_other_columns_is_refused(tmp_path):
    table = write_csv(tmp_path) / "validation.csv"
    rows = [line.rpartition(",")[0] for line in table.read_text().splitlines()[1:]]
    table.write_text("\n".join(rows))
    with pytest.raises(InputError, match=r"validation.csv has no column subDirectory_filePath"):
        AffectNet8(tmp_path, "val")


def test_blank_lines_are_fine_and_counted(tmp_path):
    table = write_csv(tmp_path) / "training.csv"
    table.write_text(table.read_text().replace("\n", "\n\n"))
    assert numbered(AffectNet8(tmp_path, "train")) == dict(AFFECTNET["train"])
    table.write_text(table.read_text().replace("3.png", "none.png"))
    with pytest.raises(InputError, match=r"none.png does not exist, but row 7 of"):
        AffectNet8(tmp_path, "train")


# ---- face boxes


@pytest.mark.parametrize(
    ("box", "margin", "expected"),
    [
        ((10, 5, 20, 20), 0.0, (10, 5, 30, 25)),
        ((10, 5, 20, 20), 0.25, (5, 0, 35, 30)),
        ((30, 30, 20, 10), 0.0, (30, 30, 40, 40)),  # beyond the right edge
        ((-5, -5, 10, 20), 0.0, (0, 0, 5, 15)),  # beyond the corner
        ((2, 2, 4, 4), 5.0, (0, 0, 26, 26)),  # a margin beyond the corner
    ],
)
def test_boxes_are_cut_off_at_the_edge(box, margin, expected):
    whole = picture(0, (40, 40))
    crop = crop_box(whole, box, margin, "x.jpg")
    assert crop.tobytes() == whole.crop(expected).tobytes()


@pytest.mark.parametrize(
    "box", [(40, 5, 20, 20), (5, 90, 20, 20), (-30, 5, 20, 20), (5, -21, 9, 20)]
)
@pytest.mark.parametrize("margin", [0.0, 2.0])
def test_a_box_outside_the_picture_is_refused(box, margin):
    with pytest.raises(InputError, match=r"lies outside x.jpg, which has 40 x 40"):
        crop_box(picture(0, (40, 40)), box, margin, "x.jpg")


def test_a_box_may_begin_outside_the_picture(tmp_path):
    dataset = AffectNet8(write_csv(tmp_path, {2: {"face_x": -4, "face_y": 0}}), "train")
    assert dataset.read_image(2).size == (16, 20)


@pytest.mark.parametrize("margin", [-0.1, float("inf"), float("nan"), "wide"])
def test_a_margin_that_is_none_is_refused(margin, tmp_path):
    with pytest.raises(InputError, match=r"box_margin is .*; expected a number from 0 up"):
        AffectNet8(write_csv(tmp_path), "train", box_margin=margin)


# ---- bad input


def test_a_folder_of_images_that_is_a_link_out_of_the_data_folder_is_refused(tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    folder = AffectNet8(write_csv(root), "train").samples[0][0].parent
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="outside the data folder"):
        AffectNet8(root, "train")[0]


def test_an_image_without_its_file_is_named(tmp_path):
    (write_annotations(tmp_path) / "train_set/images/9.jpg").unlink()
    with pytest.raises(InputError, match=r"images/9.jpg does not exist, but .*9_exp.npy does"):
        AffectNet8(tmp_path, "train")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"expression": 11}, r"row 4 of .*training.csv has the expression 11; expected 0 to 7"),
        ({"expression": "joy"}, r"row 4 of .* has the expression nan"),
        ({"face_width": 0}, r"row 4 of .* has the face box 10 5 0 20"),
        ({"face_x": "1e300"}, r"row 4 of .* has the face box 1e\+300 5 20 20"),
        ({"face_x": "left"}, r"row 4 of .* has the face box nan 5 20 20"),
        (
            {"subDirectory_filePath": "../../etc/x.png"},
            r"row 4 .*outside Manually_Annotated_Images",
        ),
        ({"subDirectory_filePath": "/etc/x.png"}, r"row 4 .*outside Manually_Annotated_Images"),
        ({"subDirectory_filePath": "C:/x.png"}, r"row 4 .*outside Manually_Annotated_Images"),
        ({"subDirectory_filePath": "..\\..\\x.png"}, r"row 4 .*outside Manually_Annotated_Images"),
        ({"subDirectory_filePath": "0/none.png"}, r"0/none.png does not exist, but row 4"),
    ],
)
def test_a_bad_row_of_the_csv_is_named(change, words, tmp_path):
    with pytest.raises(InputError, match=words):
        AffectNet8(write_csv(tmp_path, {2: change}), "train")


def test_a_csv_without_its_columns_is_refused(tmp_path):
    table = write_csv(tmp_path) / "training.csv"
    table.write_text(table.read_text().replace("expression", "emotion").replace("face_x", "x"))
    with pytest.raises(InputError, match="has no column face_x, expression"):
        AffectNet8(tmp_path, "train")


def test_a_box_outside_its_picture_is_named_when_it_is_read(tmp_path):
    dataset = AffectNet8(write_csv(tmp_path, {2: {"face_x": 99}}), "train")
    with pytest.raises(InputError, match=r"x 99, y 5, .* lies outside .*0/3.png"):
        dataset.read_image(2)
    dataset.read_image(1)


def test_problems_can_be_collected_instead(tmp_path):
    changes = {
        1: {"expression": 12},
        2: {"face_width": -1},
        3: {"subDirectory_filePath": "0/no.png"},
    }
    problems = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a collecting reader says nothing itself
        dataset = AffectNet8(write_csv(tmp_path, changes), "train", problems=problems)
    assert [problem.kind for problem in problems] == ["label", "box", "missing"]
    assert len(dataset) == len(AFFECTNET["train"]) - 3
    # Boxes stay with their images.
    assert dataset.read_image(1).tobytes() == picture(int(dataset.samples[1][0].stem)).tobytes()
