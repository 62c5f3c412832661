"""Corruption errors against the formulas of Hendrycks and Dietterich (2019), by hand."""

from __future__ import annotations

import pytest
import torch

from engine.evaluate import Metrics
from results.robustness import (
    Robustness,
    robustness_charts,
    robustness_json,
    robustness_summary,
    robustness_table,
)


def metrics(wrong: int) -> Metrics:
    """Of 100 images."""
    labels = torch.tensor([0] * 50 + [1] * 50)
    predicted = labels.clone()
    predicted[:wrong] = 1 - predicted[:wrong]
    return Metrics.of(torch.eye(2)[predicted], labels)


def robustness(clean: int, **wrong: list[int]) -> Robustness:
    rows = {name.replace("_", "-"): [metrics(n) for n in row] for name, row in wrong.items()}
    return Robustness("x.pth", metrics(clean), rows)


OURS = robustness(10, jpeg=[10, 12, 15, 20, 23], gaussian_noise=[20, 25, 30, 35, 40])
REFERENCE = robustness(20, jpeg=[20, 25, 30, 35, 50], gaussian_noise=[30, 35, 40, 45, 50])


def test_corruption_errors_are_ratios_of_sums():
    assert OURS.corruption_errors(REFERENCE) == {
        "jpeg": pytest.approx(80 / 160),
        "gaussian-noise": pytest.approx(150 / 200),
    }
    # Less five times the clean error: 50 and 100.
    assert OURS.relative_corruption_errors(REFERENCE) == {
        "jpeg": pytest.approx(30 / 60),
        "gaussian-noise": pytest.approx(100 / 100),
    }
    assert OURS.mean_accuracy == pytest.approx(1 - 230 / 1000)
    content = robustness_json(OURS, REFERENCE)
    assert content["reference"]["mean_corruption_error"] == pytest.approx(0.625)
    assert content["reference"]["relative_mean_corruption_error"] == pytest.approx(0.75)
    assert "mean corruption error 62.5 % (relative: 75.0 %)" in robustness_summary(content)
    assert robustness_table(content)[1] == [
        *("jpeg", "90.00", "88.00", "85.00", "80.00", "77.00"),
        *("84.00", "50.0"),
    ]


def test_a_reference_without_errors_gives_no_ratio():
    perfect = robustness(0, jpeg=[0] * 5, gaussian_noise=[0, 0, 0, 0, 50])
    content = robustness_json(OURS, perfect)["reference"]
    assert content["corruption_error"] == {"jpeg": None, "gaussian-noise": pytest.approx(3)}
    assert content["mean_corruption_error"] == pytest.approx(3)
    table = robustness_table(robustness_json(OURS, perfect))
    assert (table[0][-1], table[1][-1]) == ("CE, %", "-")


def test_without_a_reference_there_are_accuracies_only():
    content = robustness_json(OURS)
    assert content["reference"] is None
    assert robustness_table(content)[0][-1] == "mean"
    assert "against" not in robustness_summary(content)


def test_each_family_has_a_chart_that_begins_with_the_clean_images():
    charts = dict(robustness_charts(robustness_json(OURS)))
    assert list(charts) == ["Compression", "Noise"]
    assert "under compression: jpeg 90.00 to 77.00" in charts["Compression"]
