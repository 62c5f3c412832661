"""Data of odd sizes: classes without images, one class, one image, batches beyond the data."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest
import torch

import eval as eval_script
import train_rafdb
from common.errors import InputError
from engine import train as engine_train
from engine.train import make_loaders, prepare, train
from networks import ResNet18
from tests.support.scripts import (
    CLASSES,
    LABEL_FILE,
    SIZE,
    assert_same_run,
    differences,
    load,
    small_recipe,
    write_rafdb,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*published are")

CPU = torch.device("cpu")
FEAR = 1
WITHOUT_FEAR = [0, 2, 3, 4, 5, 6]
EVERY = list(range(CLASSES))


def write_faces(root: Path, training: list[int], test: list[int]) -> Path:
    """Drawn faces in RAF-DB's layout with these labels, counted from 0.

    The pictures are of the seven classes in turn, so a face may look like another class than it is
    labelled.
    """
    write_rafdb(root, train=len(training), test=len(test))
    names = [line.split()[0] for line in (root / LABEL_FILE).read_text().splitlines()]
    lines = [f"{name} {label + 1}\n" for name, label in zip(names, training + test, strict=True)]
    (root / LABEL_FILE).write_text("".join(lines))
    return root


def last_row(run: Path) -> dict[str, float]:
    """The last row of metrics.csv; all of it must be finite."""
    with (run / "metrics.csv").open(newline="") as stream:
        row = {name: float(value) for name, value in list(csv.DictReader(stream))[-1].items()}
    assert all(math.isfinite(value) for value in row.values()), row
    return row


def assert_finite(value: object) -> None:
    """No tensor below `value` holds nan or infinity."""
    if isinstance(value, torch.Tensor):
        assert value.isfinite().all()
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            assert_finite(item)


# --------------------------------------------------------------------------------------------
# Training


@pytest.mark.parametrize("sampling", ["shuffle", "balanced"])
@pytest.mark.parametrize("loss", ["affinity", "center"])
def test_a_class_without_training_images_trains(tmp_path, sampling, loss):
    root = write_faces(tmp_path / "data", WITHOUT_FEAR * 3, EVERY)
    flags = ("--sampling", sampling, "--fcn-loss", loss, "--epochs", 2)
    train(small_recipe(root, tmp_path / "run", *flags))
    content = load(tmp_path / "run/last.pth")
    for part in ("model_state_dict", "criterion_state_dict", "optimizer_state_dict"):
        assert_finite(content[part])
    # The class stays: the file has all seven, so that it can be evaluated on all.
    assert content["model_state_dict"]["fc.weight"].shape[0] == CLASSES
    # Fear has an image in the test split and counts in the mean.
    mean = last_row(tmp_path / "run")["mean_class_accuracy"]
    assert 7 * mean == pytest.approx(round(7 * mean))


def test_balanced_epochs_have_the_classes_that_occur_alike(tmp_path):
    """400 draws a class of 5: a standard deviation of 18."""
    root = write_faces(tmp_path / "data", [0] * 1 + [2] * 10 + [3] * 3 + [4] * 4 + [6] * 2, EVERY)
    loader, _ = make_loaders(small_recipe(root, tmp_path, "--sampling", "balanced"), CPU)
    labels = torch.tensor(loader.dataset.labels)
    counts = torch.zeros(CLASSES)
    for epoch in range(1, 101):
        loader.batch_sampler.epoch = epoch
        drawn = [position for batch in loader.batch_sampler for position, _ in batch]
        assert len(drawn) == 20
        counts += torch.bincount(labels[drawn], minlength=CLASSES)
    assert counts[[1, 5]].tolist() == [0, 0]
    assert counts[[0, 2, 3, 4, 6]].tolist() == pytest.approx([400] * 5, abs=72)


@pytest.mark.parametrize("sampling", ["shuffle", "balanced"])
def test_one_class_alone_is_learned_and_then_always_predicted(tmp_path, sampling):
    root = write_faces(tmp_path / "data", [FEAR] * 16, [FEAR, FEAR, FEAR, *EVERY])
    flags = ("--sampling", sampling, "--epochs", 4, "--lr", 0.02)
    train(small_recipe(root, tmp_path / "run", *flags))
    row = last_row(tmp_path / "run")
    assert row["accuracy"] == 4 / 10
    assert row["mean_class_accuracy"] == pytest.approx(1 / 7)
    assert row["macro_f1"] == pytest.approx(2 * 4 / (10 + 4) / 7)


def test_one_class_alone_is_a_finite_loss_of_dan(tmp_path):
    root = write_faces(tmp_path / "data", [FEAR] * 4, EVERY)
    current = prepare(small_recipe(root, tmp_path, "--heads", 2, recipe=train_rafdb.RECIPE))
    means = engine_train.optimize_epoch(current, 1, current.recipe.lr)
    assert sorted(means) == ["affinity", "cls", "loss", "partition"]
    assert all(math.isfinite(mean) for mean in means.values())
    assert_finite(current.network.state_dict())


def test_a_batch_beyond_the_data_is_the_data(tmp_path):
    root = write_faces(tmp_path / "data", [0, 1, 2, 3, 4], [0, 1, 2])
    for size in (5, 4096):
        flags = ("--epochs", 2, "--batch-size", size)
        train(small_recipe(root, tmp_path / str(size), *flags))
    five, beyond = (load(tmp_path / name / "last.pth") for name in ("5", "4096"))
    assert five["optimizer_state_dict"]["state"][0]["step"] == 2
    for part in ("model_state_dict", "criterion_state_dict", "optimizer_state_dict", "metrics"):
        assert differences(five[part], beyond[part]) == []


@pytest.mark.parametrize("sampling", ["shuffle", "balanced"])
def test_no_worker_and_one_give_the_same_bits(tmp_path, sampling):
    root = write_faces(tmp_path / "data", WITHOUT_FEAR * 2 + [0], EVERY)
    for workers in (0, 1):
        flags = ("--workers", workers, "--sampling", sampling, "--epochs", 2)
        train(small_recipe(root, tmp_path / str(workers), *flags))
    assert_same_run(tmp_path / "0", tmp_path / "1")


def test_two_images_cannot_be_parted_into_training_and_holdout(tmp_path):
    root = write_faces(tmp_path / "data", [0, 1], EVERY)
    with pytest.raises(InputError, match=r"--holdout 0\.5 keeps 1 of 2 images out") as error:
        train(small_recipe(root, tmp_path / "run", "--holdout", 0.5))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


# --------------------------------------------------------------------------------------------
# Evaluation


@pytest.mark.parametrize("label", [0, FEAR])
def test_one_test_image_is_right_or_wrong(tmp_path, label):
    """All training images are Fear, so that is what is predicted."""
    root = write_faces(tmp_path / "data", [FEAR] * 16, [label])
    train(small_recipe(root, tmp_path / "run", "--epochs", 4, "--lr", 0.02))
    row = last_row(tmp_path / "run")
    expected = float(label == FEAR)
    for name in ("accuracy", "mean_class_accuracy", "macro_f1"):
        assert row[name] == expected


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A baseline that takes every face for Fear."""
    torch.manual_seed(0)
    network = ResNet18(CLASSES)
    with torch.no_grad():
        network.fc.weight.zero_()
        network.fc.bias.copy_(torch.eye(CLASSES)[FEAR])
    path = tmp_path_factory.mktemp("weights") / "fear.pth"
    classes = list(train_rafdb.RECIPE.dataset.classes)
    content = {"iter": 1, "model_state_dict": network.state_dict(), "dataset": "rafdb"}
    torch.save({**content, "class_names": classes, "settings": {"image_size": SIZE}}, path)
    return path


def evaluate(checkpoint: Path, root: Path, report: Path) -> dict:
    """Run eval.py with its report; returns report.json, which must be JSON to the letter."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    words = [checkpoint, "--data", root, "--report", report, "--workers", 0, "--device", "cpu"]
    eval_script.main([*map(str, words), "--batch-size", "4096"])
    return json.loads((report / "report.json").read_text(), parse_constant=refuse)


def test_the_mean_is_over_the_classes_with_test_images(checkpoint, tmp_path, capsys):
    root = write_faces(tmp_path / "data", EVERY, [FEAR, FEAR, 0, 3])
    content = evaluate(checkpoint, root, tmp_path / "report")
    assert content["accuracy"] == 2 / 4
    assert content["mean_class_accuracy"] == pytest.approx((1 + 0 + 0) / 3)
    # F1 of Fear: 2 hits of 2 images and 4 predictions.
    assert content["macro_f1"] == pytest.approx((2 * 2 / (2 + 4) + 0 + 0) / 3)
    assert content["per_class_recall"] == [0, 1, None, 0, None, None, None]
    assert content["per_class_precision"] == [None, 1 / 2, None, None, None, None, None]
    disgust = next(line for line in capsys.readouterr().out.splitlines() if "Disgust " in line)
    assert disgust.split()[:5] == ["Disgust", "0", "-", "-", "-"]
    page = (tmp_path / "report/index.html").read_text()
    assert "33.33" in page
    assert ">nan" not in page.lower()


@pytest.mark.parametrize("label", [0, FEAR])
def test_one_test_image_is_reported(checkpoint, tmp_path, label):
    root = write_faces(tmp_path / "data", EVERY, [label])
    content = evaluate(checkpoint, root, tmp_path / "report")
    right = label == FEAR
    assert (content["images"], content["accuracy"]) == (1, right)
    assert content["mean_class_accuracy"] == right
    low, high = content["accuracy_interval_95"]
    assert 0 <= low <= right <= high <= 1
    assert high - low > 0.7  # one image says little
    assert ">nan" not in (tmp_path / "report/index.html").read_text().lower()
