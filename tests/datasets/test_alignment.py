"""Alignment: the transform on faces with known landmarks, the crop, which face is taken."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from common.errors import InputError
from datasets.alignment import (
    MAX_STRETCH,
    TEMPLATE,
    Face,
    align,
    align_photo,
    choose_face,
    eyes_transform,
    five_points_transform,
    transform_points,
)
from datasets.demo import EXPRESSIONS, draw_face, face_in_frame


def similarity(angle: float, scale: float, shift: tuple[float, float]) -> np.ndarray:
    """(2, 3), turning by `angle` degrees."""
    cos, sin = scale * np.cos(np.deg2rad(angle)), scale * np.sin(np.deg2rad(angle))
    return np.array([[cos, -sin, shift[0]], [sin, cos, shift[1]]])


def turned_face(yaw: float) -> np.ndarray:
    """The template's face, its width squeezed as if turned by `yaw` degrees."""
    return TEMPLATE * 100 * (np.cos(np.deg2rad(yaw)), 1)


# ---- the transform


@pytest.mark.parametrize("fit", [eyes_transform, five_points_transform])
@pytest.mark.parametrize("angle", [-170, -30, 0, 12, 30, 90])
@pytest.mark.parametrize("scale", [0.05, 1, 7])
def test_a_moved_template_is_brought_back(fit, angle, scale):
    moved = transform_points(similarity(angle, scale, (50, -300)), TEMPLATE * 100)
    transform = fit(moved, 224)
    np.testing.assert_allclose(transform_points(transform, moved), TEMPLATE * 224, atol=1e-6)
    # A similarity: both rows equally long and at a right angle, not mirrored.
    turn = transform[:, :2]
    np.testing.assert_allclose(turn @ turn.T, np.linalg.det(turn) * np.eye(2), atol=1e-9)
    assert np.linalg.det(turn) > 0


@pytest.mark.parametrize("seed", range(20))
def test_faces_in_frames_get_their_eyes_on_the_template(seed):
    """Turned by up to 30 degrees, scaled, shifted: the eyes land within half a pixel."""
    rng = np.random.default_rng(seed)
    face = draw_face(EXPRESSIONS[seed % len(EXPRESSIONS)], rng, size=100)
    frame, landmarks = face_in_frame(face, rng)
    assert frame.size == (720, 576)
    eyes = transform_points(eyes_transform(landmarks, 224), landmarks)[:2]
    assert np.abs(eyes - TEMPLATE[:2] * 224).max() < 0.5


def spot_frame(landmarks: np.ndarray, width: float) -> Image.Image:
    """A black picture with a soft white spot of that standard deviation on each of the points."""
    y, x = np.mgrid[:576, :720] + 0.5
    values = sum(
        np.exp(-((x - left) ** 2 + (y - top) ** 2) / (2 * width**2)) for left, top in landmarks
    )
    return Image.fromarray((255 * values).clip(0, 255).round().astype(np.uint8)).convert("RGB")


def centroid(crop: Image.Image, near: np.ndarray, reach: int = 14) -> np.ndarray:
    """The centre of what is bright around a point, pixels."""
    values = np.asarray(crop.convert("L"), float)
    y, x = np.mgrid[: crop.height, : crop.width] + 0.5
    values = values * (np.hypot(x - near[0], y - near[1]) < reach)
    return np.array([(values * x).sum(), (values * y).sum()]) / values.sum()


@pytest.mark.parametrize("angle", [-30, 0, 30])
@pytest.mark.parametrize("scale", [0.6, 1, 2, 4.5])
@pytest.mark.parametrize("fit", ["eyes", "five"])
def test_the_picture_goes_where_its_points_go(angle, scale, fit):
    """Pixels, not only coordinates: spots on the landmarks end up on the template."""
    middle = similarity(angle, scale, (0, 0))[:, :2] @ (50, 57)
    landmarks = transform_points(similarity(angle, scale, (360, 288) - middle), TEMPLATE * 100)
    crop = align(spot_frame(landmarks, 2.5 * scale), landmarks, fit=fit)
    assert crop.size == (224, 224)
    for point in TEMPLATE * 224:
        assert np.abs(centroid(crop, point) - point).max() < 0.1


def test_shrinking_averages():
    """Stripes one pixel wide, shrunk eightfold, are gray instead of a moire pattern."""
    values = np.zeros((1800, 1800, 3), np.uint8)
    values[:, ::2] = 255
    landmarks = transform_points(similarity(5, 1, (0, 0)), TEMPLATE * 1790)
    crop = np.asarray(align(Image.fromarray(values), landmarks, size=224), float)
    assert crop[60:160, 60:160].std() < 8
    assert crop[60:160, 60:160].mean() == pytest.approx(127, abs=3)


def test_a_face_in_profile_is_not_blown_up():
    """From the yaw on at which the eyes would stretch it too far, the height decides."""
    for yaw in (0, 20, 40):
        points = turned_face(yaw)
        eyes = transform_points(eyes_transform(points, 224), points)[:2]
        np.testing.assert_allclose(eyes, TEMPLATE[:2] * 224, atol=1e-6)
    points = turned_face(80)
    placed = transform_points(eyes_transform(points, 224), points)
    template = TEMPLATE * 224
    height = placed[3:].mean(0)[1] - placed[:2].mean(0)[1]
    assert height == pytest.approx(MAX_STRETCH * (template[3, 1] - template[0, 1]))
    np.testing.assert_allclose(placed[:2].mean(0), template[:2].mean(0))
    assert placed[0, 1] == pytest.approx(placed[1, 1])


def test_five_points_is_the_least_squares_solution():
    """Against a general solver on [a, b, shift] of x' = a x - b y + s, y' = b x + a y + t."""
    points = TEMPLATE * 90 + np.random.default_rng(0).normal(0, 4, (5, 2))
    rows, values = [], []
    for (x, y), (u, v) in zip(points, TEMPLATE * 224, strict=True):
        rows += [(x, -y, 1, 0), (y, x, 0, 1)]
        values += [u, v]
    a, b, s, t = np.linalg.lstsq(np.array(rows), np.array(values), rcond=None)[0]
    expected = [[a, -b, s], [b, a, t]]
    np.testing.assert_allclose(five_points_transform(points, 224), expected, atol=1e-8)


@pytest.mark.parametrize(
    ("landmarks", "words"),
    [
        (np.zeros((5, 2)), "same spot"),
        (np.full((5, 2), np.nan), "not finite"),
        (np.zeros((4, 2)), r"shape \(4, 2\)"),
    ],
)
@pytest.mark.parametrize("fit", ["eyes", "five"])
def test_landmarks_that_are_no_face_are_refused(landmarks, words, fit):
    with pytest.raises(InputError, match=words):
        align(Image.new("RGB", (50, 50)), landmarks, fit=fit)


# ---- which face


def face(left: float, top: float, side: float, score: float) -> Face:
    landmarks = TEMPLATE * side + (left, top)
    return Face((left, top, left + side, top + side), score, landmarks)


def test_the_face_is_chosen_as_asked():
    picture = Image.new("RGB", (200, 100))
    large, sure, middle = face(0, 0, 60, 0.6), face(150, 0, 20, 0.99), face(85, 35, 40, 0.9)
    faces = [sure, large, middle]
    product = max(faces, key=lambda one: one.size * one.score)
    assert choose_face(faces, picture) is product is large
    assert choose_face(faces, picture, "size") is large
    assert choose_face(faces, picture, "score") is sure
    assert choose_face(faces, picture, "center") is middle
    assert choose_face([], picture) is None
    # Size alone and size times score differ for a large, doubtful face.
    doubtful = face(0, 0, 60, 0.3)
    assert choose_face([doubtful, middle], picture) is middle
    assert choose_face([doubtful, middle], picture, "size") is doubtful


def test_one_photo_from_python():
    def detector(image: Image.Image) -> list[Face]:
        return [face(10, 10, 80, 0.9)] if image.width > 50 else []

    photo = draw_face("Happiness", np.random.default_rng(0), size=100).image
    crop, found = align_photo(photo, detector, size=64)
    assert found.score == 0.9
    assert crop.tobytes() == align(photo, found.landmarks, size=64).tobytes()
    assert align_photo(photo.resize((40, 40)), detector) is None
