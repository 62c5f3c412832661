"""Drawn faces: reproducible, in RAF-DB's layout, with true landmarks and expressions."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import InputError
from datasets import RAFDB, demo

ROOT = Path(__file__).resolve().parents[3]
LABELS = "EmoLabel/list_patition_label.txt"


def clean(units: dict, seed: int, *, size: int = 200) -> demo.DrawnFace:
    """An undegraded face with exactly these action units; the seed decides about all else."""
    rng = np.random.default_rng(seed)
    return demo.draw_face("Neutral", rng, size=size, degrade=False, action_units=units)


def luminance(face: demo.DrawnFace) -> np.ndarray:
    return np.asarray(face.image.convert("L"), dtype=float)


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("demo") / "raf-basic"
    demo.write_rafdb(root, train=40, test=14, seed=3, workers=2)
    return root


# ---- determinism


def test_a_face_is_a_function_of_its_generator():
    first, second = (demo.draw_face("Fear", np.random.default_rng([7, 1])) for _ in range(2))
    other = demo.draw_face("Fear", np.random.default_rng([7, 2]))
    assert first.image.tobytes() == second.image.tobytes()
    assert (first.landmarks == second.landmarks).all()
    assert first.jpeg_quality == second.jpeg_quality
    assert first.image.tobytes() != other.image.tobytes()


def test_the_files_do_not_depend_on_the_number_of_processes(drawn, tmp_path):
    demo.write_rafdb(tmp_path / "one", train=40, test=14, seed=3, workers=1)
    assert files(tmp_path / "one") == files(drawn)


def test_another_seed_draws_other_faces(drawn, tmp_path):
    demo.write_rafdb(tmp_path / "b", train=40, test=14, seed=4, workers=1)
    one, other = files(drawn), files(tmp_path / "b")
    images = [name for name in one if name.endswith(".jpg")]
    assert not [name for name in images if one[name] == other[name]]


def test_a_face_keeps_its_person_when_the_data_set_grows(drawn, tmp_path):
    demo.write_rafdb(tmp_path / "b", train=20, test=7, seed=3, workers=1)
    small, large = (
        np.loadtxt(root / "landmarks.csv", delimiter=",", skiprows=1, usecols=range(1, 7))
        for root in (tmp_path / "b", drawn)
    )
    # Eyes and nose hardly move with the expression (a new label may be drawn), but they differ by
    # many pixels between people and views.
    assert np.abs(small[:20] - large[:20]).max() < 3.5
    assert np.abs(small[:19] - large[1:20]).max() > 7


# ---- RAF-DB's layout


def test_label_list_and_files_are_those_of_rafdb(drawn):
    lines = (drawn / LABELS).read_text().splitlines()
    names = [f"train_{i:05d}.jpg" for i in range(1, 41)] + [
        f"test_{i:04d}.jpg" for i in range(1, 15)
    ]
    assert [line.split(" ")[0] for line in lines] == names
    assert {line.split(" ")[1] for line in lines} == set("1234567")
    found = sorted(p.name for p in (drawn / "Image" / "aligned").iterdir())
    assert found == sorted(name.replace(".jpg", "_aligned.jpg") for name in names)
    with Image.open(drawn / "Image" / "aligned" / "train_00001_aligned.jpg") as image:
        assert (image.format, image.size, image.mode) == ("JPEG", (100, 100), "RGB")


def test_the_label_in_the_list_is_the_expression_in_the_image(drawn):
    """Redraws some images from their listed label alone."""
    lines = (drawn / LABELS).read_text().splitlines()
    for index in (1, 17, 40):
        label = int(lines[index - 1].split()[1])
        expression = RAFDB.classes[label - 1]
        face = demo.draw_face(expression, np.random.default_rng([3, 0, index]))
        face.image.save(drawn.parent / "again.jpg", quality=face.jpeg_quality)
        stored = drawn / "Image" / "aligned" / f"train_{index:05d}_aligned.jpg"
        assert (drawn.parent / "again.jpg").read_bytes() == stored.read_bytes()


def test_landmarks_file_holds_the_drawn_landmarks(drawn):
    lines = (drawn / LABELS).read_text().splitlines()
    with (drawn / "landmarks.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row.pop("image") for row in rows] == [line.split()[0] for line in lines]
    assert list(rows[0]) == [
        "left_eye_x", "left_eye_y", "right_eye_x", "right_eye_y", "nose_x", "nose_y",
        "left_mouth_x", "left_mouth_y", "right_mouth_x", "right_mouth_y",
    ]  # fmt: skip
    expression = RAFDB.classes[int(lines[45].split()[1]) - 1]
    face = demo.draw_face(expression, np.random.default_rng([3, 1, 6]))  # the sixth test image
    np.testing.assert_allclose(
        [float(v) for v in rows[45].values()], face.landmarks.ravel(), atol=0.006
    )


def test_class_frequencies_follow_rafdb():
    whole = demo._shares(RAFDB.published_counts["train"][0], 12271)
    assert tuple(whole) == RAFDB.published_counts["train"][0]
    # By hand: 3000 / 12271 of each count is 315.38 68.70 175.29 1166.65 484.56 172.36 617.06;
    # the floors add up to 2997, and the three largest remainders are .70, .65 and .56.
    assert demo._shares(RAFDB.published_counts["train"][0], 3000).tolist() == [
        315, 69, 175, 1167, 485, 172, 617
    ]  # fmt: skip
    assert demo._shares(RAFDB.published_counts["test"][0], 7).tolist() == [1] * 7
    for count in (8, 20, 100):
        shares = demo._shares(RAFDB.published_counts["test"][0], count)
        assert shares.sum() == count
        assert shares.min() >= 1
    labels = demo._rafdb_labels("test", 1000, seed=0)
    assert Counter(labels.tolist())[4] == 386  # 1185 / 3068
    assert (np.diff(labels) != 0).mean() > 0.5  # shuffled, not sorted


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


def mouth_corner_height(face: demo.DrawnFace) -> float:
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


def test_contempt_is_one_sided():
    gaps = {"Contempt": [], "Happiness": []}
    for expression, found in gaps.items():
        for seed in range(20):
            units = demo.draw_face(expression, np.random.default_rng(seed)).action_units
            left, right = units["AU12"]
            found.append(abs(left - right) / max(left, right))
    assert min(gaps["Contempt"]) > 0.5 > max(gaps["Happiness"])


def test_nothing_but_the_face_depends_on_the_expression():
    """Same generator, other expression: same person, background and JPEG quality."""
    for seed in range(6):
        faces = [
            demo.draw_face(name, np.random.default_rng(seed), degrade=False)
            for name in demo.EXPRESSIONS
        ]
        assert len({face.jpeg_quality for face in faces}) == 1
        frames = np.stack([np.asarray(face.image, dtype=int) for face in faces])
        for part in (frames[:, :3], frames[:, :60, :4], frames[:, :60, -4:]):  # hair and background
            assert np.abs(part - part[:1]).max() <= 1  # the light's rounding


def test_camera_degrades_only_when_asked():
    sharp = demo.draw_face("Fear", np.random.default_rng(1), degrade=False)
    camera = demo.draw_face("Fear", np.random.default_rng(1))
    assert (sharp.landmarks == camera.landmarks).all()
    assert np.abs(np.asarray(sharp.image, int) - np.asarray(camera.image, int)).mean() > 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda rng: demo.draw_face("Joy", rng), "unknown expression 'Joy'.*Happiness"),
        (lambda rng: demo.draw_face("Fear", rng, size=31), "size is 31.*32"),
        (lambda rng: demo.draw_face("Fear", rng, action_units={"AU99": 1.0}), "AU99"),
        (lambda rng: demo.draw_face("Fear", rng, action_units={"AU1": 2.0}), "AU1 .*0..1"),
        (lambda rng: demo.draw_face("Fear", rng, zoom=0.0), "zoom is 0"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(InputError, match=message):
        call(np.random.default_rng(0))


# ---- what is on the disk already


def test_a_finished_drawing_is_left_alone(drawn, capsys):
    before = {p: p.stat().st_mtime_ns for p in drawn.rglob("*")}
    demo.write_rafdb(drawn, train=40, test=14, seed=3)
    assert {p: p.stat().st_mtime_ns for p in drawn.rglob("*")} == before
    assert "already holds" in capsys.readouterr().out


def test_another_drawing_or_foreign_files_are_not_touched(drawn, tmp_path):
    before = files(drawn)
    with pytest.raises(InputError, match=r"another drawing.*new or empty folder"):
        demo.write_rafdb(drawn, train=41, test=14, seed=3)
    assert files(drawn) == before
    (tmp_path / "photo.jpg").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"not drawn here.*new or empty folder"):
        demo.write_rafdb(tmp_path, train=7, test=7)
    assert files(tmp_path) == {"photo.jpg": b"mine"}


def test_an_interrupted_drawing_is_done_again(drawn, tmp_path, monkeypatch):
    root, save = tmp_path / "raf-basic", demo._write_rafdb_face

    def fail_at_test_images(root, seed, job):
        if job[0] == "test":
            raise KeyboardInterrupt
        return save(root, seed, job)

    monkeypatch.setattr(demo, "_write_rafdb_face", fail_at_test_images)
    with pytest.raises(KeyboardInterrupt):
        demo.write_rafdb(root, train=40, test=14, seed=3, workers=1)
    assert not (root / LABELS).exists()
    with pytest.raises(InputError):  # still protected against other settings
        demo.write_rafdb(root, train=40, test=14, seed=4)
    monkeypatch.undo()
    half = root / "Image" / "aligned" / "train_00005_aligned.jpg"
    half.write_bytes(half.read_bytes()[:100])
    demo.write_rafdb(root, train=40, test=14, seed=3, workers=1)
    assert files(root) == files(drawn)


def test_demo_json_says_what_was_drawn(drawn):
    about = json.loads((drawn / "demo.json").read_text())
    assert about["version"] == demo.VERSION
    assert (about["seed"], about["train"], about["test"]) == (3, 40, 14)


# ---- command line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rafdb", "{foreign}"], "not drawn here"),
        (["rafdb", "{new}", "--train", "6"], "6 images are too few"),
        (["rafdb", "{new}", "--seed", "-1"], "seed is -1"),
        (["rafdb", "{new}", "--workers", "0"], "workers is 0"),
        (["sheet", "{new}.png", "--per-class", "0"], "0 faces per class"),
        (["sheet", "{new}.png", "--size", "8"], "size is 8"),
        (["sheet", "{new}.nonsense", "--per-class", "1", "--size", "32"], "nonsense"),
    ],
)
def test_bad_input_is_one_line(arguments, message, tmp_path):
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "file").touch()
    places = {"foreign": foreign, "new": tmp_path / "new"}
    with pytest.raises(InputError, match=message):
        demo.main([argument.format(**places) for argument in arguments])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["foreign"]


@pytest.mark.parametrize(
    "arguments", [["rafdb", "x", "--faces", "9"], ["sheet", "x.png", "--siz", "40"], ["rafbd", "x"]]
)
def test_an_unknown_flag_is_one_line_without_the_usage(arguments, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "datasets.demo", *arguments],
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")
    assert "--help lists the flags" in done.stderr
    assert not list(tmp_path.iterdir())


def test_command_line_draws(tmp_path):
    """The commands as a user types them."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "datasets.demo", "rafdb", str(tmp_path / "raf")]
    options = ["--train", "7", "--test", "7", "--workers", "2"]
    subprocess.run([*command, *options], check=True, cwd=ROOT, env=environment)
    assert len((tmp_path / "raf" / LABELS).read_text().splitlines()) == 14
    demo.main(["sheet", str(tmp_path / "s.png"), "--per-class", "2", "--size", "40"])
    assert Image.open(tmp_path / "s.png").size == (80 + 2 * 40, 8 * 40)


def test_drawing_needs_no_torch():
    """Drawing processes start quickly: neither torch nor torchvision is loaded."""
    code = "import datasets.demo, sys; sys.exit(bool({'torch', 'torchvision'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
