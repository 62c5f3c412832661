"""Folds: every image once, classes in proportion, persons apart, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from common.errors import InputError
from engine.folds import fold_checksum, fold_images, fold_of, is_fold


def faces(labels: list[int], persons: list[str] | None = None) -> SimpleNamespace:
    """A data set as far as folds look at it."""
    return SimpleNamespace(
        labels=labels,
        classes=[f"class {label}" for label in range(10)],
        persons=lambda: persons,
        root="data",
        describe=lambda i: f"data/{i}.jpg",
    )


def all_folds(dataset: SimpleNamespace, folds: int) -> list[list[int]]:
    return [fold_images(dataset, f"{i}/{folds}")[1] for i in range(1, folds + 1)]


@pytest.mark.parametrize(("text", "fold"), [("1/2", (1, 2)), ("10/10", (10, 10))])
def test_a_fold_is_a_number_and_a_count(text, fold):
    assert is_fold(text)
    assert fold_of(text) == fold


@pytest.mark.parametrize("text", ["0/5", "6/5", "1/1", "1", "1/5/2", "a/b", "1/ 5", "-1/5", "01/5"])
def test_other_texts_are_no_fold(text):
    assert not is_fold(text)
    assert fold_of(text) is None


def test_no_fold_is_the_default():
    assert is_fold("")


@pytest.mark.parametrize("folds", [2, 3, 7])
def test_every_image_is_in_one_fold_and_trained_on_by_the_others(folds):
    dataset = faces([i % 3 for i in range(100)])
    parts = all_folds(dataset, folds)
    assert sorted(i for part in parts for i in part) == list(range(100))
    for number, part in enumerate(parts, start=1):
        kept, held_out = fold_images(dataset, f"{number}/{folds}")
        assert held_out == part == sorted(part)
        assert sorted(kept + held_out) == list(range(100))


def test_classes_are_in_proportion_in_every_fold():
    labels = [0] * 50 + [1] * 25 + [2] * 10
    for part in all_folds(faces(labels), 5):
        assert np.bincount(np.array(labels)[part]).tolist() == [10, 5, 2]


def test_no_person_is_in_two_folds_and_classes_stay_in_proportion():
    rng = np.random.default_rng(0)
    persons = [f"person {i}" for i in rng.integers(0, 60, 600)]
    labels = rng.choice(3, 600, p=[0.5, 0.3, 0.2]).tolist()
    parts = all_folds(faces(labels, persons), 4)
    seen = [{persons[i] for i in part} for part in parts]
    assert sum(map(len, seen)) == len(set(persons))
    assert set.union(*seen) == set(persons)
    shares = np.bincount(labels) / 600
    for part in parts:
        found = np.bincount(np.array(labels)[part], minlength=3) / len(part)
        assert found == pytest.approx(shares, abs=0.05)


@pytest.mark.parametrize(
    ("labels", "persons", "words"),
    [
        ([0, 0, 0, 1], None, r"class class 1 has 1 of the 4 training images; .* as folds"),
        ([0] * 6, list("aabbaa"), r"training images show 2 persons; .* as folds"),
    ],
)
def test_too_few_images_or_persons_are_refused(labels, persons, words):
    with pytest.raises(InputError, match=f"--fold 1/3: the {words}"):
        fold_images(faces(labels, persons), "1/3")


def test_the_checksum_knows_names_and_labels_but_not_the_folder():
    one, other = faces([0, 1, 0]), faces([0, 1, 0])
    assert fold_checksum(one, [0, 2]) != fold_checksum(one, [0, 1])
    other.root, other.describe = "moved", lambda i: f"moved/{i}.jpg"
    assert fold_checksum(one, [0, 2]) == fold_checksum(other, [0, 2])
    other.labels = [1, 1, 0]
    assert fold_checksum(one, [0, 2]) != fold_checksum(other, [0, 2])
