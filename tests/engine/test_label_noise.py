"""Noisy training labels: how many are flipped to what, and that nothing else sees them."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from operator import ne
from pathlib import Path

import pytest
import torch

from common.errors import InputError
from datasets import FER2013, RAFDB
from engine.checkpoint import restore
from engine.data import make_loaders
from engine.distributed import World
from engine.label_noise import symmetric_noise
from engine.train import build, train
from tests.support.scripts import (
    assert_refused,
    differences,
    load,
    run_script,
    small_recipe,
    train_until,
    write_fer2013_csv,
    write_rafdb,
)

CPU = torch.device("cpu")
LABELS = [label for label in range(7) for _ in range(3000)]


@pytest.fixture
def data(tmp_path):
    return write_rafdb(tmp_path / "data")


def labels_seen(recipe) -> tuple[list[int], list[int]]:
    """By image, the labels of two epochs of training, which agree, and those of the evaluation."""
    training, evaluation = make_loaders(recipe, CPU, World())
    seen: dict[int, set[int]] = {}
    for epoch in (1, 2):
        training.batch_sampler.epoch = epoch
        for batch, _ in training:
            for index, label in zip(batch.indices.tolist(), batch.labels.tolist(), strict=True):
                seen.setdefault(index, set()).add(label)
    assert all(len(labels) == 1 for labels in seen.values())
    tested = [label for batch, _ in evaluation for label in batch.labels.tolist()]
    return [seen[index].pop() for index in sorted(seen)], tested


@pytest.mark.parametrize("probability", [0.1, 0.3])
def test_the_share_is_flipped_uniformly_to_the_other_classes(probability):
    noisy = symmetric_noise(LABELS, 7, probability, seed=3)
    flipped = [(old, new) for old, new in zip(LABELS, noisy, strict=True) if old != new]
    # 21,000 draws: four standard deviations of the share are below 0.013.
    assert len(flipped) / len(LABELS) == pytest.approx(probability, abs=0.013)
    counts = Counter(flipped)
    assert len(counts) == 42  # each class becomes each of the other six
    assert min(counts.values()) > 0.6 * max(counts.values()) or probability < 0.2
    assert {new for _, new in flipped} == set(range(7))


def test_the_seed_decides_and_more_noise_contains_less():
    few, more = (symmetric_noise(LABELS, 7, share, seed=3) for share in (0.1, 0.3))
    assert few == symmetric_noise(LABELS, 7, 0.1, seed=3)
    assert few != symmetric_noise(LABELS, 7, 0.1, seed=4)
    changed = [i for i, label in enumerate(LABELS) if few[i] != label]
    assert all(more[i] == few[i] for i in changed)
    assert symmetric_noise(LABELS, 7, 0.0, seed=3) == LABELS


def test_training_sees_the_noise_and_the_evaluation_does_not(data, tmp_path):
    clean = [i % 7 for i in range(21)]
    noise = ("--label-noise", 0.5, "--noise-seed", 1)
    trained, tested = labels_seen(small_recipe(data, tmp_path, *noise))
    assert trained == symmetric_noise(clean, 7, 0.5, seed=1)
    assert tested == [i % 7 for i in range(14)]
    again, _ = labels_seen(small_recipe(data, tmp_path, *noise, "--seed", 5))
    assert again == trained


def test_the_labels_that_are_held_out_are_clean_and_the_same_images(data, tmp_path):
    flags = ("--holdout", 0.34, "--label-noise", 0.9)
    _, tested = labels_seen(small_recipe(data, tmp_path, *flags))
    _, expected = labels_seen(small_recipe(data, tmp_path, *flags[:2]))
    assert tested == expected
    assert Counter(tested) == dict.fromkeys(range(7), 1)


def test_config_has_what_was_flipped_and_a_resumed_run_goes_on_with_it(data, tmp_path):
    def recipe(name: str, *flags: object):
        return small_recipe(data, tmp_path / name, "--label-noise", 0.5, "--epochs", 2, *flags)

    train(recipe("whole"))
    train_until(recipe("cut"), 1)
    train(recipe("cut", "--resume"))
    clean = [i % 7 for i in range(21)]
    flipped = sum(map(ne, clean, symmetric_noise(clean, 7, 0.5, seed=0)))
    for name in ("whole", "cut"):
        config = json.loads((tmp_path / name / "config.json").read_text())
        assert (config["flipped_labels"], config["flipped_share"]) == (flipped, flipped / 21)
    contents = [load(tmp_path / name / "last.pth") for name in ("whole", "cut")]
    assert differences(*(content["model_state_dict"] for content in contents)) == []


def test_other_noise_is_not_resumed(data, tmp_path):
    train(small_recipe(data, tmp_path / "run", "--label-noise", 0.5))
    with pytest.raises(InputError, match=r"--noise-seed was 0, is now 1"):
        train(
            small_recipe(
                data, tmp_path / "run", "--label-noise", 0.5, "--noise-seed", 1, "--resume"
            )
        )


# ---- a fixed list


def write_list(path: Path, labels: Sequence[int], *, head: str = "", form: str = "{} {}\n") -> Path:
    """A list of training labels (from 0) as RAF-DB's noisy lists are."""
    lines = [form.format(f"train_{i:05}.jpg", label + 1) for i, label in enumerate(labels, 1)]
    path.write_text(head + "".join(lines))
    return path


NOISY = [(i + (i % 3 == 0)) % 7 for i in range(21)]


@pytest.mark.parametrize(
    ("head", "form"),
    [("", "{} {}\n"), ("image,label\n", "{},{}\n"), ("test_0001.jpg 5\n\n", "{}\t{}\n")],
)
def test_a_fixed_list_is_what_is_trained_on(data, tmp_path, head, form):
    file = write_list(tmp_path / "noisy.txt", NOISY, head=head, form=form)
    trained, tested = labels_seen(small_recipe(data, tmp_path, "--noisy-labels", file))
    assert trained == NOISY
    assert tested == [i % 7 for i in range(14)]


def test_a_list_may_have_paths_and_class_names(data, tmp_path):
    file = tmp_path / "noisy.csv"
    classes = ("Surprise", "Fear", "Disgust", "Happiness", "Sadness", "Anger", "Neutral")
    form = "Image/aligned/train_{:05}_aligned.jpg,{}\n"
    file.write_text("".join(form.format(i, classes[v]) for i, v in enumerate(NOISY, 1)))
    assert labels_seen(small_recipe(data, tmp_path, "--noisy-labels", file))[0] == NOISY


def test_a_list_of_fer2013s_rows(tmp_path):
    data = write_fer2013_csv(tmp_path / "data", train=14, public=7, private=7)
    dataset = FER2013(data, "train")
    names = [f"{dataset.list_names(i)[0]}.png" for i in range(len(dataset))]
    assert names[:2] == ["fer0000000.png", "fer0000001.png"]
    pairs = zip(names, dataset.labels, strict=True)
    file = tmp_path / "noisy.txt"
    file.write_text("".join(f"{name} {6 - label}\n" for name, label in pairs))
    assert dataset.listed_labels(file) == [6 - label for label in dataset.labels]


def test_a_list_that_has_changed_is_not_resumed(data, tmp_path):
    file = write_list(tmp_path / "noisy.txt", NOISY)
    train(small_recipe(data, tmp_path / "run", "--noisy-labels", file))
    write_list(file, NOISY[::-1])
    flags = ("--noisy-labels", file, "--epochs", 2, "--resume")
    again = build(small_recipe(data, tmp_path / "run", *flags))
    with pytest.raises(InputError, match="was trained with other labels of the same 21 images"):
        restore(again, load(tmp_path / "run/last.pth"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has labels for 0 of the 21 images"),
        ("train_00001.jpg 5\n", "has labels for 1 of the 21 images"),
        ("train_00001.jpg 8\n", "has the label 8; expected 1 to 7, or Surprise"),
        ("train_00001.jpg 0\n", "has the label 0; expected 1 to 7"),
        ("train_00001.jpg glad\n", "has the label glad"),
        ("train_12271.jpg 5\n", "names train_12271.jpg, which is no image of the split train"),
        ("fer0034656.png 8\n", "names fer0034656.png"),
        ("train_00001.jpg 5\ntrain_00001_aligned.jpg 5\n", "line 2 .* once more"),
        ("train_00001.jpg\n", "expected an image and its label"),
    ],
)
def test_a_list_that_does_not_fit_is_refused(data, tmp_path, text, message):
    (tmp_path / "noisy.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        labels_seen(small_recipe(data, tmp_path, "--noisy-labels", tmp_path / "noisy.txt"))


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_a_list_that_cannot_be_read_is_refused(data, tmp_path, content):
    file = tmp_path / "noisy.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match=r"noisy\.txt"):
        labels_seen(small_recipe(data, tmp_path, "--noisy-labels", file))


@pytest.mark.parametrize("noise", ["1", "1.5", "-0.1", "nan"])
def test_noise_outside_the_range_is_refused(data, tmp_path, noise):
    with pytest.raises(InputError, match=r"--label-noise is .*; expected 0 up to"):
        small_recipe(data, tmp_path, f"--label-noise={noise}")


def test_noise_and_a_list_exclude_each_other(data, tmp_path):
    with pytest.raises(InputError, match="either --label-noise or --noisy-labels"):
        small_recipe(data, tmp_path, "--label-noise", 0.1, "--noisy-labels", "x.txt")


def test_labels_that_are_distributions_have_no_noise(data, tmp_path):
    class Soft(RAFDB):
        def targets(self, index):
            return {"soft_labels": torch.full((7,), 1 / 7)}

    recipe = small_recipe(data, tmp_path, "--label-noise", 0.1)
    with pytest.raises(InputError, match="leave out --votes soft"):
        make_loaders(dataclasses.replace(recipe, dataset=Soft), CPU, World())


@pytest.mark.slow
def test_a_script_trains_on_noise_and_says_so(data, tmp_path):
    flags = ["--epochs", 1, "--image-size", 32, "--batch-size", 8, "--arch", "resnet18"]
    flags += ["--pretrained", "none", "--data", data, "--output", tmp_path / "run"]
    flags += ["--workers", 0, "--device", "cpu"]
    refused = run_script("train_rafdb.py", *flags, "--label-noise", 1, cwd=tmp_path)
    assert_refused(refused, "--label-noise is 1.0")
    result = run_script("train_rafdb.py", *flags, "--label-noise", 0.3, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    config = json.loads((tmp_path / "run/config.json").read_text())
    flipped = config["flipped_labels"]
    assert 0 < flipped < 21
    assert f"with {flipped} training labels changed ({100 * flipped / 21:.2f} %)" in result.stdout
