"""Each corruption against a number: its level is what its unit says, and it grows with severity."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from common.batch import Sample
from common.errors import InputError
from datasets.corruptions import (
    CORRUPTIONS,
    SEVERITIES,
    CorruptedImages,
    chosen_corruptions,
    corrupt,
)
from datasets.demo.face import draw_face

HARDEST = SEVERITIES[-1]
LEVELS = [(name, s, CORRUPTIONS[name].levels[s - 1]) for name in CORRUPTIONS for s in SEVERITIES]
GEOMETRY = ("rotation", "shift", "scale")


def levels_of(*names: str) -> list:
    return [(name, s, level) for name, s, level in LEVELS if name in names]


def flat(value: int = 128, side: int = 64) -> Image.Image:
    return Image.fromarray(np.full((side, side, 3), value, np.uint8))


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=np.float64)


def psnr(one: Image.Image, other: Image.Image) -> float:
    """Peak signal-to-noise ratio, dB."""
    return 10 * np.log10(255**2 / np.square(pixels(one) - pixels(other)).mean())


# ---- all of them


@cache
def face(side: int) -> Image.Image:
    """A synthetic face; a smaller one is the larger one reduced."""
    image = draw_face("Happiness", np.random.default_rng(3), size=224).image
    return image.resize((side, side), Image.Resampling.BILINEAR)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_picture_corrupted_twice_is_the_same_to_the_byte(name):
    for severity in SEVERITIES:
        one, again = (corrupt(face(48), name, severity, seed=5) for _ in range(2))
        assert one.tobytes() == again.tobytes()
        assert (one.mode, one.size) == ("RGB", (48, 48))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_severity_is_further_from_the_picture(name):
    """For every size; turned, moved pictures are far from the start."""
    for side in (48, 100, 224):
        found = [psnr(face(side), corrupt(face(side), name, s, seed=1)) for s in SEVERITIES]
        assert all(a > b + 0.2 for a, b in pairwise(found)), found
        assert found[0] < 45
        assert found[-1] > 6


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_large_and_small_pictures_of_a_face_are_corrupted_alike(name):
    """A large picture corrupted and reduced is a small one corrupted, but for resampling.

    Held to the difference that the corruption makes.
    """
    for severity in SEVERITIES:
        large = corrupt(face(224), name, severity, seed=2).resize((48, 48), Image.BILINEAR)
        small = corrupt(face(48), name, severity, seed=2)
        apart = np.abs(pixels(large) - pixels(small)).mean()
        made = np.abs(pixels(small) - pixels(face(48))).mean()
        assert apart < max(0.4 * made, 2.5), (severity, apart, made)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_what_is_random_depends_on_the_image(name):
    """The fixed ones do not."""
    fixed = {"defocus", "zoom-blur", "jpeg", "pixelation", "quantisation", "low-contrast"}
    fixed |= {"overexposure", "underexposure"}
    made = {corrupt(face(48), name, HARDEST, seed=seed).tobytes() for seed in range(8)}
    assert len(made) == 1 if name in fixed else len(made) > 1


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_grey_stays_grey_and_shapes_stay(name):
    grey = face(48).convert("L").convert("RGB").crop((0, 0, 48, 40))
    made = corrupt(grey, name, HARDEST, seed=0)
    assert made.size == (48, 40)
    values = pixels(made)
    assert (values == values[..., :1]).all()
    assert values.std() > 1


# ---- noise; a flat picture of as many pixels as cells


@pytest.mark.parametrize(("name", "severity", "level"), levels_of("gaussian-noise"))
def test_gaussian_noise_has_its_deviation(name, severity, level):
    noise = np.concatenate(
        [pixels(corrupt(face_of(128, s), name, severity, seed=s)) for s in range(8)]
    )
    inside = noise[(noise > 0) & (noise < 255)]
    assert noise.mean() == pytest.approx(128, abs=1.5)
    # The share within one deviation is not touched by the ends.
    assert (np.abs(noise - 128) < 255 * level).mean() == pytest.approx(0.6827, abs=0.02)
    assert len(inside) > 0.9 * noise.size


def face_of(value: int, _seed: int) -> Image.Image:
    """Flat and not grey, so that each channel has its noise."""
    values = np.full((64, 64, 3), value, np.uint8)
    values[0, 0, 0] = value + 1
    return Image.fromarray(values)


@pytest.mark.parametrize(("name", "severity", "level"), levels_of("shot-noise"))
def test_shot_noise_has_the_deviation_of_as_many_photons(name, severity, level):
    for value in (30, 120):
        made = [pixels(corrupt(flat(value), name, severity, seed=s)) for s in range(8)]
        expected = 255 * np.sqrt(value / 255 / level)
        within = (np.abs(np.array(made) - value) < expected).mean()
        assert within == pytest.approx(0.6827, abs=0.025) or expected > value


@pytest.mark.parametrize(("name", "severity", "level"), levels_of("impulse-noise"))
def test_impulse_noise_is_black_and_white_on_its_share(name, severity, level):
    made = np.array([pixels(corrupt(flat(), name, severity, seed=s))[..., 0] for s in range(8)])
    for value in (0, 255):
        assert (made == value).mean() == pytest.approx(level / 2, rel=0.15)
    assert ((made == 0) | (made == 255) | (made == 128)).all()


# ---- blur; an edge or a point becomes as wide as the level says


@pytest.mark.parametrize(("name", "severity", "level"), levels_of("defocus"))
def test_a_point_out_of_focus_is_a_disc(name, severity, level):
    values = np.zeros((201, 201, 3), np.uint8)
    values[90:111, 90:111] = 255  # 21 pixels, for there to be light enough
    made = pixels(corrupt(Image.fromarray(values), name, severity, seed=0))[..., 0]
    spread = np.square(np.arange(201) - 100) @ made.sum(axis=0) / made.sum()
    before = (21**2 - 1) / 12
    # A disc of radius r has the variance r^2 / 4 along each axis.
    assert spread - before == pytest.approx((201 * level) ** 2 / 4, rel=0.1)


@pytest.mark.parametrize(("name", "severity", "level"), levels_of("motion-blur"))
def test_motion_spreads_light_by_its_length(name, severity, level):
    values = np.zeros((201, 201, 3), np.uint8)
    values[90:111, 90:111] = 255
    made = pixels(corrupt(Image.fromarray(values), name, severity, seed=0))[..., 0]
    offsets = np.square(np.arange(201) - 100)
    spread = (offsets @ made.sum(axis=0) + offsets @ made.sum(axis=1)) / made.sum()
    # A path of length L has the variance L^2 / 12, here over both axes together.
    assert spread - 2 * (21**2 - 1) / 12 == pytest.approx((201 * level) ** 2 / 12, abs=0.4)


@pytest.mark.parametrize(("name", "severity", "level"), levels_of("zoom-blur"))
def test_zooming_moves_what_is_off_the_centre_outwards(name, severity, level):
    values = np.zeros((200, 200, 3), np.uint8)
    values[90:110, 150:154] = 255  # 52 pixels right of the centre
    made = pixels(corrupt(Image.fromarray(values), name, severity, seed=0))[100, :, 0]
    lit = np.flatnonzero(made > 1) - 99.5
    assert lit[0] == pytest.approx(50.5, abs=2)
    assert lit[-1] == pytest.approx(53.5 * (1 + level), abs=2)


# ---- compression


@pytest.mark.parametrize(("name", "severity", "level"), levels_of("pixelation"))
def test_pixelation_leaves_so_many_cells(name, severity, level):
    made = pixels(corrupt(face(4 * level), name, severity, seed=0))
    changes = (np.diff(made, axis=1) != 0).any(axis=(0, 2)).sum()
    assert changes == level - 1


@pytest.mark.parametrize(("name", "severity", "level"), levels_of("quantisation"))
def test_quantisation_leaves_so_many_levels(name, severity, level):
    ramp = np.tile(np.arange(256, dtype=np.uint8)[:, None, None], (1, 256, 3))
    made = corrupt(Image.fromarray(ramp), name, severity, seed=0)
    assert len(np.unique(pixels(made))) == level


@pytest.mark.parametrize(("name", "severity", "level"), levels_of("jpeg"))
def test_jpeg_is_that_of_the_library_at_its_own_size(name, severity, level, tmp_path):
    face(96).save(tmp_path / "x.jpg", quality=level)
    with Image.open(tmp_path / "x.jpg") as expected:
        made = corrupt(face(96), name, severity, seed=0)
        assert np.abs(pixels(made) - pixels(expected)).max() <= 1


# ---- light


@pytest.mark.parametrize(
    ("name", "severity", "level"), levels_of("overexposure", "underexposure", "low-contrast")
)
def test_light_is_multiplied(name, severity, level):
    ramp = np.tile(np.arange(256, dtype=np.uint8)[:, None, None], (1, 256, 3))
    made = pixels(corrupt(Image.fromarray(ramp), name, severity, seed=0))[:, 0, 0]
    x = np.arange(256)
    expected = {
        "overexposure": x * 2**level,
        "underexposure": x / 2**level,
        "low-contrast": 127.5 + level * (x - 127.5),
    }
    assert np.abs(made - expected[name].clip(0, 255)).max() <= 0.51


@pytest.mark.parametrize(("name", "severity", "level"), levels_of("side-light"))
def test_light_falls_to_its_rest_on_one_side(name, severity, level):
    made = pixels(corrupt(flat(200), name, severity, seed=3))
    assert made.max() == pytest.approx(200, abs=1)
    assert made.min() == pytest.approx(200 * (1 - level), abs=1)


# ---- weather


@pytest.mark.parametrize(("name", "severity", "level"), levels_of("fog"))
def test_fog_covers_as_much_as_its_density(name, severity, level):
    made = [pixels(corrupt(flat(0), name, severity, seed=s)) for s in range(8)]
    share = np.array(made) / (0.8 * 255)
    assert share.mean() == pytest.approx(level, rel=0.1)
    assert share.min() >= level * 2 / 3 - 0.01
    assert share.max() <= min(1, level * 4 / 3) + 0.01


@pytest.mark.parametrize("name", ["rain", "snow"])
def test_more_drops_cover_more_and_the_first_stay(name):
    covered = [pixels(corrupt(flat(0, 128), name, s, seed=1))[..., 0] > 90 for s in SEVERITIES]
    shares = [part.mean() for part in covered]
    assert shares[0] > 0.01
    assert shares == sorted(shares)
    assert 0.05 < shares[-1] < 0.35
    for fewer, more in pairwise(covered):
        assert more[fewer].mean() > 0.97


# ---- geometry; where points of the picture go


@pytest.mark.parametrize(("name", "severity", "level"), levels_of("rotation", "shift", "scale"))
def test_points_go_where_the_level_says(name, severity, level):
    side, away = 200, 40
    moved = {}
    for place, (x, y) in {"centre": (100, 100), "right": (100 + away, 100)}.items():
        values = np.zeros((side, side, 3), np.uint8)
        values[y - 3 : y + 3, x - 3 : x + 3] = 255
        made = pixels(corrupt(Image.fromarray(values), name, severity, seed=4))[..., 0]
        middle = np.arange(side) + 0.5
        moved[place] = np.array([made.sum(axis=i) @ middle for i in (0, 1)]) / made.sum()
    arm = moved["right"] - moved["centre"]
    way = np.hypot(*(moved["centre"] - 100))
    if name == "rotation":
        assert abs(np.degrees(np.arctan2(arm[1], arm[0]))) == pytest.approx(level, abs=0.5)
    factor = np.hypot(*arm) / away
    assert max(factor, 1 / factor) == pytest.approx(level if name == "scale" else 1, rel=0.01)
    assert way == pytest.approx(side * level if name == "shift" else 0, abs=0.5)


def test_both_directions_occur():
    """Faces turn to either side, and get larger and smaller."""
    for name in ("rotation", "scale"):
        made = {corrupt(face(48), name, 3, seed=seed).tobytes() for seed in range(8)}
        assert len(made) == 2


# ---- which, and how they are given to a network


class Faces:
    """A data set of three faces."""

    labels = (4, 0, 2)

    def read_image(self, index: int) -> Image.Image:
        return face(48 + index)

    def sample(self, index: int, image: Image.Image) -> Sample:
        return Sample(image, self.labels[index], {})


def test_items_are_every_corruption_and_severity_of_the_chosen_images():
    images = CorruptedImages(Faces(), [2, 0], ["fog", "rotation"])
    assert len(images) == 2 * 5 * 2
    assert images.labels == [2, 4] * 10
    item = (1 * 5 + 3) * 2 + 0  # rotation, severity 4, image 2
    expected = corrupt(face(50), "rotation", 4, seed=2)
    assert images[item].image.tobytes() == expected.tobytes()
    assert images[item].label == 2


def test_names_and_families_choose():
    assert chosen_corruptions([]) == list(CORRUPTIONS)
    assert chosen_corruptions(["jpeg", "geometry"]) == ["jpeg", *GEOMETRY]
    families = {kind.family for kind in CORRUPTIONS.values()}
    assert families == {"noise", "blur", "compression", "light", "weather", "geometry"}
    with pytest.raises(InputError, match="no corruption 'frost'; expected of gaussian-noise, "):
        chosen_corruptions(["frost"])
