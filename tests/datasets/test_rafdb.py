"""RAF-DB: official layout and class folders, label order, bad input."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from common.errors import InputError
from datasets import RAFDB, base
from tests.support.layouts import grey, grey_levels, write_rafdb_folders
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
    assert train.layout == test.layout == "official"
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


# ---- class folders


#: Where the class folders and the csv files are, below the data folder; None: no csv files.
PLACES = {
    "alone": ("", None),
    "with csv": ("", ""),
    "deeper": ("DATASET", None),
    "deeper, csv beside it": ("DATASET", ""),
    "deeper, csv in it": ("DATASET", "DATASET"),
}


def write_folders(root: Path, lines: Iterable[str] = LINES, *, deeper: str = "") -> Path:
    """Class folders with csv files, all seven in both splits."""
    official = write(root.parent / f"{root.name}-official", lines)
    root.mkdir()
    write_rafdb_folders(official, root / deeper, csv_in=root)
    for split in ("train", "test"):
        for label in range(1, 8):
            (root / deeper / split / str(label)).mkdir(parents=True, exist_ok=True)
    return root


@pytest.mark.parametrize(("deeper", "tables"), PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("split", ["train", "test"])
def test_class_folders_give_the_official_labels_in_the_official_order(
    split, deeper, tables, data, tmp_path
):
    (tmp_path / deeper).mkdir(exist_ok=True)
    csv_in = None if tables is None else tmp_path / tables
    write_rafdb_folders(data, tmp_path / deeper, csv_in=csv_in)
    official, folders = RAFDB(data, split), RAFDB(tmp_path, split)
    assert folders.layout == "class folders"
    assert len(folders) == {"train": 21, "test": 14}[split]
    assert [path.name for path, _ in folders.samples] == [p.name for p, _ in official.samples]
    assert folders.labels == official.labels
    for index in range(len(official)):
        assert folders.read_image(index).tobytes() == official.read_image(index).tobytes()


def test_the_order_is_that_of_the_names_however_the_disk_lists_them(data, tmp_path, monkeypatch):
    write_rafdb_folders(data, tmp_path)
    once = RAFDB(tmp_path, "train").samples
    listed = base.file_names
    monkeypatch.setattr(base, "file_names", lambda folder: sorted(listed(folder), reverse=True))
    assert RAFDB(tmp_path, "train").samples == once
    assert [path.name for path, _ in once] == sorted(path.name for path, _ in once)


def test_folders_1_to_7_are_labels_0_to_6(tmp_path):
    lines = [f"train_{number}.jpg {label}" for number, label in enumerate((3, 7, 1, 5, 2, 6, 4))]
    dataset = RAFDB(write_folders(tmp_path / "data", [*lines, "test_0.jpg 1"]), "train")
    assert dataset.labels == [2, 6, 0, 4, 1, 5, 3]
    assert [int(path.parent.name) - 1 for path, _ in dataset.samples] == dataset.labels


def test_class_folders_may_hold_links(tmp_path):
    """Nothing but the folder's owner puts files there; a list could name any."""
    root = write_folders(tmp_path / "data")
    image = root / "train/7/train_00001_aligned.jpg"
    image.rename(tmp_path / "elsewhere.jpg")
    image.symlink_to(tmp_path / "elsewhere.jpg")
    assert RAFDB(root, "train")[0].label == 6


@pytest.mark.parametrize("deeper", ["", "DATASET"])
def test_both_layouts_are_refused(deeper, tmp_path):
    root = write_folders(tmp_path / "data", deeper=deeper)
    write(root)
    with pytest.raises(InputError, match=r"holds both .*label\.txt and class folders in .*; keep"):
        RAFDB(root, "train")


def test_a_folder_train_beside_the_official_layout_is_no_layout(tmp_path):
    (write(tmp_path) / "train/mine").mkdir(parents=True)
    assert RAFDB(tmp_path, "train").layout == "official"


def contradict(old: str, new: str) -> Callable[[Path], object]:
    """Replace a text of train_labels.csv."""

    def change(root: Path) -> None:
        table = root / "train_labels.csv"
        assert old in table.read_text()
        table.write_text(table.read_text().replace(old, new))

    return change


MOVED = "train/1/train_00002_aligned.jpg"

CONTRADICTIONS = {
    "another label": (
        contradict("00002_aligned.jpg,1", "00002_aligned.jpg,3"),
        rf"{MOVED} lies in the folder of label 1 \(Surprise\), but .*train_labels\.csv gives it 3; "
        "expected the same label in both",
    ),
    "no number": (contradict("00002_aligned.jpg,1", "00002_aligned.jpg,x"), "gives it nan"),
    "another folder": (
        lambda root: (root / MOVED).rename(root / "train/5/train_00002_aligned.jpg"),
        r"train/5/train_00002_aligned\.jpg lies in the folder of label 5 .* gives it 1",
    ),
    "not listed": (contradict("train_00002_aligned.jpg,1\n", ""), rf"{MOVED} .* does not list it"),
    "not there": (
        lambda root: (root / MOVED).unlink(),
        r"image train_00002_aligned\.jpg lies in none of the class folders .*csv lists it",
    ),
    "outside": (
        contradict("train_00002_aligned.jpg,1", "train_00002_aligned.jpg,1\n../secret.jpg,1"),
        r"image \.\./secret\.jpg lies in none of the class folders",
    ),
    "other columns": (
        contradict("image,label", "name,label"),
        r"train_labels\.csv has no column image; expected a first line with image, label",
    ),
    "no csv": (
        lambda root: (root / "train_labels.csv").write_bytes(b"\xff\xfe\x00"),
        "train_labels.csv cannot be read as csv",
    ),
}


@pytest.fixture
def folders(tmp_path) -> Path:
    """Class folders with csv files."""
    return write_folders(tmp_path / "data")


@pytest.mark.parametrize("tables", ["", "DATASET"])
def test_a_csv_is_found_in_either_place(tables, tmp_path):
    root = write_folders(tmp_path / "data", deeper="DATASET")
    contradict("00002_aligned.jpg,1", "00002_aligned.jpg,3")(root)
    (root / "train_labels.csv").rename(root / tables / "train_labels.csv")
    with pytest.raises(InputError, match=rf"{root / tables}/train_labels\.csv gives it 3"):
        RAFDB(root, "train")


@pytest.mark.parametrize(("change", "message"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_a_csv_that_contradicts_the_folders_is_refused(change, message, folders):
    RAFDB(folders, "train")
    change(folders)
    with pytest.raises(InputError, match=message):
        RAFDB(folders, "train")
    RAFDB(folders, "test")


def test_a_csv_with_blank_lines_and_labels_as_decimals_is_fine(folders):
    contradict("00002_aligned.jpg,1", "00002_aligned.jpg, 1.0\n\n")(folders)
    assert RAFDB(folders, "train").labels == [6, 0, 3]


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        ("train/3", r"train has no folder 3; expected one folder per class: 1, 2, 3, 4, 5, 6, 7"),
        ("train", r"train does not exist; expected a folder with a folder per class"),
    ],
)
def test_a_class_folder_that_is_missing_is_named(remove, message, tmp_path):
    root = write_folders(tmp_path / "data")
    shutil.rmtree(root / remove)
    with pytest.raises(InputError, match=message):
        RAFDB(root, "train")


def test_other_class_folders_are_not_taken_for_rafdb(tmp_path):
    (tmp_path / "train/angry").mkdir(parents=True)
    (tmp_path / "val/0").mkdir(parents=True)
    with pytest.raises(InputError, match=r"no class folders \(nor below DATASET/\); rafdb is read"):
        RAFDB(tmp_path, "train")
