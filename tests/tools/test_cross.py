"""tools.cross: every cell is what eval.py gives for the pair."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from datasets import FER2013
from datasets.ferplus import VOTE_COLUMNS
from networks import ResNet18
from results.cross import Pair, Target
from results.trained import read_trained
from tests.scripts.test_eval import OURS, evaluate, save, varied
from tests.support.scripts import CLASSES, SIZE, assert_refused, run_script, write_fer2013_csv
from tools import cross

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def checkpoints(data, tmp_path_factory) -> tuple[Path, Path]:
    """A network for RAF-DB and one for FER2013, with their data."""
    folder = tmp_path_factory.mktemp("cross")
    root = write_fer2013_csv(folder / "fer2013")
    settings = {"image_size": SIZE, "data": str(root)}
    fer2013 = {"dataset": "fer2013", "class_names": list(FER2013.classes), "settings": settings}
    rafdb = {**OURS, "settings": {**OURS["settings"], "data": str(data)}}
    paths = []
    for seed, (name, extra) in enumerate([("raf", rafdb), ("fer", fer2013)]):
        torch.manual_seed(seed)
        network = varied(ResNet18(CLASSES), data)
        paths.append(save(folder / f"{name}.pth", network, **extra))
    return tuple(paths)


def run(*arguments: object) -> None:
    always = ["--workers", 0, "--device", "cpu"]
    cross.main([str(word) for word in (*arguments, *always)])


def test_every_cell_is_that_of_eval(checkpoints, data, tmp_path, capsys):
    run(*checkpoints, "--json", tmp_path / "cross.json")
    shown = capsys.readouterr().out.splitlines()
    rows = json.loads((tmp_path / "cross.json").read_text())
    assert [(row["trained_on"], row["dataset"]) for row in rows] == [
        (source, target) for source in ("rafdb", "fer2013") for target in ("rafdb", "fer2013")
    ]
    fer2013 = checkpoints[0].parent / "fer2013"
    for row in rows:
        root = {"rafdb": data, "fer2013": fer2013}[row["dataset"]]
        expected = evaluate(Path(row["checkpoint"]), root, "--dataset", row["dataset"])
        for name in ("accuracy", "mean_class_accuracy", "images", "accuracy_interval_95"):
            assert row[name] == expected[name]
    cells = [
        f"{100 * row['accuracy']:.2f} / {100 * row['mean_class_accuracy']:.2f}"
        f"{'*' if row['own'] else ''}"
        for row in rows
    ]
    assert [row["own"] for row in rows] == [True, False, False, True]
    head, first, second = (line.split("  ") for line in shown[:3])
    assert [word.strip() for word in head if word][3:] == ["rafdb", "fer2013", "mean of the others"]
    others = [f"{100 * rows[i]['accuracy']:.2f}" for i in (1, 2)]
    assert [w.strip() for w in first if w][3:] == [*cells[:2], others[0]]
    assert [w.strip() for w in second if w][3:] == [*cells[2:], others[1]]
    assert shown[-3] == "Faces framed in different ways: fer2013 and rafdb."


def test_markdown_and_chosen_data_sets(checkpoints, data, tmp_path, capsys):
    root = checkpoints[0].parent / "fer2013"
    run(*checkpoints, "--on", f"fer2013:public={root}", "--markdown")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        "| trained on | network | checkpoint | fer2013 public | mean of the others |"
    )
    assert lines[3].endswith("* | - |")
    assert lines[2].count("|") == 6


def test_a_target_is_name_split_and_folder():
    assert Target.of("rafdb") == Target("rafdb", None, None)
    assert Target.of("fer2013:public=a/b=c") == Target("fer2013", "public", Path("a/b=c"))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--on", "cifar"), "'cifar' is no data set"),
        (("--on", "fer2013=nowhere"), "data folder nowhere does not exist"),
        (("--batch-size", 0), "--batch-size is 0; expected at least 1"),
    ],
)
def test_what_does_not_go_is_refused_in_one_line(checkpoints, tmp_path, flags, words):
    assert_refused(run_script("tools.cross", *checkpoints, *flags, cwd=tmp_path), words)


def test_classes_that_cannot_be_mapped_are_refused(checkpoints, data, tmp_path):
    extra = {"dataset": "pets", "class_names": ["cat", "dog"]}
    path = save(tmp_path / "pets.pth", ResNet18(2), **extra)
    result = run_script("tools.cross", path, "--on", f"rafdb={data}", cwd=tmp_path)
    assert_refused(result, "pets.pth on rafdb: the classes cannot be mapped", "cat, dog")


def test_the_data_of_training_is_known_by_its_faces(checkpoints, own_data):
    """RAF-DB's layout may hold synthetic faces."""
    rafdb, fer2013 = map(read_trained, checkpoints)
    pair = Pair.of(rafdb, Target("rafdb", "train", own_data))
    assert (pair.source, pair.target, pair.is_own) == ("rafdb", "rafdb train", True)
    (own_data / "demo.json").write_text("{}")
    pair = Pair.of(rafdb, Target("rafdb", None, own_data))
    assert (pair.source, pair.target, pair.is_own) == ("rafdb", "synthetic faces", False)
    assert Pair.of(fer2013, Target("rafdb", None, own_data)).source == "fer2013"


def test_the_same_images_with_other_labels_are_told(checkpoints, tmp_path, capsys):
    root = tmp_path / "fer2013"
    shutil.copytree(checkpoints[0].parent / "fer2013", root)
    votes = [f"PublicTest,{','.join('10' if i == k else '0' for k in range(10))}" for i in range(7)]
    rows = [f"Usage,{','.join(VOTE_COLUMNS)}"] + [f"Training,{'0,' * 9}10"] * 16 + votes
    rows += [f"PrivateTest,{'0,' * 9}10"] * 7
    (root / "fer2013new.csv").write_text("\n".join(rows) + "\n")
    run(checkpoints[1], "--on", f"ferplus:public={root}")
    shown = capsys.readouterr().out
    assert "The same images with other labels: fer2013 and ferplus." in shown
