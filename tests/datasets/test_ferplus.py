"""FER+: the majority rule, the distribution of votes, both layouts, soft labels in the loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from common.errors import InputError
from datasets import FER2013, FER2013Labels, FERPlus
from datasets.ferplus import EXPRESSIONS, VOTE_COLUMNS, majority_labels, vote_distribution
from networks import DANLoss, DANOutput
from tests.support.layouts import votes, write_table

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

TRAIN = [
    votes(happiness=10),
    votes(anger=6, fear=4),
    votes(NF=10),
    votes(anger=4, fear=3, sadness=3),
    votes(neutral=7, unknown=3),
]
TEST = [votes(surprise=9, unknown=1), votes(fear=5, anger=5), votes(sadness=8, fear=2)]
USAGES = ["Training"] * len(TRAIN) + ["PublicTest", "PublicTest", "PrivateTest"]
TABLE = np.array(TRAIN + TEST)


def gray(row: int) -> np.ndarray:
    """(48, 48) uint8 of one gray level, which names the row."""
    return np.full((48, 48), 20 * row, np.uint8)


def named(row: int) -> dict[str, int]:
    """The votes of a row by column."""
    return dict(zip(VOTE_COLUMNS, TABLE[row], strict=True))


def write_rows(root):
    """fer2013.csv and fer2013new.csv."""
    faces = [
        {"emotion": 0, "pixels": " ".join(map(str, gray(row).ravel())), "Usage": usage}
        for row, usage in enumerate(USAGES)
    ]
    write_table(root / "fer2013.csv", faces)
    rows = [
        {
            "Usage": usage,
            "Image name": f"fer{row:07d}.png",
            **named(row),
        }
        for row, usage in enumerate(USAGES)
    ]
    write_table(root / "fer2013new.csv", rows)
    return root


def write_images(root):
    """Class folders and ferplus_votes.csv."""
    rows = []
    for row, usage in enumerate(USAGES):
        name = f"{'train' if usage == 'Training' else 'test'}/angry/{usage}_{row}.png"
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(gray(row)).save(root / name)
        rows.append({"image": name, "usage": usage, **named(row)})
    write_table(root / "ferplus_votes.csv", rows)
    return root


@pytest.fixture(params=[write_rows, write_images])
def root(request, tmp_path):
    return request.param(tmp_path)


def rows_of(dataset) -> list[int]:
    """Which row each image is, told by its gray level."""
    return [dataset.read_image(i).getpixel((5, 5))[0] // 20 for i in range(len(dataset))]


def test_majority_labels_go_with_their_images(root):
    train, test = FERPlus(root, "train"), FERPlus(root, "test")
    assert rows_of(train) == [0, 1, 4]
    assert [EXPRESSIONS[label] for label in train.labels] == ["happiness", "anger", "neutral"]
    assert rows_of(test) == [5, 7]
    assert [EXPRESSIONS[label] for label in test.labels] == ["surprise", "sadness"]
    assert [rows_of(FERPlus(root, part)) for part in ("public", "private")] == [[5], [7]]
    assert all(label == train[i][1] for i, label in enumerate(train.labels))


def test_soft_votes_are_targets_of_the_training_split_alone(root):
    train, test = FERPlus(root, "train", votes="soft"), FERPlus(root, "test", votes="soft")
    assert rows_of(train) == [0, 1, 3, 4]
    for i, row in enumerate([0, 1, 3, 4]):
        _, shares = train[i]
        np.testing.assert_allclose(shares, vote_distribution(TABLE[row]), atol=1e-6)
        assert train.labels[i] == shares.argmax()
    assert test.labels == FERPlus(root, "test").labels
    assert isinstance(test[0][1], int)


def test_classes_are_the_published_ones_in_order():
    assert FERPlus.classes == (
        "neutral",
        "happiness",
        "surprise",
        "sadness",
        "anger",
        "disgust",
        "fear",
        "contempt",
    )


def test_the_recipes_choice(tmp_path):
    write_rows(tmp_path)
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
    table = write_rows(tmp_path) / "fer2013new.csv"
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
        ("contempt", "pride", r"expected image, usage, neutral"),
        ("Training,0,10", "Training,x,10", r"row 2 of .* has the votes x 10 0"),
        ("Training,0,10", "Training,0.5,10", r"row 2 of .* has the votes 0.5 10"),
        ("Training,0,10", "Training,-1,10", r"row 2 of .* has the votes -1 10 0"),
    ],
)
def test_a_bad_table_of_images_is_refused(old, new, words, tmp_path):
    replace(write_images(tmp_path) / "ferplus_votes.csv", old, new)
    with pytest.raises(InputError, match=words):
        FERPlus(tmp_path, "train")


def test_no_votes_says_what_is_read(tmp_path):
    write_rows(tmp_path)
    (tmp_path / "fer2013new.csv").unlink()
    with pytest.raises(
        InputError, match=r"neither fer2013.csv with fer2013new.csv nor ferplus_votes"
    ):
        FERPlus(tmp_path, "train")


# ---- soft labels in the loss


def output(requires_grad: bool = False) -> DANOutput:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        values = torch.randn(*shape, generator=generator, dtype=torch.float64)
        return values.requires_grad_(requires_grad)

    return DANOutput(random(4, 8), random(4, 512, 2, 2), random(4, 3, 512))


def test_soft_labels_on_one_class_give_the_hard_loss():
    labels = torch.tensor([1, 0, 7, 3])
    criterion = DANLoss(8).double()
    hard = criterion(output(), labels)
    soft = criterion(output(), F.one_hot(labels, 8).double())
    for name, value in hard.terms.items():
        torch.testing.assert_close(soft.terms[name], value, rtol=1e-12, atol=0)


def test_soft_labels_by_loops():
    shares = torch.tensor([[0.6, 0.4, 0], [0, 0.3, 0.7]], dtype=torch.float64)
    logits = torch.tensor([[1.0, 2, 3], [0.5, -1, 2]], dtype=torch.float64)
    features = torch.arange(2 * 512, dtype=torch.float64).reshape(2, 512) / 100
    criterion = DANLoss(3, partition="none").double()
    terms = criterion(DANOutput(logits, features, logits), shares).terms
    by_hand = 0.0
    for row, share in zip(logits, shares, strict=True):
        for j in range(3):
            by_hand -= share[j] * (row[j] - row.exp().sum().log()) / 2
    torch.testing.assert_close(terms["cls"], by_hand)
    # The first image belongs to class 0, the second to class 2.
    expected = criterion.affinity(features, torch.tensor([0, 2]))
    assert terms["affinity"].item() == expected.item()


def test_soft_labels_reach_the_gradient():
    shares = torch.full((4, 8), 1 / 8, dtype=torch.float64)
    given = output(requires_grad=True)
    DANLoss(8, partition="none", fcn_loss="none").double()(given, shares).total.backward()
    expected = (given.logits.detach().softmax(1) - shares) / 4
    torch.testing.assert_close(given.logits.grad, expected)
