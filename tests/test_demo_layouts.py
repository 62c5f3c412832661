"""Drawn faces in AffectNet's and SFEW's layouts, and the converter of real faces."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from common.errors import InputError
from datasets import SFEW, AffectNet8, FERPlus, demo
from datasets.affectnet import LAYOUTS
from datasets.demo_layouts import write_affectnet, write_sfew
from tests.test_ferplus import write_images
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
    with pytest.raises(FileExistsError, match="holds another drawing"):
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
    ],
)
def test_bad_arguments_write_nothing(options, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        write_affectnet(tmp_path / "x", **options)
    assert not (tmp_path / "x").exists()


def test_the_command_line_draws(tmp_path, capsys):
    root = tmp_path / "x"
    flags = ["--layout", "folders", "--train", "8", "--val", "8", "--seed", "3", "--workers", "1"]
    assert demo.main(["affectnet", str(root), *flags]) == 0
    assert json.loads((root / "demo.json").read_text())["layout"] == "affectnet folders"
    assert AffectNet8(root, "val").class_counts() == (1,) * 8
    assert demo.main(["affectnet", str(root), "--train", "2"]) == 2
    assert "too few" in capsys.readouterr().err


# ---- real faces in other layouts


@pytest.mark.parametrize("layout", convert_faces.WRITERS)
def test_converted_faces_keep_their_meaning(layout, tmp_path):
    source, target = write_images(tmp_path / "fer"), tmp_path / "out"
    convert_faces.main(["ferplus", str(source), layout, str(target)])
    original = FERPlus(source, "train")
    kind = SFEW if layout == "sfew" else AffectNet8
    converted = kind(target, "train")
    meanings = {}
    for dataset in (original, converted):
        for i, label in enumerate(dataset.labels):
            gray = round(np.asarray(dataset.read_image(i), float).mean() / 20)
            key = (dataset.name, gray)
            meanings[key] = convert_faces.meaning(dataset.classes[label])
    expected = {gray: meaning for (name, gray), meaning in meanings.items() if name == "ferplus"}
    assert {g: m for (name, g), m in meanings.items() if name == kind.name} == expected
    assert len(converted) == len(original) == 3
    assert converted.read_image(0).size == (48, 48)


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path):
    Image.new("L", (5, 5)).save(tmp_path / "mine.png")
    with pytest.raises(InputError, match="is not empty"):
        convert_faces.main(["fer2013", str(tmp_path), "sfew", str(tmp_path)])
