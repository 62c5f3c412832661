"""What all writers promise: the same files from the same seed, and nothing overwritten."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from common.errors import InputError
from datasets import RAFDB
from datasets.demo import (
    VERSION,
    write_affectnet,
    write_feratt,
    write_rafdb,
    write_sfew,
    writing,
)
from datasets.demo.writing import Plan, shares
from tests.support.scripts import snapshot

# Each with the name of its evaluated split and the file that it writes last.
WRITERS = {
    "rafdb": (write_rafdb, "test", "EmoLabel/list_patition_label.txt"),
    "feratt": (write_feratt, "test", "EmoLabel/list_patition_label.txt"),
    "affectnet": (write_affectnet, "val", "landmarks.csv"),
    "sfew": (write_sfew, "val", "landmarks.csv"),
}

pytestmark = pytest.mark.slow


@pytest.fixture(params=WRITERS)
def layout(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def write(layout: str) -> Callable[..., None]:
    """A writer, of eight training and eight evaluated faces if not asked otherwise."""
    writer, split, _ = WRITERS[layout]

    def write(root: Path, *, train: int = 8, workers: int = 1, **options: int) -> None:
        writer(root, train=train, **{split: 8}, workers=workers, **options)

    return write


def test_the_seed_decides_and_not_the_number_of_processes(write, tmp_path):
    write(tmp_path / "a", seed=1)
    write(tmp_path / "b", seed=1, workers=2)
    write(tmp_path / "c", seed=2)
    first, other = snapshot(tmp_path / "a"), snapshot(tmp_path / "c")
    assert snapshot(tmp_path / "b") == first
    # Other seeds may keep a label, so the same name; its face is another.
    images = {name for name in first if name.endswith((".jpg", ".png"))}
    assert len(images) in (16, 48)  # with masks and clean pictures
    assert all(other.get(name) != first[name] for name in images)


def test_a_face_keeps_its_person_when_the_data_set_grows(faces, tmp_path):
    write_rafdb(tmp_path / "b", train=20, test=7, seed=3, workers=1)
    small, large = (
        np.loadtxt(root / "landmarks.csv", delimiter=",", skiprows=1, usecols=range(1, 7))
        for root in (tmp_path / "b", faces)
    )
    # Eyes and nose hardly move with the expression (the label may be another), but they differ by
    # many pixels between people and views.
    assert np.abs(small[:20] - large[:20]).max() < 3.5
    assert np.abs(small[:19] - large[1:20]).max() > 7


def test_class_frequencies_follow_rafdb():
    whole = shares(RAFDB.published_counts["train"][0], 12271)
    assert tuple(whole) == RAFDB.published_counts["train"][0]
    # By hand: 3000 / 12271 of each count is 315.38 68.70 175.29 1166.65 484.56 172.36 617.06;
    # the floors add up to 2997, and the three largest remainders are .70, .65 and .56.
    assert shares(RAFDB.published_counts["train"][0], 3000).tolist() == [
        315, 69, 175, 1167, 485, 172, 617
    ]  # fmt: skip
    assert shares(RAFDB.published_counts["test"][0], 7).tolist() == [1] * 7
    for count in (8, 20, 100):
        found = shares(RAFDB.published_counts["test"][0], count)
        assert found.sum() == count
        assert found.min() >= 1
    plan = Plan(Path("x"), "rafdb", RAFDB.classes, {"train": 7, "test": 1000}, 0, 1)
    jobs = plan.jobs({split: counts[0] for split, counts in RAFDB.published_counts.items()})
    assert [job.number for job in jobs] == [*range(1, 8), *range(1, 1001)]
    labels = [job.label for job in jobs if job.split == "test"]
    assert Counter(labels)[3] == 386  # 1185 / 3068
    assert (np.diff(labels) != 0).mean() > 0.5  # shuffled, not sorted


# ---- what is on the disk already


def test_finished_faces_are_left_alone(write, tmp_path, capsys):
    write(tmp_path, seed=3)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    write(tmp_path, seed=3, workers=2)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before
    assert "already holds these 16 faces, seed 3" in capsys.readouterr().out


def test_other_faces_and_foreign_files_are_not_touched(write, tmp_path):
    root, foreign = tmp_path / "faces", tmp_path / "foreign"
    write(root)
    before = snapshot(root)
    for change in ({"train": 9}, {"seed": 1}):
        with pytest.raises(InputError, match=r"other synthetic faces .*new or empty folder"):
            write(root, **change)
    assert snapshot(root) == before
    foreign.mkdir()
    (foreign / "photo.jpg").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"files of something else; give a new or empty folder"):
        write(foreign)
    assert snapshot(foreign) == {"photo.jpg": b"mine"}


def test_interrupted_faces_are_drawn_again(layout, write, tmp_path, monkeypatch):
    write(tmp_path / "whole")
    root, draw_face, drawn = tmp_path / "faces", writing.draw_face, []

    def interrupted(*args, **options):
        drawn.append(args)
        if len(drawn) == 10:
            raise KeyboardInterrupt
        return draw_face(*args, **options)

    monkeypatch.setattr(writing, "draw_face", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(root)
    monkeypatch.undo()
    assert not (root / WRITERS[layout][2]).exists()
    with pytest.raises(InputError, match="other synthetic faces"):
        write(root, seed=4)
    half = next(path for path in sorted(root.rglob("*")) if path.suffix in (".jpg", ".png"))
    half.write_bytes(half.read_bytes()[:100])
    write(root)
    assert snapshot(root) == snapshot(tmp_path / "whole")


def test_demo_json_says_which_faces_these_are(faces):
    assert json.loads((faces / "demo.json").read_text()) == {
        "drawn_by": "datasets.demo",
        "layout": "rafdb",
        "version": VERSION,
        "seed": 3,
        "train": 40,
        "test": 14,
    }


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"train": 3}, "3 images are too few for a split; expected at least [78]"),
        ({"seed": -1}, "seed is -1; expected 0 or more"),
        ({"workers": 0}, "workers is 0; expected 1 or more"),
    ],
)
def test_bad_arguments_write_nothing(options, words, write, tmp_path):
    with pytest.raises(InputError, match=words):
        write(tmp_path / "x", **options)
    assert not (tmp_path / "x").exists()
