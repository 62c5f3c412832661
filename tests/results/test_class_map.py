"""Networks on data sets with other classes: pairs by meaning, what is left out, what is refused."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch

from common.errors import InputError
from datasets import DATASETS
from engine.evaluate import Metrics, Predictions
from results.class_map import UNSHARED, ClassMap

AFFECTNET8, RAFDB = DATASETS["affectnet8"].classes, DATASETS["rafdb"].classes
FERPLUS = DATASETS["ferplus"].classes


def predictions(logits: list[list[float]], labels: list[int]) -> Predictions:
    return Predictions(
        torch.tensor(logits), torch.tensor(labels), list(range(10, 10 + len(labels)))
    )


@pytest.mark.parametrize(("one", "other"), list(permutations(DATASETS, 2)))
def test_every_data_set_shares_all_it_can_with_every_other(one, other):
    made = ClassMap.between(DATASETS[one].classes, DATASETS[other].classes)
    expected = 8 if {one, other} == {"affectnet8", "ferplus"} else 7
    assert len(made.classes) == len(made.pairs) == expected
    for network_name, dataset_name in made.pairs:
        assert network_name[:3].lower() == dataset_name[:3].lower()


def test_the_same_classes_change_nothing():
    made = ClassMap.between(RAFDB, RAFDB)
    given = predictions(torch.eye(7).tolist(), list(range(7)))
    assert made.is_identity
    assert made.of(given) is given
    assert not ClassMap.between(sorted(RAFDB), RAFDB).is_identity


def test_a_perfect_network_stays_perfect_in_another_order():
    made = ClassMap.between(RAFDB, FERPLUS)
    order = [RAFDB.index(name) for name, _ in made.pairs]
    logits = torch.eye(7)[order]  # an image of every shared class, as the network names it
    found = made.of(predictions(logits.tolist(), [FERPLUS.index(name) for _, name in made.pairs]))
    assert Metrics.of(found.logits, found.labels).accuracy == 1
    assert made.classes == FERPLUS[:7]


# Contempt is class 7 of FER+ and of AffectNet-8; RAF-DB has no such class.


@pytest.mark.parametrize("unshared", UNSHARED)
def test_images_of_a_class_that_the_network_lacks(unshared):
    made = ClassMap.between(RAFDB, FERPLUS, unshared)
    neutral = [0.0] * 6 + [1.0]
    found = made.of(predictions([neutral, neutral], [0, 7]))  # neutral, contempt
    metrics = Metrics.of(found.logits, found.labels)
    if unshared == "argmax":
        assert (found.indices, metrics.accuracy) == ([10, 11], 1 / 2)
        assert made.classes == FERPLUS
        assert found.logits.softmax(dim=1)[:, 7].tolist() == [0, 0]
    else:
        assert (found.indices, metrics.accuracy) == ([10], 1)
        assert made.classes == FERPLUS[:7]
    assert made.unused == ()


@pytest.mark.parametrize("unshared", UNSHARED)
def test_a_class_of_the_network_that_the_data_lack(unshared):
    made = ClassMap.between(AFFECTNET8, RAFDB, unshared)
    logits = [[0.0] * 8]
    logits[0][AFFECTNET8.index("Contempt")], logits[0][AFFECTNET8.index("Happy")] = 2.0, 1.0
    found = made.of(predictions(logits, [RAFDB.index("Happiness")]))
    metrics = Metrics.of(found.logits, found.labels)
    if unshared == "images":
        assert (made.classes, made.unused) == ((*RAFDB, "Contempt"), ())
        assert metrics.accuracy == 0
        assert metrics.counts[RAFDB.index("Happiness"), 7] == 1
    else:
        assert (made.classes, made.unused) == (RAFDB, ("Contempt",))
        assert metrics.accuracy == 1


@pytest.mark.parametrize(
    "names",
    [("Happy", "Joy", "Sad"), ("cat", "dog"), ("class 0", "class 1"), ("Happy", "cat")],
    ids=["twice", "none", "numbers", "one"],
)
def test_classes_that_cannot_be_paired_are_refused(names):
    with pytest.raises(InputError, match=f"cannot be mapped .* has {', '.join(names)}"):
        ClassMap.between(names, RAFDB)


def test_a_split_of_one_class_that_the_network_lacks_is_refused():
    with pytest.raises(InputError, match="every image is of a class that the checkpoint lacks"):
        ClassMap.between(RAFDB, FERPLUS).of(predictions([[0.0] * 7], [7]))
