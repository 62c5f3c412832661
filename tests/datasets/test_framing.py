"""A face is framed as the data set's images: where its points lie, how sharp, grey or in colour."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from common.errors import InputError
from datasets import DATASETS, FER2013, AffectNet8, Framing
from datasets.alignment import TEMPLATE, Face
from tests.support.layouts import picture, write_csv
from tests.support.patches import face_of, patch, scene


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def test_a_face_at_the_template_is_cut_out_pixel_by_pixel():
    face = patch(1)
    crop = Framing().crop(scene([(face, (37, 51))]), face_of((37, 51, 137, 151)))
    assert crop.size == (100, 100)
    assert np.abs(pixels(crop) - pixels(face)).max() <= 1


@pytest.mark.parametrize("name", ["fer2013", "ferplus"])
def test_fer2013_is_grey_and_of_48_pixels_with_its_own_points(name):
    framing = DATASETS[name].framing
    assert (framing.size, framing.grey, framing.fit) == (48, True, "five")
    # A spot of light at each point of a turned face lies at the template's in the crop.
    points = 48 * np.array(framing.template)
    angle, scale = np.deg2rad(25), 5.0
    turn = scale * np.array([(np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))])
    there = (points - 24) @ turn.T + 150
    photo = Image.new("RGB", (300, 300))
    for x, y in there:
        photo.paste((255, 40, 0), (round(x) - 4, round(y) - 4, round(x) + 4, round(y) + 4))
    crop = framing.crop(photo, Face((80, 70, 200, 230), 1.0, there))
    assert crop.size == (48, 48)
    channels = pixels(crop)
    assert (channels == channels[..., :1]).all()
    areas, count = ndimage.label(channels[..., 0] > 30)
    spots = np.array(ndimage.center_of_mass(areas > 0, areas, range(1, count + 1)))[:, ::-1] + 0.5
    assert count == 5
    for point in points:
        assert np.hypot(*(spots - point).T).min() < 0.7


def test_affectnet_is_the_squared_box_with_its_margin_and_black_beyond_the_picture():
    photo = picture(3, (60, 80))
    face = Face((10.0, 20.0, 30.0, 60.0), 1.0, np.full((5, 2), np.nan))
    crop = Framing(template=None, size=40).crop(photo, face)
    assert np.array_equal(pixels(crop), pixels(photo.crop((0, 20, 40, 60))))
    wide = Framing(template=None, size=80, margin=0.5).crop(photo, face)
    expected = np.zeros((80, 80, 3), int)
    expected[:, 20:] = pixels(photo)[:, :60]
    assert np.array_equal(pixels(wide), expected)


def test_a_box_without_area_and_points_on_one_spot_are_refused():
    photo = Image.new("RGB", (20, 20))
    nowhere = Face((5.0, 5.0, 5.0, 5.0), 1.0, np.full((5, 2), 5.0))
    with pytest.raises(InputError, match="has no area"):
        Framing(template=None).crop(photo, nowhere)
    with pytest.raises(InputError, match="same spot"):
        Framing().crop(photo, nowhere)
    assert Framing().crop(photo, face_of((5, 5, 8, 8))).size == (100, 100)  # three pixels


@pytest.mark.parametrize("name", list(DATASETS))
def test_what_a_checkpoint_stores_is_read_back(name):
    framing = DATASETS[name].framing
    content = framing.as_dict()
    assert Framing.from_dict(content) == framing
    del content["fit"]  # as in checkpoints from before there was one
    assert Framing.from_dict(content).fit == "eyes"


@pytest.mark.filterwarnings("ignore:.*published are")
def test_the_margin_of_affectnets_box_is_that_of_its_crops(tmp_path):
    dataset = AffectNet8(write_csv(tmp_path), "train", box_margin=0.25)
    assert dataset.description()["framing"]["margin"] == 0.25
    assert AffectNet8.framing.margin == 0


@pytest.mark.parametrize(
    "change",
    [
        {"template": [[0, 0]]},
        {"template": "eyes"},
        {"template": [[float("nan"), 0]] * 5},
        {"size": 0},
        {"size": "large"},
        {"margin": -1.0},
        {"grey": None, "size": None},
        {"fit": "nose"},
    ],
)
def test_another_framing_is_refused(change):
    with pytest.raises(InputError, match="the framing"):
        Framing.from_dict({**FER2013.framing.as_dict(), **change})


def test_the_paper_s_template_is_the_default():
    assert np.array_equal(Framing().template, TEMPLATE)
