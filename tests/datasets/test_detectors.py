"""Detectors: what they are asked and what they answer; the real ones where they are installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import InputError
from datasets import detectors
from datasets.alignment import TEMPLATE, Face, align_photo, choose_face
from datasets.detectors import make_detector

RETINAFACE = Path(__file__).resolve().parents[3] / "shared/weights/retinaface_mobilenet0.25.pth"


def test_faces_in_large_pictures_are_given_in_their_pixels(monkeypatch):
    """The detector sees a copy of at most MAX_SIDE; faces below `min_score` are not given."""
    seen = []

    def find(image: Image.Image) -> list[Face]:
        seen.append(image.size)
        points = np.array([image.size] * 5, dtype=float)
        return [Face((0.0, 0.0, *map(float, image.size)), score, points) for score in (0.9, 0.4)]

    monkeypatch.setattr(detectors, "_mtcnn", lambda device: find)
    for size, small in (((3200, 1000), (1600, 500)), ((300, 200), (300, 200))):
        (found,) = make_detector("mtcnn")(Image.new("RGB", size))
        assert seen.pop() == small
        assert found.box == (0, 0, *size)
        assert found.landmarks.tolist() == [list(size)] * 5
    assert len(make_detector("mtcnn", min_score=0.3)(Image.new("RGB", (50, 50)))) == 2


def test_an_unknown_detector_and_mtcnn_with_weights_are_refused(tmp_path):
    with pytest.raises(InputError, match="expected one of retinaface, mtcnn"):
        make_detector("haar")
    with pytest.raises(InputError, match="mtcnn brings its own weights"):
        make_detector("mtcnn", weights=tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("name", "module"), [("retinaface", "batch_face"), ("mtcnn", "facenet_pytorch")]
)
def test_without_the_package_the_message_says_what_to_install(name, module, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda one, *rest: None if one == module else found(one, *rest)
    )
    with pytest.raises(
        InputError, match=r"pip install -r requirements-align.txt, or .*--landmarks"
    ):
        make_detector(name)


@pytest.mark.parametrize("name", ["retinaface", "mtcnn"])
@pytest.mark.parametrize("device", ["cuda:99", "cuda:x", "meta", "gpu"])
def test_a_device_that_is_not_there_is_one_line(name, device):
    """Before the package is asked, whose own message would be a traceback."""
    with pytest.raises(
        InputError, match=f"^--device (cuda:99 is not available|is '{device}'; exp)"
    ):
        make_detector(name, device=device)


def real_detector(name: str):
    """A detector with its weights, or a skip that says what is missing."""
    package = {"retinaface": "batch_face", "mtcnn": "facenet_pytorch"}[name]
    pytest.importorskip(package, reason=f"{package} (requirements-align.txt) is not installed")
    if name == "mtcnn":
        return make_detector(name)
    if not RETINAFACE.is_file():
        pytest.skip(f"{RETINAFACE.name} is not in ../shared/weights")
    return make_detector(name, weights=RETINAFACE)


@pytest.mark.parametrize("name", ["retinaface", "mtcnn"])
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


@pytest.mark.parametrize("name", ["retinaface", "mtcnn"])
def test_no_face_no_crop(name):
    detector = real_detector(name)
    assert align_photo(Image.new("RGB", (200, 150), "gray"), detector) is None
    assert align_photo(Image.new("RGB", (12, 12), "gray"), detector) is None
