"""What the paper's figures are drawn from: comparable runs, images, a finished evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from common.errors import InputError
from results.figures import heads_lines, heads_panels, image_files, read_confusion
from results.runs import read_runs
from tests.support.run_folders import write_run


@pytest.fixture
def runs(tmp_path) -> Path:
    """One head with one seed, four heads with three, and two runs that are not comparable."""
    root = tmp_path / "runs"
    for heads, seed, scores in (
        (1, 0, [0.5, 0.4]),
        (4, 0, [0.5, 0.6]),
        (4, 1, [0.5, 0.7]),
        (4, 2, [0.9, 0.5]),
    ):
        write_run(root / f"{heads}-{seed}", "fer2013", scores, heads=heads, seed=seed)
    write_run(root / "none", "fer2013", [0.1, 0.1], heads=1, fcn_loss="none")
    write_run(root / "lr", "fer2013", [0.2, 0.2], heads=1, lr=0.5)
    return root


def test_figure_5_compares_runs_that_differ_in_heads_and_seed_alone(runs):
    finished, _ = read_runs(runs)
    panels = heads_panels(finished)
    (series,) = panels.values()
    last, best = series.values()
    assert last == {1: [0.4], 4: [0.6, 0.7, 0.5]}
    assert best == {1: [0.5], 4: [0.6, 0.7, 0.9]}
    assert "1 head 40.00 (seeds: 1), 4 heads 60.00 ± 10.00 (seeds: 3)" in heads_lines(panels)[1]


def test_two_protocols_are_two_panels_with_names_of_their_own(runs):
    write_run(runs / "lr-4", "fer2013", [0.3, 0.3], heads=4, lr=0.5)
    panels = heads_panels(read_runs(runs)[0])
    assert len(panels) == 2
    (own,) = [series for title, series in panels.items() if "--lr 0.5" in title]
    assert own["last epoch"] == {1: [0.2], 4: [0.3]}


def test_runs_that_cannot_be_compared_are_refused(tmp_path):
    write_run(tmp_path / "one", "fer2013", [0.5], heads=2)
    finished, _ = read_runs(tmp_path)
    with pytest.raises(InputError, match="finished runs: 1, but no two that differ"):
        heads_panels(finished)


def test_images_are_the_given_files_and_those_in_given_folders(data, tmp_path):
    faces = data / "Image/aligned"
    assert image_files([faces], 3) == sorted(faces.iterdir())[:3]
    one = faces / "test_0002_aligned.jpg"
    (tmp_path / "notes.txt").write_text("no image")
    assert image_files([one, tmp_path, faces], 2) == [one, sorted(faces.iterdir())[0]]
    with pytest.raises(InputError, match="no image there"):
        image_files([tmp_path], 2)
    with pytest.raises(InputError, match="nowhere does not exist"):
        image_files([tmp_path / "nowhere"], 2)


NAMES = {"checkpoint": "runs/x/last.pth", "dataset": "y", "split": "z"}


def test_a_confusion_matrix_is_read_with_its_names(tmp_path):
    matrix = {"confusion_matrix": [[0.75, 0.25], [0, 1]], "classes": ["a", "b"]}
    (tmp_path / "n.json").write_text(json.dumps({**NAMES, **matrix}))
    expected = ([[0.75, 0.25], [0.0, 1.0]], ["a", "b"], "last.pth on y z")
    assert read_confusion(tmp_path / "n.json") == expected


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        json.dumps(NAMES),
        json.dumps({**NAMES, "confusion_matrix": "x", "classes": ["a"]}),
        json.dumps({**NAMES, "confusion_matrix": [[1, 2]], "classes": ["a", "b"]}),
        json.dumps({**NAMES, "confusion_matrix": [[3, 0], [0, 4]], "classes": ["a", "b"]}),
        json.dumps({**NAMES, "confusion_matrix": [[float("nan")]], "classes": ["a"]}),
        json.dumps({**NAMES, "confusion_matrix": [[1, 0], [1]], "classes": ["a", "b"]}),
    ],
    ids=["broken", "list", "empty", "text", "shape", "counts", "nan", "ragged"],
)
def test_other_json_is_refused(content, tmp_path):
    (tmp_path / "n.json").write_text(content)
    with pytest.raises(InputError, match=r"eval\.py --json writes") as error:
        read_confusion(tmp_path / "n.json")
    assert str(tmp_path / "n.json") in str(error.value)


def test_a_missing_json_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"n\.json cannot be read: No such file"):
        read_confusion(tmp_path / "n.json")
