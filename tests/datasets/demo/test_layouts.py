"""Drawn faces in AffectNet's and SFEW's layouts, and the converter of real faces."""

from __future__ import annotations

import hashlib
import json
from types import SimpleNamespace

import numpy as np
import pytest
from datasets.demo_layouts import write_affectnet, write_sfew
from PIL import Image

from common.errors import InputError
from datasets import RAFDB, SFEW, AffectNet8, FERPlus, demo
from datasets.affectnet import LAYOUTS
from tests.datasets.test_ferplus import write_images
from tools import align_sfew, check_data, convert_faces

pytestmark = pytest.mark.filterwarnings("ignore:.*published are", "ignore:.*film frames")

TRAIN, VAL = 24, 8


def digest(root) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("layout", LAYOUTS)
def test_affectnets_layouts_are_read(layout, tmp_path):
    write_affectnet(tmp_path, layout=layout, train=TRAIN, val=VAL, workers=1)
    train, val = AffectNet8(tmp_path, "train"), AffectNet8(tmp_path, "val")
    assert train.layout == layout
    assert (len(train), len(val)) == (TRAIN, VAL)
    assert val.class_counts() == (1,) * 8  # balanced, as AffectNet's
    assert min(train.class_counts()) >= 1
    assert np.argmax(train.class_counts()) == AffectNet8.classes.index("Happy")
    assert {train.read_image(i).size for i in range(TRAIN)} == {(100, 100)}


def test_labels_are_what_was_drawn(tmp_path):
    """The file of a face is the drawing of its label with its own generator."""
    write_affectnet(tmp_path, train=TRAIN, val=VAL, seed=5, workers=1)
    dataset = AffectNet8(tmp_path, "train")
    names = {"Happy": "Happiness", "Sad": "Sadness"}
    for index in range(4):
        number, label = int(dataset.samples[index][0].stem), dataset.labels[index]
        name = AffectNet8.classes[label]
        face = demo.draw_face(names.get(name, name), np.random.default_rng([5, 0, number]))
        difference = np.asarray(dataset.read_image(index), float) - np.asarray(face.image, float)
        assert np.abs(difference).mean() < 12


def test_sfew_frames_are_aligned_by_their_landmarks(tmp_path):
    source, target = tmp_path / "frames", tmp_path / "faces"
    write_sfew(source, train=7, val=7, workers=1)
    frames = SFEW(source, "train")
    assert frames.layout == "film frames"
    assert frames.read_image(0).size == (720, 576)
    flags = [str(source), str(target), "--landmarks", str(source / "landmarks.csv")]
    assert align_sfew.main(flags) == 0
    faces = SFEW(target, "val")
    assert (faces.layout, faces.class_counts()) == ("aligned faces", (1,) * 7)
    assert check_data.main(["sfew", str(target), "--workers", "1"]) == 0


@pytest.mark.parametrize("write", [write_affectnet, write_sfew])
def test_the_seed_decides_and_a_finished_drawing_stays(write, tmp_path, capsys):
    write(tmp_path / "a", train=8, val=8, seed=1, workers=1)
    write(tmp_path / "b", train=8, val=8, seed=1, workers=2)
    write(tmp_path / "c", train=8, val=8, seed=2, workers=1)
    first = digest(tmp_path / "a")
    assert digest(tmp_path / "b") == first != digest(tmp_path / "c")
    # Other numbers may keep a label, so the same name; its face is another.
    images = {name for name in first if name.endswith((".jpg", ".png"))}
    assert all(digest(tmp_path / "c").get(name) != first[name] for name in images)
    write(tmp_path / "a", train=8, val=8, seed=1, workers=1)
    assert "already holds this drawing" in capsys.readouterr().out
    with pytest.raises(InputError, match="holds another drawing"):
        write(tmp_path / "a", train=9, val=8, seed=1, workers=1)
    assert digest(tmp_path / "a") == first


def test_an_unfinished_drawing_is_started_again(tmp_path):
    write_affectnet(tmp_path, train=8, val=8, workers=1)
    whole = digest(tmp_path)
    (tmp_path / "landmarks.csv").unlink()
    (tmp_path / "train_set/images/3.jpg").write_bytes(b"half")
    write_affectnet(tmp_path, train=8, val=8, workers=1)
    assert digest(tmp_path) == whole


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"layout": "zip"}, "known: annotations, folders, csv"),
        ({"train": 3}, "too few"),
        ({"seed": -1}, "seed is -1"),
        ({"workers": 0}, "workers is 0"),
    ],
)
def test_bad_arguments_write_nothing(options, words, tmp_path):
    with pytest.raises(InputError, match=words):
        write_affectnet(tmp_path / "x", **options)
    assert not (tmp_path / "x").exists()


def test_the_command_line_draws(tmp_path):
    root = tmp_path / "x"
    flags = ["--layout", "folders", "--train", "8", "--val", "8", "--seed", "3", "--workers", "1"]
    demo.main(["affectnet", str(root), *flags])
    assert json.loads((root / "demo.json").read_text())["layout"] == "affectnet folders"
    assert AffectNet8(root, "val").class_counts() == (1,) * 8
    with pytest.raises(InputError, match="too few"):
        demo.main(["affectnet", str(root), "--train", "2"])


# ---- real faces in other layouts


def converted(layout, tmp_path, *flags):
    """The drawn votes of `write_images` in a layout: both data sets' training splits."""
    source, target = tmp_path / "fer", tmp_path / layout
    if not source.exists():
        write_images(source)
    convert_faces.main(["ferplus", str(source), layout, str(target), *flags])
    return FERPlus(source, "train"), convert_faces.WRITERS[layout][0](target, "train")


def gray_and_meaning(dataset) -> dict[int, str]:
    """What each face shows, by the gray level that names it."""
    return {
        round(np.asarray(dataset.read_image(i), float).mean() / 20): convert_faces.meaning(
            dataset.classes[label]
        )
        for i, label in enumerate(dataset.labels)
    }


@pytest.mark.parametrize("layout", convert_faces.WRITERS)
def test_converted_faces_keep_their_meaning(layout, tmp_path):
    original, copy = converted(layout, tmp_path)
    assert len(copy) == len(original) == 3
    assert gray_and_meaning(copy) == gray_and_meaning(original)
    assert copy.read_image(0).size == ((100, 100) if layout == "rafdb" else (48, 48))
    evaluated = type(copy)(copy.root, copy.evaluated_split)
    shown = {convert_faces.meaning(evaluated.classes[label]) for label in evaluated.labels}
    assert shown == {"surprise", "sadness"}


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


def test_some_faces_are_drawn_by_the_seed(tmp_path):
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


def test_a_copy_of_rafdb_that_was_cut_short_is_none(tmp_path):
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
