"""Synthetic faces in RAF-DB's layout."""

from __future__ import annotations

import csv

import numpy as np
from PIL import Image

from datasets import RAFDB
from datasets.demo import draw_face
from tests.support.scripts import LABEL_FILE


def test_label_list_and_files_are_those_of_rafdb(faces):
    lines = (faces / LABEL_FILE).read_text().splitlines()
    names = [f"train_{i:05d}.jpg" for i in range(1, 41)] + [
        f"test_{i:04d}.jpg" for i in range(1, 15)
    ]
    assert [line.split(" ")[0] for line in lines] == names
    assert {line.split(" ")[1] for line in lines} == set("1234567")
    found = sorted(p.name for p in (faces / "Image" / "aligned").iterdir())
    assert found == sorted(name.replace(".jpg", "_aligned.jpg") for name in names)
    with Image.open(faces / "Image" / "aligned" / "train_00001_aligned.jpg") as image:
        assert (image.format, image.size, image.mode) == ("JPEG", (100, 100), "RGB")


def test_the_label_in_the_list_is_the_expression_in_the_image(faces, tmp_path):
    """Some images are drawn again from their listed label alone."""
    lines = (faces / LABEL_FILE).read_text().splitlines()
    for index in (1, 17, 40):
        label = int(lines[index - 1].split()[1])
        expression = RAFDB.classes[label - 1]
        face = draw_face(expression, np.random.default_rng([3, 0, index]))
        face.image.save(tmp_path / "again.jpg", quality=face.jpeg_quality)
        stored = faces / "Image" / "aligned" / f"train_{index:05d}_aligned.jpg"
        assert (tmp_path / "again.jpg").read_bytes() == stored.read_bytes()


def test_the_landmark_file_holds_the_landmarks(faces):
    lines = (faces / LABEL_FILE).read_text().splitlines()
    with (faces / "landmarks.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row.pop("image") for row in rows] == [line.split()[0] for line in lines]
    assert list(rows[0]) == [
        "left_eye_x", "left_eye_y", "right_eye_x", "right_eye_y", "nose_x", "nose_y",
        "left_mouth_x", "left_mouth_y", "right_mouth_x", "right_mouth_y",
    ]  # fmt: skip
    expression = RAFDB.classes[int(lines[45].split()[1]) - 1]
    face = draw_face(expression, np.random.default_rng([3, 1, 6]))  # the sixth test image
    np.testing.assert_allclose(
        [float(v) for v in rows[45].values()], face.landmarks.ravel(), atol=0.006
    )
