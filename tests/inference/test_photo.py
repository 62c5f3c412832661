"""predict_faces, and the example of docs/predicting.md."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import InputError
from datasets import FER2013, RAFDB, detectors
from datasets.alignment import Face
from datasets.demo import draw_face
from datasets.transforms import evaluation
from inference import predict_faces
from networks import DAN, load_model
from tests.support.patches import (
    IMAGE_SIZE,
    SIDE,
    face_of,
    find_patches,
    patch,
    save_checkpoint,
    scene,
)
from tests.support.scripts import ROOT


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("models") / "dan.pth", arch=DAN)


@pytest.fixture
def picture():
    """Two faces; the one that is drawn later lies to the left."""
    return scene([(patch(1), (250, 60)), (patch(2), (30, 40))])


def detect(picture: Image.Image) -> list[Face]:
    (faces,) = find_patches([picture])
    return faces


def logits_of(model, crop: Image.Image) -> torch.Tensor:
    with torch.no_grad():
        return model(evaluation(IMAGE_SIZE)(crop)[None]).logits[0]


def test_faces_are_framed_as_in_training_and_softmaxed(checkpoint, picture):
    model = load_model(checkpoint)
    found = predict_faces(model, picture, detect)
    assert [one.face.box[0] for one in found] == [30, 250]  # from left to right
    for one, face in zip(found, (patch(2), patch(1)), strict=True):
        assert np.array_equal(np.asarray(one.crop), np.asarray(face))
        expected = logits_of(model, face).softmax(dim=0).numpy()
        np.testing.assert_allclose(one.probabilities, expected, rtol=1e-4)
        assert one.expression == RAFDB.classes[int(expected.argmax())]
        assert one.probability == one.probabilities.max()


def test_temperature_and_framing_are_the_checkpoints(tmp_path, picture):
    framing = FER2013.framing.as_dict()
    path = save_checkpoint(tmp_path / "x.pth", temperature=2.5, framing=framing)
    model = load_model(path)
    for one in predict_faces(model, picture, detect):
        crop = FER2013.framing.crop(picture, one.face)
        assert np.array_equal(np.asarray(one.crop), np.asarray(crop))
        expected = (logits_of(model, crop) / 2.5).softmax(dim=0).numpy()
        np.testing.assert_allclose(one.probabilities, expected, rtol=1e-4)


def test_a_file_or_a_picture_of_any_mode_with_or_without_faces(checkpoint, picture, tmp_path):
    model = load_model(checkpoint)
    picture.save(tmp_path / "photo.png")
    one, *others = (
        [face.probabilities for face in predict_faces(model, given, detect)]
        for given in (picture, picture.convert("RGBA"), tmp_path / "photo.png")
    )
    for other in others:
        assert np.array_equal(one, other)
    assert predict_faces(model, picture, lambda image: []) == []
    (whole,) = predict_faces(model, patch(3), None)
    assert whole.face.box == (0, 0, SIDE, SIDE)
    expected = logits_of(model, patch(3)).softmax(dim=0).numpy()
    np.testing.assert_allclose(whole.probabilities, expected, rtol=1e-4)
    with pytest.raises(InputError, match=r"gone\.png does not exist"):
        predict_faces(model, tmp_path / "gone.png", None)


def test_a_network_that_was_not_loaded_is_refused():
    with pytest.raises(InputError, match=r"this DAN does not say .* networks.load_model\(PATH\)"):
        predict_faces(DAN(7, 1), patch(1), None)


def test_the_example_of_the_docs_runs(checkpoint, picture, tmp_path, monkeypatch, capsys):
    text = (ROOT / "docs/predicting.md").read_text()
    example = re.search(r"## From Python.*?```python\n(.*?)```", text, re.DOTALL)[1]
    assert len([line for line in example.splitlines() if line]) == 10
    box = [150, 40, 250, 140]
    drawn_face = draw_face("Happiness", np.random.default_rng(0), size=SIDE).image
    photo = scene([(drawn_face, (box[0], box[1]))])
    photo.save(tmp_path / "photo.jpg", quality=95)
    path = tmp_path / re.search(r'load_model\("(.+?)"\)', example)[1]
    path.parent.mkdir(parents=True)
    path.write_bytes(checkpoint.read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(detectors, "make_detector", lambda name: lambda image: [face_of(box)])
    exec(compile(example, "docs/predicting.md", "exec"), {})
    names = "|".join(RAFDB.classes)
    assert re.fullmatch(rf"({names}) \d+% {re.escape(str(box))}\n", capsys.readouterr().out)
    drawn = np.asarray(Image.open("annotated.png"), dtype=int)
    changed = np.abs(drawn - np.asarray(Image.open("photo.jpg"), dtype=int)).max(axis=2)
    assert changed[box[1] + 5, box[0]] > 50  # the box's left side
    assert changed[:, : box[0] - 5].max() == 0
