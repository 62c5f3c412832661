"""Turned heads and their yaw; pictures with masks and clean pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import InputError
from datasets import RAFDB
from datasets.alignment import TEMPLATE, transform_points, yaw_of
from datasets.demo import EXPRESSIONS, draw_face, write_feratt, write_rafdb
from datasets.demo.feratt import photographed, random_place
from datasets.demo.view import turned
from datasets.targets import FaceTargets, ellipse_mask, known_yaws

pytestmark = pytest.mark.filterwarnings("ignore:.*published are")


def face(seed: int, turn: float, size: int = 64):
    rng = np.random.default_rng(seed)
    return draw_face(EXPRESSIONS[seed % 7], rng, size=size, degrade=False, turn=turn)


def landmarks(root: Path) -> np.ndarray:
    """Those of landmarks.csv, (N, 5, 2)."""
    table = np.loadtxt(root / "landmarks.csv", delimiter=",", skiprows=1, usecols=range(1, 11))
    return table.reshape(-1, 5, 2)


def test_points_of_a_turned_head_are_those_of_a_ball():
    """An ellipsoid as deep as wide, by hand; x is -0.6 and 0.3 of its half width there."""
    half = 1.15 * np.sqrt(1 - (0.75 / 1.6) ** 2)
    points = np.array([(-0.6 * half, 1.0), (0.3 * half, 1.0), (0.9 * half, 1.0), (1.3, 1.0)])
    found = turned(points, np.deg2rad(30)) / half
    cos, sin = np.sqrt(3) / 2, 0.5
    assert found[0] == pytest.approx(-0.6 * cos + 0.8 * sin)
    assert found[1] == pytest.approx(0.3 * cos + np.sqrt(1 - 0.09) * sin)
    assert found[2] == pytest.approx(1)  # turned away: on the edge
    assert found[3] * half == pytest.approx(1.3)  # beside the head
    np.testing.assert_allclose(turned(points * (-1, 1), -np.deg2rad(30)) / half, -found)


def test_a_turn_is_the_yaw_but_for_the_usual_few_degrees():
    for seed in range(12):
        at_rest = face(seed, 0).yaw
        assert abs(at_rest) <= 10.1
        assert face(seed, 50).yaw == pytest.approx(at_rest + 50)
        assert face(seed, -50).yaw == pytest.approx(at_rest - 50)
    with pytest.raises(InputError, match=r"turn is 91.*-90 to 90"):
        face(0, 91)


def test_the_yaw_of_five_points_is_near_the_truth():
    turns = np.random.default_rng(0).uniform(-80, 80, 60)
    faces = [face(seed, turn, size=32) for seed, turn in enumerate(turns)]
    truth = np.array([face.yaw for face in faces])
    found = np.array([yaw_of(face.landmarks) for face in faces])
    near = np.abs(truth) < 45
    assert np.abs(found - truth)[near].mean() < 4
    assert np.abs(found - truth)[~near].mean() < 15
    assert (np.sign(found) == np.sign(truth))[np.abs(truth) > 10].all()


def test_the_yaw_of_five_points_ignores_turn_scale_and_shift_and_is_mirrored():
    nose = np.array([(0, 0), (0, 0), (1, 0), (0, 0), (0, 0)])
    points = TEMPLATE + 0.05 * nose
    expected = np.rad2deg(np.arcsin(0.05 / (0.5 * 0.36)))
    assert yaw_of(points) == pytest.approx(expected)
    place = random_place(np.random.default_rng(1), 200)
    assert yaw_of(transform_points(place, points)) == pytest.approx(expected)
    mirrored = ((1, 0) + points * (-1, 1))[[1, 0, 2, 4, 3]]
    assert yaw_of(mirrored) == pytest.approx(-expected)
    assert yaw_of(TEMPLATE + 9 * nose) == 90
    with pytest.raises(InputError, match="on the same spot"):
        yaw_of(np.zeros((5, 2)))


def test_an_ellipse_covers_most_of_an_aligned_face():
    shares = []
    for seed in range(20):
        truth = np.asarray(face(seed, 0, size=100).mask) > 127
        ellipse = np.asarray(ellipse_mask((100, 100))) > 127
        shares.append((truth & ellipse).sum() / (truth | ellipse).sum())
    assert np.mean(shares) > 0.8


def test_poses_csv_has_the_yaw_of_every_image(tmp_path):
    write_rafdb(tmp_path / "turned", train=14, test=7, turn=60, workers=1)
    write_rafdb(tmp_path / "front", train=14, test=7, workers=1)
    assert not (tmp_path / "front/poses.csv").exists()
    dataset = RAFDB(tmp_path / "turned", "train")
    yaws = known_yaws(dataset).numpy()
    assert np.abs(yaws).max() > 30
    found = np.array([yaw_of(five) for five in landmarks(tmp_path / "turned")[:14]])
    assert np.abs(found - yaws).max() < 25
    assert dataset.labels == RAFDB(tmp_path / "front", "train").labels
    with pytest.raises(InputError, match="other synthetic faces"):
        write_rafdb(tmp_path / "turned", train=14, test=7, workers=1)
    with pytest.raises(InputError, match=r"turn is 100.*0 to 90"):
        write_rafdb(tmp_path / "x", turn=100)


def test_pictures_have_the_face_under_the_mask(tmp_path):
    write_feratt(tmp_path / "feratt", train=14, test=7, size=64, workers=1)
    dataset = RAFDB(tmp_path / "feratt", "train")
    add = FaceTargets(dataset)
    points = landmarks(tmp_path / "feratt")
    for index in range(14):
        image = dataset.read_image(index)
        targets = add(index, image)
        mask = np.asarray(targets["mask"])
        assert image.size == targets["mask"].size == targets["clean"].size == (64, 64)
        assert 0.1 < (mask > 127).mean() < 0.8
        seen = points[index][((points[index] >= 0) & (points[index] < 64)).all(axis=1)].astype(int)
        assert (mask[seen[:, 1], seen[:, 0]] > 127).all()
        for picture in (image, targets["clean"]):
            pixels = np.asarray(picture)
            assert (pixels == pixels[..., :1]).all()  # grey
    with pytest.raises(InputError, match="size is 8 pixels"):
        write_feratt(tmp_path / "x", size=8)
    with pytest.raises(InputError, match=r"move is 2; expected 0 .* to 1"):
        write_feratt(tmp_path / "x", move=2)


def test_faces_are_moved_as_far_as_is_asked():
    ends = []
    for move in (0, 0.5, 1):
        places = [random_place(np.random.default_rng(seed), 100, move) for seed in range(200)]
        scales = np.array([np.hypot(*place[:, 0]) for place in places])
        turns = np.rad2deg([np.arctan2(place[1, 0], place[0, 0]) for place in places])
        middles = np.array([transform_points(place, np.full((1, 2), 50.0))[0] for place in places])
        ends.append([abs(scales - 1).max(), abs(turns).max(), abs(middles - 50).max()])
    assert ends[0] == pytest.approx([0, 0, 0], abs=1e-9)
    assert ends[1] == pytest.approx([value / 2 for value in ends[2]])
    assert ends[2] == pytest.approx([0.2, 45, 30], rel=0.05)


def test_a_dark_face_before_a_bright_wall_is_lit_up():
    clean, mask = Image.new("L", (60, 60), 200), Image.new("L", (60, 60))
    clean.paste(100, (20, 20, 40, 40))
    mask.paste(255, (20, 20, 40, 40))
    ratios = []
    for seed in range(20):
        pixels = np.asarray(photographed(clean, mask, np.random.default_rng(seed)), dtype=float)
        ratios.append(pixels[28:32, 28:32].mean() / pixels[:5, :5].mean())
    # 1.5 times as bright is 150 of 200; contrast and gamma change that a little.
    assert np.mean(ratios) == pytest.approx(0.75, abs=0.06)
