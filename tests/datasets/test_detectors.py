"""Detectors: what they are asked and what they answer; the real ones where they are installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import InputError
from datasets import detectors
from datasets.alignment import TEMPLATE, Face, align_photo, choose_face
from datasets.detectors import DETECTORS, make_detector
from tests.support.layouts import grey

SHARED = Path(__file__).resolve().parents[3] / "shared/weights"
WEIGHTS = {
    "yunet": SHARED / "face_detection_yunet_2023mar.onnx",
    "retinaface": SHARED / "retinaface_mobilenet0.25.pth",
    "mtcnn": None,
}
PACKAGES = {"yunet": "cv2", "retinaface": "batch_face", "mtcnn": "facenet_pytorch"}


def test_faces_in_large_pictures_are_given_in_their_pixels(monkeypatch):
    """The detector sees a copy of at most MAX_SIDE; faces below `min_score` are not given."""
    seen = []

    def find(images: Sequence[Image.Image]) -> list[list[Face]]:
        (size,) = {image.size for image in images}
        seen.append(size)
        points = np.array([size] * 5, dtype=float)
        box = (0.0, 0.0, *map(float, size))
        return [[Face(box, score, points) for score in (0.9, 0.4)] for _ in images]

    monkeypatch.setattr(detectors, "_mtcnn", lambda device: find)
    for size, small in (((3200, 1000), (1600, 500)), ((300, 200), (300, 200))):
        (found,) = make_detector("mtcnn")(Image.new("RGB", size))
        assert seen.pop() == small
        assert found.box == (0, 0, *size)
        assert found.landmarks.tolist() == [list(size)] * 5
    assert len(make_detector("mtcnn", min_score=0.3)(Image.new("RGB", (50, 50)))) == 2


def test_several_pictures_are_given_by_size_and_answered_in_their_order(monkeypatch):
    asked = []

    def find(images: Sequence[Image.Image]) -> list[list[Face]]:
        asked.append(len(images))
        # The picture's grey level is the face's left side.
        levels = [float(image.getpixel((0, 0))[0]) for image in images]
        return [[Face((x, 0.0, x + 1, 1.0), 0.9, np.zeros((5, 2)))] for x in levels]

    monkeypatch.setattr(detectors, "_mtcnn", lambda device: find)
    pictures = [grey(1), grey(2, (9, 5)), grey(3), grey(4), grey(5, (9, 5))]
    found = make_detector("mtcnn").batch(pictures)
    assert [face.box[0] for (face,) in found] == [1, 2, 3, 4, 5]
    assert asked == [3, 2]
    assert make_detector("mtcnn").batch([]) == []


def test_an_unknown_detector_and_mtcnn_with_weights_are_refused(tmp_path):
    with pytest.raises(InputError, match="expected one of yunet, retinaface, mtcnn"):
        make_detector("haar")
    with pytest.raises(InputError, match="mtcnn includes its weights"):
        make_detector("mtcnn", weights=tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [
        ("yunet", "cv2", "predict"),
        ("retinaface", "batch_face", "align"),
        ("mtcnn", "facenet_pytorch", "align"),
    ],
)
def test_without_the_package_the_message_says_what_to_install(name, module, extra, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda one, *rest: None if one == module else found(one, *rest)
    )
    with pytest.raises(InputError, match=f"not installed; pip install -r requirements-{extra}.txt"):
        make_detector(name)


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("device", ["cuda:99", "cuda:x", "meta", "gpu"])
def test_a_device_that_is_not_there_is_one_line(name, device):
    """Before the package is asked, whose own message would be a traceback."""
    with pytest.raises(
        InputError, match=f"^--device (cuda:99 is not available|is '{device}'; exp)"
    ):
        make_detector(name, device=device)


def real_detector(name: str):
    """A detector with its weights, or a skip that says what is missing."""
    package, weights = PACKAGES[name], WEIGHTS[name]
    pytest.importorskip(package, reason=f"{package} ({detectors.INSTALL[name]}) is not installed")
    if weights is not None and not weights.is_file():
        pytest.skip(f"{weights.name} is not in ../shared/weights")
    return make_detector(name, weights=weights)


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("angle", [-30, 0, 30])
def test_a_photograph_comes_out_upright(name, angle):
    """The same detector on the crop finds the eyes level and in place, within a few pixels."""
    data = pytest.importorskip("skimage.data", reason="scikit-image has the photograph")
    detector = real_detector(name)
    photo = Image.fromarray(data.astronaut()).rotate(angle, Image.Resampling.BICUBIC)
    crop, found = align_photo(photo, detector)
    assert found.score > 0.9
    again = choose_face(detector(crop), crop)
    eyes = again.landmarks[:2]
    assert np.abs(eyes - TEMPLATE[:2] * 224).max() < 10
    slope = np.rad2deg(np.arctan2(*(eyes[1] - eyes[0])[::-1]))
    assert abs(slope) < 3.5


@pytest.mark.parametrize("name", DETECTORS)
def test_no_face_no_crop(name):
    detector = real_detector(name)
    assert align_photo(Image.new("RGB", (200, 150), "gray"), detector) is None
    assert align_photo(Image.new("RGB", (12, 12), "gray"), detector) is None
