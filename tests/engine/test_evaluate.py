"""Metrics against explicit loops and the closed formula, and predictions of a split."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics
from torch import nn

from common.batch import Sample
from common.errors import InputError
from datasets import RAFDB, transforms
from engine.data import SeededImages, evaluation_loader
from engine.evaluate import Metrics, Predictions, predict, wilson_interval
from tests.support.scripts import CLASSES, SIZE, TinyNetwork, damage, face

CPU = torch.device("cpu")

# --------------------------------------------------------------------------------------------
# Metrics


def metrics_of(
    labels: Sequence[int], predictions: Sequence[int], classes: int = CLASSES
) -> Metrics:
    """Of logits whose largest is the prediction's."""
    logits = torch.full((len(labels), classes), -1.0)
    logits[torch.arange(len(labels)), torch.tensor(predictions)] = 2.5
    return Metrics.of(logits, torch.tensor(labels))


def by_loops(labels: Sequence[int], predictions: Sequence[int], classes: int = CLASSES) -> dict:
    """Every number of `Metrics` from its definition; nan where there is nothing to divide by."""
    counts = [[0] * classes for _ in range(classes)]
    for label, prediction in zip(labels, predictions, strict=True):
        counts[label][prediction] += 1
    recalls, precisions, f1_scores, fractions = [], [], [], []
    for c in range(classes):
        hits, images = counts[c][c], sum(counts[c])
        predicted = sum(row[c] for row in counts)
        recalls.append(hits / images if images else math.nan)
        precisions.append(hits / predicted if predicted else math.nan)
        f1_scores.append(2 * hits / (images + predicted) if images + predicted else math.nan)
        fractions.append([count / images if images else 0.0 for count in counts[c]])
    known_recalls = [recall for recall in recalls if not math.isnan(recall)]
    known_f1 = [f1 for f1 in f1_scores if not math.isnan(f1)]
    return {
        "counts": counts,
        "images": len(labels),
        "accuracy": sum(counts[c][c] for c in range(classes)) / len(labels),
        "mean_class_accuracy": sum(known_recalls) / len(known_recalls),
        "macro_f1": sum(known_f1) / len(known_f1),
        "recalls": recalls,
        "precisions": precisions,
        "f1_scores": f1_scores,
        "fractions": fractions,
    }


def assert_by_definition(
    labels: Sequence[int], predictions: Sequence[int], classes: int = CLASSES
) -> Metrics:
    metrics = metrics_of(labels, predictions, classes)
    expected = by_loops(labels, predictions, classes)
    assert metrics.fractions().tolist() == expected.pop("fractions")
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(metrics, name), value, rtol=1e-12, err_msg=name)
    return metrics


def random_predictions(seed: int, *, absent=(), never=()) -> tuple[list[int], list[int]]:
    """Labels and predictions that agree half of the time, in seven classes."""
    rng = np.random.default_rng(seed)
    labels = rng.choice([c for c in range(CLASSES) if c not in absent], 400)
    guesses = rng.choice([c for c in range(CLASSES) if c not in never], 400)
    agree = (rng.random(400) < 0.5) & ~np.isin(labels, never)
    return labels.tolist(), np.where(agree, labels, guesses).tolist()


CASES = {
    "all classes": {},
    "a class without images": {"absent": (2,)},
    "a class that is never predicted": {"never": (4,)},
    "a class that is neither": {"absent": (6,), "never": (6,)},
    "several of each": {"absent": (0, 1), "never": (1, 5)},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("seed", range(3))
def test_metrics_equal_their_definitions_in_loops(seed, case):
    labels, predictions = random_predictions(seed, **case)
    metrics = assert_by_definition(labels, predictions)
    for c in range(CLASSES):
        assert math.isnan(metrics.recalls[c]) == (c not in labels)
        assert math.isnan(metrics.precisions[c]) == (c not in predictions)
        assert math.isnan(metrics.f1_scores[c]) == (c not in {*labels, *predictions})


@pytest.mark.filterwarnings("ignore:y_pred contains classes")
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_means_over_classes_equal_scikit_learns(case):
    labels, predictions = random_predictions(11, **case)
    metrics = metrics_of(labels, predictions)
    balanced = sklearn_metrics.balanced_accuracy_score(labels, predictions)
    macro_f1 = sklearn_metrics.f1_score(labels, predictions, average="macro")
    assert metrics.mean_class_accuracy == pytest.approx(balanced)
    assert metrics.macro_f1 == pytest.approx(macro_f1)


@pytest.mark.parametrize(
    ("labels", "predictions"),
    [
        ([3], [3]),
        ([3], [5]),
        ([0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 3, 4, 5, 6]),
        ([0, 1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6, 0]),
        ([6] * 5, [6] * 5),
        ([0, 1, 1], [1, 1, 1]),
    ],
    ids=["one right", "one wrong", "all right", "all wrong", "one class", "one prediction"],
)
def test_edges_equal_their_definitions_in_loops(labels, predictions):
    assert_by_definition(labels, predictions)


def test_two_classes_equal_their_definitions_in_loops():
    assert_by_definition([0, 0, 1, 1, 1], [0, 1, 1, 1, 0], classes=2)


def test_metrics_by_hand():
    # Class 0: 2 of 3 found, 1 taken for 1. Class 1: 1 of 1. Class 2: neither.
    metrics = metrics_of([0, 0, 0, 1], [0, 0, 1, 1], classes=3)
    assert metrics.counts.tolist() == [[2, 1, 0], [0, 1, 0], [0, 0, 0]]
    assert metrics.images == 4
    assert metrics.accuracy == 3 / 4
    assert metrics.mean_class_accuracy == pytest.approx((2 / 3 + 1) / 2)
    assert metrics.macro_f1 == pytest.approx((4 / 5 + 2 / 3) / 2)
    np.testing.assert_allclose(metrics.recalls, [2 / 3, 1, math.nan])
    np.testing.assert_allclose(metrics.precisions, [1, 1 / 2, math.nan])
    np.testing.assert_allclose(metrics.f1_scores, [4 / 5, 2 / 3, math.nan])
    np.testing.assert_allclose(metrics.fractions(), [[2 / 3, 1 / 3, 0], [0, 1, 0], [0, 0, 0]])


def test_the_mean_class_accuracy_is_not_a_mean_over_batches():
    """The paper's 85.32 was averaged batch by batch; ours is one matrix over the split."""
    labels, predictions = map(np.array, random_predictions(3))
    whole = metrics_of(labels.tolist(), predictions.tolist())
    order = np.random.default_rng(0).permutation(len(labels))
    shuffled = metrics_of(labels[order].tolist(), predictions[order].tolist())
    assert (shuffled.counts == whole.counts).all()
    halves = [
        metrics_of(labels[half].tolist(), predictions[half].tolist())
        for half in (order[:30], order[30:])
    ]
    by_batch = np.mean([half.mean_class_accuracy for half in halves])
    assert by_batch != pytest.approx(whole.mean_class_accuracy, abs=1e-4)


# --------------------------------------------------------------------------------------------
# The interval

Z95 = 1.959963984540054  # the 97.5 % point of the normal distribution


@pytest.mark.parametrize(
    ("right", "images"), [(2750, 3068), (50, 100), (1, 3), (0, 10), (10, 10), (1, 1), (0, 1)]
)
def test_the_interval_equals_wilsons_formula(right, images):
    share, z2 = right / images, Z95**2
    center = (share + z2 / (2 * images)) / (1 + z2 / images)
    half = Z95 * math.sqrt(share * (1 - share) / images + z2 / (4 * images**2))
    half /= 1 + z2 / images
    low, high = wilson_interval(right, images)
    assert (low, high) == pytest.approx((center - half, center + half), abs=1e-12)
    assert 0 <= low <= share <= high <= 1


def test_metrics_have_the_interval_of_their_accuracy():
    metrics = metrics_of([0, 1, 2, 3], [0, 1, 2, 4])
    assert metrics.accuracy_interval == wilson_interval(3, 4)


def test_the_interval_on_rafdb_is_about_as_wide_as_the_papers_margins():
    low, high = wilson_interval(2750, 3068)
    assert 100 * (high - low) / 2 == pytest.approx(1.08, abs=0.01)


# --------------------------------------------------------------------------------------------
# Predictions


@pytest.fixture(scope="module")
def network(data) -> nn.Module:
    """The tiny network with the statistics of the images, so that its predictions vary."""
    torch.manual_seed(0)
    network = TinyNetwork(CLASSES)
    dataset = RAFDB(data, "test", transforms.evaluation(SIZE))
    network.train()(torch.stack([dataset[i].image for i in range(len(dataset))]))
    with torch.no_grad():
        network.fc.weight.mul_(30)
    return network.eval()


def predictions_of(network: nn.Module, data, batch_size: int = 8, workers: int = 0) -> Predictions:
    images = SeededImages(RAFDB(data, "test", transforms.evaluation(SIZE)))
    loader = evaluation_loader(images, batch_size, workers=workers, device=CPU)
    return predict(network, loader, CPU)


@pytest.mark.parametrize(("batch_size", "workers"), [(14, 0), (1, 0), (5, 0), (64, 2)])
def test_predictions_equal_the_network_on_one_image_after_the_other(
    network, data, batch_size, workers
):
    dataset = RAFDB(data, "test", transforms.evaluation(SIZE))
    with torch.no_grad():
        expected = torch.cat([network(dataset[i].image[None]).logits for i in range(14)])
    assert len(set(expected.argmax(1).tolist())) >= 3  # otherwise any network would do
    logits, labels, indices = predictions_of(network, data, batch_size, workers)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    assert labels.tolist() == dataset.labels
    assert indices == list(range(14))


def test_predicting_changes_nothing_but_the_mode(network, data):
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    generator = torch.get_rng_state()
    network.train()
    predictions_of(network, data)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)
    assert not network.training
    assert all(p.grad is None and p.requires_grad for p in network.parameters())
    assert torch.is_grad_enabled()


def test_in_bf16_the_network_computes_and_the_logits_are_float32(network, data):
    images = SeededImages(RAFDB(data, "test", transforms.evaluation(SIZE)))
    loader = evaluation_loader(images, 8, workers=0, device=CPU)
    types = []
    hook = network.register_forward_hook(lambda _, __, output: types.append(output.features.dtype))
    logits, _, _ = predict(network, loader, CPU, bf16=True)
    hook.remove()
    assert types == [torch.bfloat16] * 2
    assert logits.dtype == torch.float32
    expected = predictions_of(network, data).logits
    assert 0 < (logits - expected).abs().max() < 0.05 * expected.abs().max()


def test_skipped_images_are_named_and_missing(network, own_data):
    expected = predictions_of(network, own_data)
    damage(own_data, "test_0002", "test_0005")
    images = SeededImages(RAFDB(own_data, "test", transforms.evaluation(SIZE)))
    loader = evaluation_loader(images, 4, workers=0, device=CPU)
    with pytest.raises(InputError, match="test_0002"):
        predict(network, loader, CPU)
    skipped: list[str] = []
    logits, labels, indices = predict(network, loader, CPU, skipped=skipped)
    kept = [i for i in range(14) if i not in (1, 4)]
    assert indices == kept
    assert labels.tolist() == expected.labels[kept].tolist()
    torch.testing.assert_close(logits, expected.logits[kept], rtol=1e-4, atol=1e-4)
    for name, line in zip(("test_0002", "test_0005"), skipped, strict=True):
        assert str(face(own_data, name)) in line


def test_a_split_without_a_usable_image_is_refused(network, own_data):
    damage(own_data, *(f"test_{i + 1:04d}" for i in range(14)))
    images = SeededImages(RAFDB(own_data, "test", transforms.evaluation(SIZE)))
    loader = evaluation_loader(images, 4, workers=0, device=CPU)
    with pytest.raises(InputError, match=r"none of the images .* can be used: image .*test_0001"):
        predict(network, loader, CPU, skipped=[])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_refused(data, bad):
    """The arg max of nan is a class too: the numbers would look like a bad network's."""
    network = TinyNetwork(CLASSES)
    with torch.no_grad():
        network.fc.bias[2] = bad
    with pytest.raises(InputError, match="the network's output is not finite"):
        predictions_of(network, data)


class CountedImages:
    """Images that are made when they are asked for, and counted while they are alive."""

    def __init__(self, count: int):
        self.labels = [index % CLASSES for index in range(count)]
        self.alive = self.most = 0

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Sample:
        image = torch.full((3, SIZE, SIZE), float(index))
        self.alive += 1
        self.most = max(self.most, self.alive)
        weakref.finalize(image, self._gone)
        return Sample(image, self.labels[index])

    def _gone(self) -> None:
        self.alive -= 1


def test_the_memory_does_not_grow_with_the_number_of_images():
    most = []
    for count in (40, 400):
        images = CountedImages(count)
        loader = evaluation_loader(SeededImages(images), 8, workers=0, device=CPU)
        logits, labels, _ = predict(TinyNetwork(CLASSES), loader, CPU)
        assert (len(logits), labels.tolist()) == (count, images.labels)
        most.append(images.most)
        assert images.alive == 0
    assert most[0] == most[1] <= 16
