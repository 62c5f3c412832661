"""AffectNet's label files: read once, remembered in an index, never executed."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from common.errors import InputError
from datasets import AffectNet8, label_index
from tests.support.layouts import AFFECTNET, picture, write_annotations

pytestmark = pytest.mark.filterwarnings("ignore:.*published are")

INDEX = "train_set/.expression_index.npz"


def numbered(dataset: AffectNet8) -> dict[int, int]:
    """Number in the file's name -> label."""
    return {int(path.stem): label for path, label in dataset.samples}


@pytest.fixture
def reads(monkeypatch):
    """reads(root) -> (label files that were opened, labels by number)."""
    names: list[str] = []
    original = label_index.read_labels

    def recording(paths):
        names.extend(Path(path).name for path in paths)
        return original(paths)

    monkeypatch.setattr(label_index, "read_labels", recording)

    def open_split(root: Path) -> tuple[list[str], dict[int, int]]:
        names.clear()
        labels = numbered(AffectNet8(root, "train"))
        return sorted(names), labels

    return open_split


def label_file(root: Path, number: int) -> Path:
    return root / "train_set/annotations" / f"{number}_exp.npy"


def test_a_second_start_reads_no_label_file(tmp_path, reads):
    root = write_annotations(tmp_path)
    first, labels = reads(root)
    assert len(first) == len(AFFECTNET["train"])
    assert reads(root) == ([], labels)
    assert (root / INDEX).is_file()


def test_the_index_notices_changed_added_and_removed_files(tmp_path, reads):
    root = write_annotations(tmp_path)
    _, labels = reads(root)
    np.save(label_file(root, 12), np.array("5"))
    os.utime(label_file(root, 12), ns=(1, 10**18))
    picture(77).save(root / "train_set/images/77.jpg")
    np.save(label_file(root, 77), np.array("6"))
    label_file(root, 3).unlink()
    expected = {**labels, 12: 5, 77: 6}
    del expected[3]
    assert reads(root) == (["12_exp.npy", "77_exp.npy"], expected)
    assert reads(root) == ([], expected)


@pytest.mark.parametrize("content", [b"", b"nonsense", None])
def test_the_index_may_be_damaged_or_deleted(content, tmp_path, reads):
    root = write_annotations(tmp_path)
    everything, labels = reads(root)
    if content is None:
        (root / INDEX).unlink()
    else:
        (root / INDEX).write_bytes(content)
    assert reads(root) == (everything, labels)


def test_many_files_are_read_in_chunks(tmp_path, reads, monkeypatch):
    monkeypatch.setattr(label_index, "CHUNK", 3)
    everything, labels = reads(write_annotations(tmp_path))
    assert len(everything) == 10
    assert labels == dict(AFFECTNET["train"])


class Hostile:
    """Unpickled by a careless loader it makes a folder."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def test_a_label_file_runs_no_code(tmp_path):
    root, trace = write_annotations(tmp_path / "data"), tmp_path / "trace"
    np.save(label_file(root, 12), np.array([Hostile(trace)], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"12_exp.npy holds no whole number"):
        AffectNet8(root, "train")
    assert not trace.exists()


def test_an_index_of_another_version_is_not_used(tmp_path, reads, monkeypatch):
    root = write_annotations(tmp_path)
    everything, _ = reads(root)
    monkeypatch.setattr(label_index, "VERSION", label_index.VERSION + 1)
    assert reads(root)[0] == everything


def test_a_folder_that_cannot_be_written_is_read_all_the_same(tmp_path, monkeypatch):
    root = write_annotations(tmp_path)

    def refuse(path, write):
        raise InputError(f"cannot write {path}: Read-only file system")

    monkeypatch.setattr(label_index, "write_whole", refuse)
    with pytest.warns(UserWarning, match="Read-only file system; without this index"):
        dataset = AffectNet8(root, "train")
    assert numbered(dataset) == dict(AFFECTNET["train"])
    assert not (root / INDEX).exists()


@pytest.mark.parametrize("value", [np.array("3"), np.array(3), np.array([3.0]), np.array(b"3")])
def test_labels_are_read_as_text_and_as_numbers(value, tmp_path):
    np.save(tmp_path / "x.npy", value)
    assert label_index.read_labels([str(tmp_path / "x.npy")]).tolist() == [3]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (np.array("happy"), "holds no whole number"),
        (np.array([1, 2]), "holds no whole number"),
        (np.array(1.5), "holds no whole number"),
        (np.array("40000"), "holds no whole number"),  # more than the index has room for
        (np.array("8"), "holds the label 8"),
        (np.array("-1"), "holds the label -1"),
        (b"\x93NUMPY", "holds no whole number"),
        (b"", "holds no whole number"),
    ],
)
def test_a_label_file_that_holds_none_is_named(content, words, tmp_path):
    path = label_file(write_annotations(tmp_path), 12)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content)
    for _ in range(2):  # the second time from the index
        with pytest.raises(InputError, match=f"12_exp.npy {words}; expected 0 to 7"):
            AffectNet8(tmp_path, "train")
