"""tools.convert_faces: what the faces mean, the same pixels in each layout, bad input."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from PIL import Image

from common.errors import InputError
from datasets import RAFDB, SFEW, FERPlus
from tests.support.layouts import grey_levels, write_ferplus_images
from tools import convert_faces

pytestmark = pytest.mark.filterwarnings("ignore:.*published are", "ignore:.*film frames")


def converted(layout, tmp_path, *flags):
    """FER+'s faces in a layout: both data sets' training splits."""
    source, target = tmp_path / "fer", tmp_path / layout
    if not source.exists():
        write_ferplus_images(source)
    convert_faces.main(["ferplus", str(source), layout, str(target), *flags])
    return FERPlus(source, "train"), convert_faces.WRITERS[layout][0](target, "train")


def shown(dataset) -> dict[int, str]:
    """What each face shows, by the grey level that names it."""
    return {
        level: convert_faces.meaning(dataset.classes[label])
        for level, label in grey_levels(dataset)
    }


@pytest.mark.parametrize("layout", convert_faces.WRITERS)
def test_converted_faces_keep_their_meaning(layout, tmp_path):
    original, copy = converted(layout, tmp_path)
    assert len(copy) == len(original) == 3
    assert shown(copy) == shown(original)
    assert copy.read_image(0).size == ((100, 100) if layout == "rafdb" else (48, 48))
    evaluated = type(copy)(copy.root, copy.evaluated_split)
    assert set(shown(evaluated).values()) == {"surprise", "sadness"}


def test_affectnets_layouts_get_the_same_pixels(tmp_path):
    """And the same order where the layout has one: a training sees no difference."""
    datasets = {
        layout: converted(f"affectnet-{layout}", tmp_path)[1]
        for layout in ("annotations", "csv", "folders")
    }
    faces = {
        layout: [(each.read_image(i).tobytes(), each.labels[i]) for i in range(len(each))]
        for layout, each in datasets.items()
    }
    assert faces["annotations"] == faces["csv"]
    assert sorted(faces["annotations"]) == sorted(faces["folders"])
    assert len(faces["csv"]) == 3


def test_the_seed_chooses_some_of_the_faces(tmp_path):
    entries = [(i, i % 3) for i in range(50)]
    chosen = convert_faces.some(entries, 10, 0)
    assert chosen == sorted(chosen)
    assert len(set(chosen)) == 10
    assert convert_faces.some(entries, 10, 0) == chosen != convert_faces.some(entries, 10, 1)
    assert convert_faces.some(entries, 0, 0) == entries
    assert len(converted("sfew", tmp_path, "--train", "2")[1]) == 2


@pytest.mark.parametrize(
    ("kind", "expected"),
    [(RAFDB, [(0, 0), (2, 1), (3, 2)]), (SFEW, [(0, 6), (2, 2), (3, 1)])],
)
def test_labels_are_translated_by_their_meaning(kind, expected):
    """Surprise, contempt (which neither has), fear and disgust."""
    source = SimpleNamespace(classes=FERPlus.classes, labels=[2, 7, 6, 5])
    assert convert_faces.translated(source, kind.classes) == expected


def test_a_copy_of_rafdb_that_was_cut_short_is_refused(tmp_path):
    """The label list comes last, so such a copy is not taken for a whole one."""

    def cut():
        yield Image.new("RGB", (48, 48)), 0
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_faces.write_rafdb(tmp_path, {"train": cut()})
    assert (tmp_path / "Image/aligned/train_00001_aligned.jpg").is_file()
    with pytest.raises(InputError, match=r"list_patition_label.txt not found"):
        RAFDB(tmp_path, "train")


@pytest.mark.parametrize("flags", [[], ["--train", "-1"]])
def test_a_folder_that_is_not_empty_is_left_alone(flags, tmp_path):
    Image.new("L", (5, 5)).save(tmp_path / "mine.png")
    with pytest.raises(InputError, match=r"not empty|must not be negative"):
        convert_faces.main(["fer2013", str(tmp_path), "sfew", str(tmp_path), *flags])
    assert [path.name for path in tmp_path.iterdir()] == ["mine.png"]
