"""FER+: the majority rule, the distribution of votes, both layouts, bad input."""

from __future__ import annotations

import numpy as np
import pytest

from common.errors import InputError
from datasets import FER2013, FER2013Labels, FERPlus
from datasets.ferplus import EXPRESSIONS, majority_labels, vote_distribution
from tests.support.layouts import (
    VOTES,
    grey_levels,
    votes,
    write_ferplus_images,
    write_ferplus_rows,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*published are")

CASES = {
    "clear": (votes(happiness=10), "happiness"),
    "just over half": (votes(anger=6, fear=4), "anger"),
    "exactly half is not enough": (votes(anger=5, fear=5), None),
    "most but not half": (votes(anger=4, fear=3, sadness=3), None),
    "single votes do not count": (votes(anger=4, fear=3, sadness=1, disgust=1, neutral=1), "anger"),
    "unknown wins": (votes(unknown=6, anger=4), None),
    "no face": (votes(NF=10), None),
    "nothing but single votes": (votes(anger=1, fear=1, NF=1), None),
    "no votes": (votes(), None),
    "contempt is the last class": (votes(contempt=8, unknown=2), "contempt"),
}


@pytest.mark.parametrize(("given", "label"), CASES.values(), ids=list(CASES))
def test_majority_by_hand(given, label):
    expected = -1 if label is None else EXPRESSIONS.index(label)
    assert majority_labels(np.array([given])).tolist() == [expected]


def test_majority_of_many_is_the_majority_of_each():
    table = np.array([given for given, _ in CASES.values()])
    one_by_one = [majority_labels(row[None]).item() for row in table]
    assert majority_labels(table).tolist() == one_by_one


@pytest.mark.parametrize(
    ("given", "shares"),
    [
        (votes(happiness=10), {"happiness": 1}),
        (votes(happiness=9, anger=1), {"happiness": 1}),
        # 8 of 10 hold three quarters.
        (votes(happiness=8, neutral=2), {"happiness": 1}),
        (votes(happiness=6, neutral=4), {"happiness": 0.6, "neutral": 0.4}),
        (votes(happiness=7, neutral=3), {"happiness": 0.7, "neutral": 0.3}),
        (votes(anger=6, fear=2), {"anger": 1}),  # three quarters, exactly
        # Equals are taken together.
        (votes(anger=4, sadness=3, fear=3), {"anger": 0.4, "sadness": 0.3, "fear": 0.3}),
        (votes(anger=4, sadness=2, fear=2, disgust=2), None),
        (votes(anger=3, sadness=3, fear=2, disgust=2), None),
        # Unknown ends the taking; what was taken before needs more than half.
        (votes(anger=6, unknown=4), {"anger": 1}),
        (votes(anger=5, unknown=5), None),
        (votes(unknown=6, anger=4), None),
        (votes(anger=4, unknown=3, fear=3), {"anger": 4 / 7, "fear": 3 / 7}),
        (votes(anger=4, NF=4, fear=2), None),
        (votes(NF=10), None),
        (votes(anger=1, fear=1), None),
    ],
)
def test_distribution_by_hand(given, shares):
    result = vote_distribution(np.array(given))
    if shares is None:
        assert result is None
    else:
        expected = [shares.get(name, 0) for name in EXPRESSIONS]
        np.testing.assert_allclose(result, expected, atol=1e-12)


# ---- on disk


@pytest.fixture(params=[write_ferplus_rows, write_ferplus_images])
def root(request, tmp_path):
    return request.param(tmp_path)


def rows_of(dataset) -> list[int]:
    """Which row of `VOTES` each image is."""
    return [row for row, _ in grey_levels(dataset)]


def test_majority_labels_go_with_their_images(root):
    train, test = FERPlus(root, "train"), FERPlus(root, "test")
    assert rows_of(train) == [0, 1, 4]
    assert [EXPRESSIONS[label] for label in train.labels] == ["happiness", "anger", "neutral"]
    assert rows_of(test) == [5, 7]
    assert [EXPRESSIONS[label] for label in test.labels] == ["surprise", "sadness"]
    assert [rows_of(FERPlus(root, part)) for part in ("public", "private")] == [[5], [7]]
    assert [(sample.label, sample.targets) for sample in train] == [(1, {}), (4, {}), (0, {})]


def test_soft_votes_are_targets_of_the_training_split_alone(root):
    train, test = FERPlus(root, "train", votes="soft"), FERPlus(root, "test", votes="soft")
    assert rows_of(train) == [0, 1, 3, 4]
    for i, row in enumerate([0, 1, 3, 4]):
        _, label, targets = train[i]
        shares = targets.pop("soft_labels")
        np.testing.assert_allclose(shares, vote_distribution(np.array(VOTES[row])), atol=1e-6)
        assert label == train.labels[i] == shares.argmax()
        assert targets == {}
    assert test.labels == FERPlus(root, "test").labels
    assert train.with_clear_label([1, 2, 3]) == [1, 3]  # row 3 has votes, but no majority
    assert (
        test.with_clear_label([1, 0]) == FERPlus(root, "train").with_clear_label([1, 0]) == [1, 0]
    )
    assert test[0].targets == {}


def test_classes_are_the_published_ones_in_order():
    order = "neutral happiness surprise sadness anger disgust fear contempt"
    assert FERPlus.classes == tuple(order.split())


def test_the_recipes_choice(tmp_path):
    write_ferplus_rows(tmp_path)
    assert type(FER2013Labels()(tmp_path, "train")) is FER2013
    chosen = FER2013Labels(labels="ferplus", votes="soft")(tmp_path, "train")
    assert (type(chosen), chosen.soft) == (FERPlus, True)
    with pytest.raises(InputError, match="--votes soft needs --labels ferplus"):
        FER2013Labels(votes="soft")(tmp_path, "train")


# ---- bad input


def replace(path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_rows_that_do_not_go_together_are_refused(tmp_path):
    table = write_ferplus_rows(tmp_path) / "fer2013new.csv"
    replace(table, "Training", "PublicTest")
    with pytest.raises(InputError, match=r"does not go with the 8 of .*fer2013.csv row by row"):
        FERPlus(tmp_path, "train")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "train/angry/Training_1.png",
            "../secret.png",
            r"row 3 of .* names '../secret.png', outside",
        ),
        ("train/angry/Training_1.png", "/etc/secret.png", r"row 3 of .* outside"),
        ("train/angry/Training_1.png", "train/angry/no.png", r"no.png does not exist, but row 3"),
        ("contempt", "pride", r"has no column contempt; expected .* image, usage, neutral"),
        ("Training,0,10", "Training,x,10", r"row 2 of .* has the votes x 10 0"),
        ("Training,0,10", "Training,0.5,10", r"row 2 of .* has the votes 0.5 10"),
        ("Training,0,10", "Training,-1,10", r"row 2 of .* has the votes -1 10 0"),
    ],
)
def test_a_bad_table_of_images_is_refused(old, new, words, tmp_path):
    replace(write_ferplus_images(tmp_path) / "ferplus_votes.csv", old, new)
    with pytest.raises(InputError, match=words):
        FERPlus(tmp_path, "train")


def test_no_votes_says_what_is_read(tmp_path):
    write_ferplus_rows(tmp_path)
    (tmp_path / "fer2013new.csv").unlink()
    with pytest.raises(
        InputError, match=r"neither fer2013.csv with fer2013new.csv nor ferplus_votes"
    ):
        FERPlus(tmp_path, "train")
