"""tools.compare: its numbers against loops over the images, what it writes, what it refuses."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from common.errors import InputError
from datasets import RAFDB, transforms
from engine.folds import fold_checksum, fold_images
from networks import ResNet18
from results.paired import holm, paired_comparison
from results.trained import read_trained
from tests.support.networks import varied
from tests.support.scripts import (
    CLASSES,
    SIZE,
    assert_refused,
    load,
    read_metrics,
    run_script,
    train_tiny,
    write_fer2013_csv,
    write_labelled,
    write_rafdb,
)
from tools import compare
from train_rafdb import RECIPE

SEEDS = {"one": (0, 1, 2), "other": (3, 4)}


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> Path:
    return write_rafdb(tmp_path_factory.mktemp("faces") / "raf-basic", train=7, test=60)


@pytest.fixture(scope="module")
def runs(faces, tmp_path_factory) -> Path:
    """Folders of runs of two methods, of three and of two seeds."""
    folder = tmp_path_factory.mktemp("runs")
    for method, seeds in SEEDS.items():
        for seed in seeds:
            write_network(folder / f"{method}-seed{seed}", faces, seed, lr=len(seeds))
    return folder


def write_network(run: Path, faces: Path, seed: int, **settings: object) -> Path:
    """last.pth of a finished run of one epoch."""
    torch.manual_seed(seed)
    network = varied(ResNet18(CLASSES), faces)
    run.mkdir(parents=True, exist_ok=True)
    content = {
        "iter": 1,
        "model_state_dict": network.state_dict(),
        "dataset": "rafdb",
        "class_names": list(RAFDB.classes),
        "settings": {"seed": seed, "epochs": 1, "image_size": SIZE, **settings},
    }
    torch.save(content, run / "last.pth")
    return run


def change(source: Path, target: Path, **entries: object) -> Path:
    """A copy of a checkpoint with other entries; those of `settings` are added."""
    content = load(source / "last.pth")
    settings = {**content["settings"], **entries.pop("settings", {})}
    target.mkdir(parents=True, exist_ok=True)
    torch.save({**content, "settings": settings, **entries}, target / "last.pth")
    return target


def run(faces: Path | None, *words: object) -> None:
    data = [] if faces is None else ["--data", faces]
    compare.main([str(word) for word in (*words, *data, "--device", "cpu", "--workers", 0)])


def compared(faces: Path, folder: Path, *words: object) -> dict:
    """What the tool writes as json."""
    run(faces, *words, "--json", folder / "x.json")
    return json.loads((folder / "x.json").read_text())


@torch.no_grad()
def right(faces: Path, checkpoint: Path) -> list[bool]:
    """Image by image, whether a network is right."""
    dataset = RAFDB(faces, "test", transforms.evaluation(SIZE))
    network = read_trained(checkpoint / "last.pth").network.eval()
    answers = (int(network(sample.image[None]).logits.argmax()) for sample in dataset)
    return [answer == label for answer, label in zip(answers, dataset.labels, strict=True)]


@pytest.mark.slow
def test_two_checkpoints_are_compared_image_by_image(faces, runs, tmp_path):
    places = [runs / "one-seed0", runs / "other-seed3" / "last.pth"]
    content = compared(faces, tmp_path, *places)
    reference, method = right(faces, runs / "one-seed0"), right(faces, runs / "other-seed3")
    labels = RAFDB(faces, "test").labels
    pairs = list(zip(method, reference, labels, strict=True))
    only = (sum(m > r for m, r, _ in pairs), sum(r > m for m, r, _ in pairs))
    assert min(only) > 0
    (row,) = content["comparisons"]
    assert (row["only_method"], row["only_reference"]) == only
    assert row["difference"] == pytest.approx((sum(method) - sum(reference)) / 60)
    assert row["p_value"] == pytest.approx(binomtest(only[0], sum(only)).pvalue)
    assert row["p_holm"] == row["p_value"]
    assert row["interval_95"][0] < row["difference"] < row["interval_95"][1]
    assert "McNemar" in row["how"]
    assert [entry["name"] for entry in row["classes"]] == list(RAFDB.classes)
    for c, entry in enumerate(row["classes"]):
        mine = [(m, r) for m, r, label in pairs if label == c]
        assert entry["images"] == len(mine)
        expected = sum(m - r for m, r in mine) / len(mine)
        assert entry["difference"] == pytest.approx(expected)
        a, b = sum(m > r for m, r in mine), sum(r > m for m, r in mine)
        assert entry["p_value"] == pytest.approx(binomtest(a, a + b).pvalue if a + b else 1)
    corrected = [entry["p_holm"] for entry in row["classes"]]
    assert corrected == holm([entry["p_value"] for entry in row["classes"]])
    shares = {name: sum(made) / 60 for name, made in (("r", reference), ("m", method))}
    assert [m["accuracy"] for m in content["methods"]] == pytest.approx([shares["r"], shares["m"]])
    assert content["images"] == 60
    assert (content["dataset"], content["split"]) == ("rafdb", "test")


@pytest.mark.slow
def test_several_seeds_are_the_paired_comparison_over_images_and_seeds(faces, runs, tmp_path):
    content = compared(faces, tmp_path, f"{runs}/one-seed*", f"{runs}/other-seed*")
    one = np.array([right(faces, runs / f"one-seed{seed}") for seed in SEEDS["one"]])
    other = np.array([right(faces, runs / f"other-seed{seed}") for seed in SEEDS["other"]])
    expected = paired_comparison(other, one)
    (row,) = content["comparisons"]
    assert row["difference"] == pytest.approx(other.mean() - one.mean())
    assert row["interval_95"] == pytest.approx(expected.interval)
    assert row["p_value"] == pytest.approx(expected.p_value)
    assert "crossed random effects" in row["how"]
    reference, method = content["methods"]
    assert (reference["seeds"], method["seeds"]) == ([0, 1, 2], [3, 4])
    assert reference["accuracies"] == pytest.approx(one.mean(axis=1).tolist())
    assert reference["deviation"] == pytest.approx(np.std(one.mean(axis=1), ddof=1))


@pytest.mark.slow
def test_several_methods_are_corrected_for(faces, runs, tmp_path):
    places = [runs / f"one-seed{seed}" for seed in (0, 1, 2)]
    rows = compared(faces, tmp_path, *places)["comparisons"]
    assert [row["method"] for row in rows] == [str(place) for place in places[1:]]
    assert [row["p_holm"] for row in rows] == holm([row["p_value"] for row in rows])


def test_a_checkpoint_against_itself_differs_in_nothing(faces, runs, tmp_path, capsys):
    content = compared(faces, tmp_path, runs / "one-seed0", runs / "one-seed0")
    (row,) = content["comparisons"]
    for entry in (row, *row["classes"]):
        assert (entry["difference"], entry["p_value"], entry["p_holm"]) == (0, 1, 1)
        assert entry["interval_95"] == [0, 0]
    shown = capsys.readouterr().out
    assert re.search(r"all images +60 +\+0\.00 +\+0\.00 to \+0\.00 +1\.000 +1\.000 +0 +0", shown)


def test_a_folder_of_run_folders_is_a_method(faces, runs, tmp_path):
    method = tmp_path / "method"
    for seed in (0, 1):
        change(runs / f"one-seed{seed}", method / f"seed{seed}")
    (method / "note.txt").write_text("not a run")
    content = compared(faces, tmp_path, runs / "other-seed3", method)
    assert content["methods"][1]["seeds"] == [0, 1]


@pytest.mark.slow
def test_as_a_process_it_writes_the_page_and_its_numbers(faces, runs, tmp_path):
    where = ("--data", faces, "--report", "page", "--device", "cpu", "--workers", 0)
    made = run_script(
        "tools.compare", f"{runs}/one-seed*", f"{runs}/other-seed*", *where, cwd=tmp_path
    )
    assert made.returncode == 0, made.stderr
    page = (tmp_path / "page/index.html").read_text()
    numbers = json.loads((tmp_path / "page/comparison.json").read_text())
    (row,) = numbers["comparisons"]
    shown = f"{100 * row['difference']:+.2f}"
    assert f"<strong>{shown} points</strong>" in page
    assert shown in made.stdout
    assert page.count("<svg") == 1
    assert "http" not in page
    for name in RAFDB.classes:
        assert f'<th scope="row">{name}</th>' in page
    assert "python -m tools.compare" in page


def test_classes_of_fewer_than_two_images_have_no_difference(runs, tmp_path, capsys):
    root = write_labelled(tmp_path / "raf-basic", [0, 1], [0, 0, 1, 0])
    rows = compared(root, tmp_path, runs / "one-seed0", runs / "one-seed1")["comparisons"]
    assert [("difference" in entry) for entry in rows[0]["classes"]] == [True] + 6 * [False]
    assert [entry["images"] for entry in rows[0]["classes"]] == [3, 1, 0, 0, 0, 0, 0]
    assert re.search(r"Fear +1( +–){6}", capsys.readouterr().out)


def test_one_image_is_refused(runs, tmp_path):
    root = write_labelled(tmp_path / "raf-basic", [0, 1], [0])
    with pytest.raises(InputError, match=r"1 with 1 images.*expected the same images, at least 2"):
        run(root, runs / "one-seed0", runs / "one-seed1")


def test_other_classes_are_refused(faces, runs, tmp_path):
    names = list(reversed(RAFDB.classes))
    turned = change(runs / "one-seed0", tmp_path / "turned", class_names=names)
    with pytest.raises(InputError, match=r"have other classes: Surprise, .*; Neutral, .*same"):
        run(faces, runs / "one-seed0", turned)


def test_other_data_sets_are_refused(faces, runs, tmp_path):
    other = change(runs / "one-seed0", tmp_path / "other", dataset="sfew")
    with pytest.raises(InputError, match=r"is of rafdb, .* of sfew; give --dataset"):
        run(faces, runs / "one-seed0", other)


@pytest.mark.parametrize(
    ("labels", "words"), [([0] * 60, "other labels: 60 of"), ([0, 1], "other images: 60 of .* 2 ")]
)
def test_other_images_are_refused(faces, runs, tmp_path, labels, words):
    root = write_labelled(tmp_path / "raf-basic", [0, 1], labels)
    one = change(runs / "one-seed0", tmp_path / "one", settings={"data": str(faces)})
    other = change(runs / "one-seed1", tmp_path / "other", settings={"data": str(root)})
    with pytest.raises(InputError, match=words):
        run(None, one, other)


@pytest.fixture(scope="module")
def folds(faces, tmp_path_factory) -> Path:
    """Two methods of two seeds, of each a network for each of three folds of 21 faces."""
    folder = tmp_path_factory.mktemp("folds")
    root = write_rafdb(folder / "raf-basic", train=21, test=7, seed=1)
    dataset = RAFDB(root, "train")
    for number, method in enumerate(("one", "other")):
        for seed, fold in itertools.product((0, 1), ("1/3", "2/3", "3/3")):
            run = folder / f"{method}-seed{seed}-fold{fold[0]}"
            start = 100 * number + 10 * seed + int(fold[0])
            write_network(run, faces, start)
            checksum = fold_checksum(dataset, fold_images(dataset, fold)[1])
            change(run, run, settings={"seed": seed, "fold": fold}, fold_checksum=checksum)
    return folder


@pytest.mark.slow
def test_folds_are_joined_into_one_answer_to_every_training_image(folds, tmp_path, capsys):
    root = folds / "raf-basic"
    content = compared(root, tmp_path, f"{folds}/one-*", f"{folds}/other-*")
    dataset = RAFDB(root, "train", transforms.evaluation(SIZE))
    correct = {}
    for method in ("one", "other"):
        correct[method] = np.zeros((2, 21), bool)
        for seed, number in itertools.product((0, 1), (1, 2, 3)):
            path = folds / f"{method}-seed{seed}-fold{number}/last.pth"
            network = read_trained(path).network.eval()
            for i in fold_images(dataset, f"{number}/3")[1]:
                with torch.no_grad():
                    answer = int(network(dataset[i].image[None]).logits.argmax())
                correct[method][seed, i] = answer == dataset.labels[i]
    expected = paired_comparison(correct["other"], correct["one"])
    (row,) = content["comparisons"]
    assert content["images"] == 21
    assert row["difference"] == pytest.approx(expected.difference)
    assert row["interval_95"] == pytest.approx(expected.interval)
    accuracies = [method["accuracies"] for method in content["methods"]]
    assert accuracies == [pytest.approx(c.mean(axis=1).tolist()) for c in correct.values()]
    assert re.search(r"one-\* +2 x 3 folds", capsys.readouterr().out)


@pytest.mark.slow
def test_folds_that_the_train_script_ran_are_joined(data, tmp_path):
    for number in (1, 2, 3):
        flags = ("--arch", "resnet18", "--fold", f"{number}/3")
        train_tiny(data, tmp_path / f"fold{number}", *flags, recipe=RECIPE)
    content = compared(data, tmp_path, f"{tmp_path}/fold*", f"{tmp_path}/fold*")
    (row,) = content["comparisons"]
    assert (row["images"], row["difference"], row["p_value"]) == (21, 0, 1)
    accuracies = [read_metrics(tmp_path / f"fold{i}")[-1]["accuracy"] for i in (1, 2, 3)]
    assert content["methods"][0]["accuracy"] == pytest.approx(sum(accuracies) / 3)


def test_missing_folds_are_named(folds):
    with pytest.raises(InputError, match=r"holds the folds 2/3 and not 1/3, 3/3; train them"):
        run(folds / "raf-basic", f"{folds}/one-*", f"{folds}/one-seed0-fold2")


def test_folds_of_two_divisions_are_refused(folds, tmp_path):
    for number in (1, 2, 3):
        source = folds / f"one-seed0-fold{number}"
        change(source, tmp_path / f"{number}")
    change(source, tmp_path / "4", settings={"fold": "1/2"})
    with pytest.raises(InputError, match="1/2, 1/3, 2/3, 3/3; expected those of one"):
        run(folds / "raf-basic", f"{folds}/one-*", tmp_path)


@pytest.mark.slow
def test_runs_with_folds_are_not_evaluated_on_the_test_split(folds):
    with pytest.raises(InputError, match=r"held out folds of the training split.*leave --split"):
        run(folds / "raf-basic", f"{folds}/one-*", f"{folds}/other-*", "--split", "test")


def test_runs_of_several_methods_in_a_folder_are_refused(faces, runs):
    with pytest.raises(InputError, match=r"mixes methods: .* differ in --lr; give the runs of one"):
        run(faces, runs / "one-seed0", runs)


def test_a_seed_that_is_there_twice_is_refused(faces, runs, tmp_path):
    for name in ("a", "b"):
        change(runs / "one-seed0", tmp_path / "method" / name)
    with pytest.raises(InputError, match=r"a/last.pth and .*b/last.pth, both of seed 0; expected"):
        run(faces, runs / "one-seed0", tmp_path / "method")


def test_an_unfinished_run_is_told(faces, runs, tmp_path):
    short = change(runs / "one-seed0", tmp_path / "short", settings={"epochs": 5})
    with pytest.warns(UserWarning, match="unfinished run: epoch 1 of 5"):
        run(faces, runs / "one-seed0", short)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("one-seed0",), "only .*one-seed0 is given; expected a reference and a method"),
        (("one-seed0", "nowhere"), "nowhere holds no last.pth; expected a checkpoint"),
        (("one-seed0", "one-seed1", "--best"), "one-seed0 holds no best.pth"),
        (("one-seed0", "one-seed1", "--batch-size", 0), "--batch-size is 0; expected at least 1"),
        (("one-seed0", "one-seed1", "--json", "no/x"), "--json no/x: expected a file in a folder"),
    ],
)
def test_bad_flags_are_refused(faces, runs, words, message):
    places = [runs / word if "seed" in str(word) or word == "nowhere" else word for word in words]
    with pytest.raises(InputError, match=message):
        run(faces, *places)


@pytest.mark.slow
def test_a_refusal_is_one_line(runs, tmp_path):
    root = write_fer2013_csv(tmp_path / "fer2013")
    places = (runs / "one-seed0", runs / "one-seed1")
    made = run_script("tools.compare", *places, "--dataset", "fer2013", "--data", root, cwd=root)
    assert_refused(made, "classes", "do not fit fer2013")
