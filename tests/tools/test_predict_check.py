"""The check of predict.py: faces lie where it says, and what it counts."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from common.errors import InputError
from datasets import RAFDB
from datasets.detectors import FaceDetector
from engine.data import chosen_images
from inference.faces import PredictedFace
from results.trained import read_trained
from tests.support.patches import face_of, save_checkpoint
from tests.support.scripts import write_rafdb
from tools import predict_check
from tools.predict_check import Pasted, face_there, paste

pytestmark = pytest.mark.filterwarnings("ignore:.*published are")


@pytest.mark.parametrize("turn", [0, 40])
def test_a_face_is_pasted_around_its_center(turn):
    rng = np.random.default_rng(0)
    for _ in range(5):
        picture, center, side = paste(Image.new("RGB", (48, 48), (255, 0, 255)), rng, turn)
        assert picture.size == predict_check.PICTURE
        inside = np.asarray(
            picture.crop([*(center - side / 4), *(center + side / 4)]).resize((8, 8))
        )
        assert (inside[..., 0] > 180).all()
        assert (inside[..., 1] < 20).all()
        assert 64 <= side <= 240


def test_only_a_face_near_the_pasted_one_counts():
    def found(left: float, top: float) -> PredictedFace:
        face = face_of((left, top, left + 100, top + 100))
        return PredictedFace(face, Image.new("RGB", (8, 8)), np.array([1.0]), ("a",))

    pasted = Pasted(Image.new("RGB", (300, 300)), np.array([150.0, 150.0]), 100)
    near, nearer, far = found(120, 100), found(105, 100), found(126, 100)
    assert face_there([far], pasted) is None
    assert face_there([near, nearer, far], pasted) is nearer


def test_found_and_right_faces_are_counted(tmp_path, monkeypatch, capsys):
    """The detector finds every second face, and one more that is none in each picture."""
    truth = []

    def remembered(*arguments) -> Pasted:
        truth.append(paste(*arguments))
        return truth[-1]

    def find(pictures):
        found = []
        for place, picture in enumerate(pictures):
            (one,) = [known for known in truth if known.picture is picture]
            box = (*(one.center - one.side / 2), *(one.center + one.side / 2))
            corner = face_of((-300.0, -300.0, -200.0, -200.0))
            found.append([corner, face_of(box)] if place % 2 == 0 else [corner])
        return found

    monkeypatch.setattr(predict_check, "paste", remembered)
    detector = FaceDetector("half", find, 0.5)
    monkeypatch.setattr(detector, "batch", find)
    monkeypatch.setattr(predict_check, "make_detector", lambda *_, **__: detector)
    data = write_rafdb(tmp_path / "data")
    given = [str(save_checkpoint(tmp_path / "w.pth")), "--data", str(data)]
    predict_check.main([*given, "--faces", "10", "--turn", "0", "--device", "cpu"])
    printed = capsys.readouterr().out
    assert "rafdb test, detector half: 5 of 10 faces found (50.0%), 10 elsewhere" in printed
    assert "accuracy on those found" in printed
    monkeypatch.setattr(detector, "batch", lambda pictures: [[] for _ in pictures])
    with pytest.raises(InputError, match="no face was found"):
        predict_check.main([*given, "--faces", "3", "--device", "cpu"])


def test_of_the_training_faces_those_that_the_run_held_out(tmp_path):
    data = write_rafdb(tmp_path / "data")
    dataset = RAFDB(data, "train")
    chosen, held_out = chosen_images(dataset.labels, holdout=0.25, limit=0)
    settings = {"image_size": 32, "holdout": 0.25}
    path = save_checkpoint(tmp_path / "w.pth", settings=settings, training_images=len(chosen))
    trained = read_trained(path)
    assert predict_check.faces_of(trained, dataset).tolist() == held_out
    test = RAFDB(data, "test")
    assert predict_check.faces_of(trained, test).tolist() == list(range(len(test)))
    whole = read_trained(save_checkpoint(tmp_path / "whole.pth"))
    assert len(predict_check.faces_of(whole, dataset)) == len(dataset)


def test_bad_flags_are_refused(tmp_path):
    with pytest.raises(InputError, match="expected --faces from 1"):
        predict_check.main([str(tmp_path / "w.pth"), "--faces", "0"])
