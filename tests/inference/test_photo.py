"""predict_faces, and the example of docs/predicting.md."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import InputError
from datasets import FER2013, RAFDB, Framing, detectors
from datasets.transforms import evaluation
from inference import predict_faces
from networks import DAN, load_model
from tests.support.faces import face_at, photo, save_checkpoint
from tests.support.scripts import ROOT


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    return save_checkpoint(tmp_path_factory.mktemp("models") / "dan.pth", DAN(7, 2))


def test_faces_are_framed_as_in_training_and_softmaxed(checkpoint):
    model = load_model(checkpoint)
    picture, face = photo("Happiness")
    (found,) = predict_faces(model, picture, lambda image: [face])
    crop = Framing().crop(picture, face)
    assert np.array_equal(np.asarray(found.crop), np.asarray(crop))
    with torch.no_grad():
        logits = model(evaluation(64)(crop)[None]).logits[0]
    np.testing.assert_allclose(found.probabilities, logits.softmax(dim=0).numpy(), rtol=1e-4)
    assert found.expression == RAFDB.classes[int(logits.argmax())]
    assert found.probability == found.probabilities.max()
    assert found.face is face


def test_temperature_and_framing_are_the_checkpoints(checkpoint, tmp_path):
    content = torch.load(checkpoint, weights_only=True)
    framing = FER2013.framing.as_dict()
    torch.save({**content, "temperature": 2.5, "framing": framing}, tmp_path / "x.pth")
    model = load_model(tmp_path / "x.pth")
    picture, face = photo("Anger")
    (found,) = predict_faces(model, picture, lambda image: [face])
    assert found.crop.size == (FER2013.framing.size,) * 2
    with torch.no_grad():
        logits = model(evaluation(64)(found.crop)[None]).logits[0]
    expected = (logits / 2.5).softmax(dim=0).numpy()
    np.testing.assert_allclose(found.probabilities, expected, rtol=1e-4)


def test_a_file_or_a_picture_of_any_mode_with_or_without_faces(checkpoint, tmp_path):
    model = load_model(checkpoint)
    picture, face = photo("Fear")
    picture.save(tmp_path / "photo.png")
    results = [
        predict_faces(model, given, lambda image: [face])[0].probabilities
        for given in (picture, picture.convert("RGBA"), tmp_path / "photo.png")
    ]
    for other in results[1:]:
        assert np.array_equal(results[0], other)
    assert predict_faces(model, picture, lambda image: []) == []
    (whole,) = predict_faces(model, picture, None)
    assert whole.face.box == (0, 0, *picture.size)
    with pytest.raises(InputError, match=r"gone\.png does not exist"):
        predict_faces(model, tmp_path / "gone.png", None)


def test_faces_come_from_left_to_right_and_degenerate_ones_are_left_out(checkpoint):
    model = load_model(checkpoint)
    picture, face = photo("Fear")
    right = face_at(face.landmarks + np.array([40, 0]))
    spot = face_at(np.zeros((5, 2)))
    found = predict_faces(model, picture, lambda image: [right, spot, face])
    assert [one.face for one in found] == [face, right]


def test_a_network_that_was_not_loaded_is_refused():
    with pytest.raises(InputError, match=r"this DAN does not say .* networks.load_model\(PATH\)"):
        predict_faces(DAN(7, 1), Image.new("RGB", (64, 64)), None)


def test_the_example_of_the_docs_runs(checkpoint, tmp_path, monkeypatch, capsys):
    text = (ROOT / "docs/predicting.md").read_text()
    example = re.search(r"## From Python.*?```python\n(.*?)```", text, re.DOTALL)[1]
    assert len([line for line in example.splitlines() if line]) == 10
    picture, face = photo("Surprise")
    picture.save(tmp_path / "photo.jpg")
    path = re.search(r'load_model\("(.+?)"\)', example)[1]
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_bytes(checkpoint.read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(detectors, "make_detector", lambda name: lambda image: [face])
    exec(compile(example, "docs/predicting.md", "exec"), {})
    printed = capsys.readouterr().out
    box = [round(side) for side in face.box]
    assert re.fullmatch(rf"({'|'.join(RAFDB.classes)}) \d+% {re.escape(str(box))}\n", printed)
    drawn = np.asarray(Image.open(tmp_path / "annotated.png"), dtype=int)
    changed = np.abs(drawn - np.asarray(Image.open(tmp_path / "photo.jpg"), dtype=int)).max(axis=2)
    assert changed[box[1] + 5, box[0]] > 50  # the box's left side
    assert changed[:, : box[0] - 5].max() == 0
