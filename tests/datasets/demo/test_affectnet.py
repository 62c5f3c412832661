"""Synthetic faces in AffectNet's layouts."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from common.errors import InputError
from datasets import AffectNet8
from datasets.affectnet import BOX_COLUMNS, LAYOUTS
from datasets.demo import draw_face, write_affectnet

pytestmark = pytest.mark.filterwarnings("ignore:.*published are")

TRAIN, VAL = 24, 8


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


def test_labels_are_the_expressions_of_the_faces(tmp_path):
    """The file of a face is what its label and its own generator give."""
    write_affectnet(tmp_path, train=TRAIN, val=VAL, seed=5, workers=1)
    dataset = AffectNet8(tmp_path, "train")
    names = {"Happy": "Happiness", "Sad": "Sadness"}
    for index in range(4):
        number, label = int(dataset.samples[index][0].stem), dataset.labels[index]
        name = AffectNet8.classes[label]
        face = draw_face(names.get(name, name), np.random.default_rng([5, 0, number]))
        difference = np.asarray(dataset.read_image(index), float) - np.asarray(face.image, float)
        assert np.abs(difference).mean() < 12


def test_an_unknown_layout_is_refused(tmp_path):
    with pytest.raises(InputError, match="layout is 'zip'; known: annotations, folders, csv"):
        write_affectnet(tmp_path / "x", layout="zip")
    assert not (tmp_path / "x").exists()


def test_the_csv_holds_landmarks_of_the_whole_picture(tmp_path):
    """And a box around each face, as the release has them."""
    write_affectnet(tmp_path, layout="csv", train=8, val=8, seed=5, workers=1)
    with (tmp_path / "training.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 8
    for row in rows:
        assert [row[name] for name in BOX_COLUMNS] == ["30", "30", "100", "100"]
        points = np.array(row["facial_landmarks"].split(";"), float).reshape(5, 2)
        assert ((points > 30) & (points < 130)).all()
