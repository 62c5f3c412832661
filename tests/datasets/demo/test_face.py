"""Synthetic faces: reproducible, with true landmarks and expressions."""

from __future__ import annotations

import numpy as np
import pytest

from common.errors import InputError
from datasets.demo import EXPRESSIONS, SyntheticFace, draw_face


def clean(units: dict, seed: int, *, size: int = 200) -> SyntheticFace:
    """An undegraded face with exactly these action units; the seed decides about all else."""
    rng = np.random.default_rng(seed)
    return draw_face("Neutral", rng, size=size, degrade=False, action_units=units)


def luminance(face: SyntheticFace) -> np.ndarray:
    return np.asarray(face.image.convert("L"), dtype=float)


def test_a_face_is_a_function_of_its_generator():
    first, second = (draw_face("Fear", np.random.default_rng([7, 1])) for _ in range(2))
    other = draw_face("Fear", np.random.default_rng([7, 2]))
    assert first.image.tobytes() == second.image.tobytes()
    assert (first.landmarks == second.landmarks).all()
    assert first.jpeg_quality == second.jpeg_quality
    assert first.image.tobytes() != other.image.tobytes()


def test_nothing_but_the_face_depends_on_the_expression():
    """Same generator, other expression: same person, background and JPEG quality."""
    for seed in range(6):
        faces = [
            draw_face(name, np.random.default_rng(seed), degrade=False) for name in EXPRESSIONS
        ]
        assert len({face.jpeg_quality for face in faces}) == 1
        frames = np.stack([np.asarray(face.image, dtype=int) for face in faces])
        for part in (frames[:, :3], frames[:, :60, :4], frames[:, :60, -4:]):  # hair and background
            assert np.abs(part - part[:1]).max() <= 1  # the light's rounding


def test_the_camera_degrades_only_when_asked():
    sharp = draw_face("Fear", np.random.default_rng(1), degrade=False)
    camera = draw_face("Fear", np.random.default_rng(1))
    assert (sharp.landmarks == camera.landmarks).all()
    assert np.abs(np.asarray(sharp.image, int) - np.asarray(camera.image, int)).mean() > 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda rng: draw_face("Joy", rng), "unknown expression 'Joy'.*Happiness"),
        (lambda rng: draw_face("Fear", rng, size=31), "size is 31.*32"),
        (lambda rng: draw_face("Fear", rng, action_units={"AU99": 1.0}), "AU99"),
        (lambda rng: draw_face("Fear", rng, action_units={"AU1": 2.0}), "AU1 .*0..1"),
        (lambda rng: draw_face("Fear", rng, zoom=0.0), "zoom is 0"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(InputError, match=message):
        call(np.random.default_rng(0))


# ---- truth of the landmarks


def test_pupils_are_the_darkest_spots_around_the_eye_landmarks():
    misses = []
    for seed in range(25):
        face = clean({"AU5": 0.5}, seed)
        image, reach = luminance(face), 7
        for x, y in face.landmarks[:2] - 0.5:
            left, top = round(x) - reach, round(y) - reach
            patch = image[top : top + 2 * reach + 1, left : left + 2 * reach + 1]
            dark = np.argwhere(patch <= np.quantile(patch, 0.06)).mean(axis=0)
            misses.append(np.hypot(dark[1] + left - x, dark[0] + top - y))
    # A pupil has a diameter of about 6 of the 200 pixels.
    assert np.median(misses) < 1.5
    assert np.quantile(misses, 0.9) < 3.5


def test_mouth_corners_bound_the_mouth():
    """An open mouth changes pixels between its corners and hardly any beyond them."""
    for seed in range(12):
        shut, opened = (clean({"AU25": v}, seed) for v in (0.0, 1.0))
        change = np.abs(luminance(shut) - luminance(opened))
        (left, y_left), (right, y_right) = opened.landmarks[3:]
        y = int((y_left + y_right) / 2)
        columns = change[y - 16 : y + 24].max(axis=0)
        changed = np.flatnonzero(columns > 25)
        assert abs(changed[0] - left) < 9
        assert abs(changed[-1] - right) < 9
        assert changed[0] > left - 2.5
        assert changed[-1] < right + 2.5


def test_landmarks_scale_with_the_image():
    small, large = (clean({"AU12": 1.0}, 5, size=size) for size in (64, 192))
    np.testing.assert_allclose(3 * small.landmarks, large.landmarks, atol=1e-9)
    # And the image does too: shrunk to the same size, the two are the same picture.
    shrunk = np.asarray(large.image.resize((64, 64)), dtype=float)
    assert np.abs(shrunk - np.asarray(small.image, dtype=float)).mean() < 4


def test_landmarks_are_ordered_and_follow_the_pose():
    tilts = []
    for seed in range(40):
        points = clean({}, seed).landmarks
        assert points[0, 0] < points[2, 0] < points[1, 0]
        assert points[3, 0] < points[4, 0]
        assert points[:2, 1].max() < points[2, 1] < points[3:, 1].min()
        eyes, mouth = points[1] - points[0], points[4] - points[3]
        tilts.append([np.arctan2(v[1], v[0]) for v in (eyes, mouth)])
    tilts = np.rad2deg(tilts)
    assert 2 < tilts[:, 0].std() < 6  # in-plane rotation of a few degrees
    assert np.corrcoef(tilts.T)[0, 1] > 0.9  # and of the face as a whole


# ---- truth of the expressions


def mouth_corner_height(face: SyntheticFace) -> float:
    """Mean height of the mouth corners above the nose tip's level, in eye distances (negative)."""
    eyes = np.hypot(*(face.landmarks[1] - face.landmarks[0]))
    return (face.landmarks[2, 1] - face.landmarks[3:, 1].mean()) / eyes


def test_action_units_move_the_mouth_corners():
    def mean(measure, units):
        return np.mean([measure(clean(units, seed)) for seed in range(10)])

    def width(face):
        return np.hypot(*(face.landmarks[4] - face.landmarks[3]))

    rest = mean(mouth_corner_height, {})
    assert mean(mouth_corner_height, {"AU12": 1.0}) > rest + 0.10
    assert mean(mouth_corner_height, {"AU15": 1.0}) < rest - 0.08
    assert mean(width, {"AU20": 1.0}) > 1.15 * mean(width, {})


def test_jaw_drop_opens_the_mouth():
    """In the middle of the mouth, the dark part grows with AU26: the jaw moves 23 of 200 pixels."""
    heights = []
    for intensity in (0.0, 0.5, 1.0):
        dark = []
        for seed in range(12):
            face = clean({"AU26": intensity}, seed)
            x, y = face.landmarks[3:].mean(axis=0).astype(int)
            nose_y = int(face.landmarks[2, 1])
            column = luminance(face)[nose_y + 14 : y + 45, x - 1 : x + 2].mean(axis=1)
            bridge = luminance(face)[nose_y - 25 : nose_y - 10, x - 2 : x + 3].mean()
            dark.append((column < 0.5 * bridge).sum())
        heights.append(np.mean(dark))
    assert heights[1] > heights[0] + 4
    assert heights[2] > heights[1] + 4


def test_brow_and_lid_units_show_where_they_act():
    """Between two faces that differ in one unit, the pixels change around that muscle only."""
    for units, rows in (({"AU2": 1.0}, (-0.75, -0.15)), ({"AU5": 1.0}, (-0.25, 0.2))):
        for seed in range(6):
            before, after = clean({}, seed), clean(units, seed)
            change = np.abs(luminance(before) - luminance(after)).sum(axis=1)
            eye, unit = before.landmarks[:2, 1].mean(), 0.335 * 200
            top, bottom = (int(eye + unit * row) for row in rows)
            assert change[top:bottom].sum() > 0.85 * change.sum()
