"""Calibration errors against explicit loops, and the temperature against a search."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from results.calibration import BINS, Calibration, fit_temperature

CLASSES = 4


def overconfident(images: int = 400, factor: float = 3.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits whose labels were drawn from softmax(logits / factor)."""
    generator = torch.Generator().manual_seed(seed)
    true = torch.randn(images, CLASSES, generator=generator) * 1.5
    labels = torch.multinomial(true.softmax(dim=1), 1, generator=generator).squeeze(1)
    return factor * true, labels


def probabilities(logits: Tensor, temperature: float) -> list[list[float]]:
    rows = []
    for row in logits.double().tolist():
        powers = [math.exp(value / temperature) for value in row]
        rows.append([power / sum(powers) for power in powers])
    return rows


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_errors_are_those_of_a_loop(temperature):
    logits, labels = overconfident()
    found = Calibration.of(logits, labels, temperature)
    brier = nll = 0.0
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(BINS)]
    for shares, label in zip(probabilities(logits, temperature), labels.tolist(), strict=True):
        brier += sum((p - (c == label)) ** 2 for c, p in enumerate(shares)) / len(labels)
        nll -= math.log(shares[label]) / len(labels)
        top = max(shares)
        number = next(i for i in range(BINS) if top <= (i + 1) / BINS)
        bins[number].append((top, shares[label] == top))
    ece = 0.0
    for i, members in enumerate(bins):
        assert found.counts[i] == len(members)
        if not members:
            assert math.isnan(found.confidences[i])
            assert math.isnan(found.accuracies[i])
            continue
        confidence = sum(top for top, _ in members) / len(members)
        accuracy = sum(right for _, right in members) / len(members)
        assert found.confidences[i] == pytest.approx(confidence)
        assert found.accuracies[i] == pytest.approx(accuracy)
        ece += len(members) / len(labels) * abs(confidence - accuracy)
    assert (found.brier, found.nll, found.ece) == pytest.approx((brier, nll, ece))


def test_the_edges_of_the_bins_belong_to_the_bin_below():
    """Two equal classes have a top probability of 1/2, whose bin of 15 is the eighth."""
    logits = torch.tensor([[0.0, 0.0], [100.0, 0.0]])
    found = Calibration.of(logits, torch.tensor([0, 1]))
    assert found.counts.nonzero()[0].tolist() == [7, BINS - 1]
    three = Calibration.of(torch.zeros(1, 3), torch.tensor([0]))
    assert three.counts.nonzero()[0].tolist() == [4]  # up to 5/15


def test_certain_and_right_has_no_error_and_certain_and_wrong_the_largest():
    logits = torch.tensor([[100.0, 0.0], [0.0, 100.0]])
    right = Calibration.of(logits, torch.tensor([0, 1]))
    assert (right.ece, right.brier, right.nll) == pytest.approx((0, 0, 0), abs=1e-6)
    wrong = Calibration.of(logits, torch.tensor([1, 0]))
    assert (wrong.ece, wrong.brier, wrong.nll) == pytest.approx((1, 2, 100))


def test_the_temperature_is_that_of_a_search():
    logits, labels = overconfident()
    found = fit_temperature(logits, labels)
    candidates = [found + step / 1000 for step in range(-300, 301)]
    best = min(candidates, key=lambda t: Calibration.of(logits, labels, t).nll)
    assert found == pytest.approx(best, abs=2e-3)


@pytest.mark.parametrize("factor", [0.3, 1.0, 3.0])
def test_the_temperature_that_made_the_labels_is_found(factor):
    logits, labels = overconfident(20_000, factor)
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(factor, rel=0.05)
    before, after = Calibration.of(logits, labels), Calibration.of(logits, labels, found)
    assert after.nll <= before.nll
    assert after.ece < 0.02


def test_the_json_is_plain_and_names_empty_bins_with_none():
    made = Calibration.of(torch.tensor([[2.0, 0.0]]), torch.tensor([0]), 2.0).json()
    assert made["temperature"] == 2.0
    assert sum(made["counts"]) == 1
    assert made["confidences"].count(None) == made["accuracies"].count(None) == BINS - 1
    assert {type(value) for value in made["confidences"]} == {float, type(None)}
