"""Faces in pictures get the probabilities that the network gives to the same faces on their own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from common.errors import InputError
from datasets.alignment import Face
from datasets.transforms import evaluation
from inference import FacePredictor
from results.trained import read_trained
from tests.support.patches import IMAGE_SIZE, face_of, find_patches, patch, save_checkpoint, scene

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("weights") / "last.pth")


@pytest.fixture(scope="module")
def trained(checkpoint):
    return read_trained(checkpoint)


def expected(trained, faces, temperature=1.0) -> np.ndarray:
    images = torch.stack([evaluation(IMAGE_SIZE)(face) for face in faces])
    with torch.inference_mode():
        logits = trained.network.eval()(images).logits
    return torch.softmax(logits / temperature, dim=1).numpy()


def test_every_face_of_every_picture_from_left_to_right(trained):
    faces = [patch(seed) for seed in range(5)]
    pictures = [
        scene([(faces[1], (250, 20)), (faces[0], (10, 60))]),
        scene([]),
        scene([(faces[2], (0, 0))], size=(100, 140)),  # another size, at the border
        scene([(faces[3], (100, 50)), (faces[4], (300, 100))]),
    ]
    predictor = FacePredictor(trained, find_patches, CPU, batch_size=2)
    found = predictor(pictures)
    assert [len(one) for one in found] == [2, 0, 1, 2]
    flat = [face for one in found for face in one]
    assert [face.face.box[:2] for face in flat] == [
        (10, 60),
        (250, 20),
        (0, 0),
        (100, 50),
        (300, 100),
    ]
    wanted = expected(trained, faces)
    for face, shares in zip(flat, wanted, strict=True):
        assert face.probabilities == pytest.approx(shares, abs=2e-3)  # resampled by a rounding
        assert face.expression == trained.class_names()[shares.argmax()]
        assert face.probability == face.probabilities.max()
    assert (predictor.pictures, predictor.faces) == (4, 5)
    assert set(predictor.seconds) == {"detection", "alignment", "network"}


def test_without_a_detector_every_picture_is_a_face(trained):
    faces = [patch(7), patch(8, side=48)]
    found = FacePredictor(trained, None, CPU)(faces)
    shares = np.array([face.probabilities for (face,) in found])
    assert shares == pytest.approx(expected(trained, faces), abs=1e-5)
    assert [face.face.box for (face,) in found] == [(0, 0, 100, 100), (0, 0, 48, 48)]


def test_one_face_can_be_chosen(trained):
    picture = scene([(patch(1, 60), (10, 10)), (patch(2, 90), (200, 10))])
    (chosen,) = FacePredictor(trained, find_patches, CPU, choose="size")([picture])[0]
    assert chosen.face.box == (200, 10, 290, 100)


def test_a_face_whose_points_lie_on_one_spot_is_none(trained):
    spot = Face((3.0, 3.0, 6.0, 6.0), 0.9, np.full((5, 2), 4.0))
    good = face_of((20, 20, 23, 23))  # three pixels
    found = FacePredictor(trained, lambda pictures: [[spot, good]], CPU)([scene([])])
    assert [face.face for face in found[0]] == [good]


def test_the_checkpoint_s_temperature_calibrates(tmp_path, trained):
    hot = read_trained(save_checkpoint(tmp_path / "hot.pth", temperature=3.0))
    faces = [patch(3), patch(4)]
    found = FacePredictor(hot, None, CPU)(faces)
    shares = np.array([face.probabilities for (face,) in found])
    assert shares == pytest.approx(expected(trained, faces, temperature=3.0), abs=1e-5)
    with pytest.raises(InputError, match="temperature is 0"):
        read_trained(save_checkpoint(tmp_path / "cold.pth", temperature=0))


def test_weights_that_give_no_numbers_are_refused(trained):
    broken = read_trained(trained.path)
    broken.network.fc.bias.data.fill_(float("inf"))
    with pytest.raises(InputError, match="not finite"):
        FacePredictor(broken, None, CPU)([patch(1)])
