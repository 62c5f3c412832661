"""Ours against the authors' network and losses, float64, to 1e-9 relative."""

from __future__ import annotations

import csv
import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.optim import SGD

from networks import DAN, DANLoss, DANOutput
from networks.losses import VARIANCE_FLOOR
from tests.support.golden import (
    CASES,
    STATE_DICT_TABLE,
    assert_agrees,
    load_case,
    rebuilt_batch,
    rebuilt_state_dict,
)
from tests.support.scripts import batch_of


class Rebuilt(NamedTuple):
    """A golden case with the network it was computed with."""

    case: dict
    network: DAN
    images: Tensor
    labels: Tensor
    centers: Tensor

    def criterion(self, partition: str) -> DANLoss:
        criterion = DANLoss(self.case["classes"], partition=partition).double()
        with torch.no_grad():
            criterion.affinity.centers.copy_(self.centers)
        return criterion

    def losses(self, output: DANOutput) -> dict[str, Tensor]:
        """All terms by their golden names."""
        released = self.criterion("released")(output, batch_of(self.labels)).terms
        eq6 = self.criterion("eq6")(output, batch_of(self.labels)).terms["partition"]
        return {
            "cls": released["cls"],
            "affinity": released["affinity"],
            "partition_released": released["partition"],
            "partition_eq6": eq6,
        }


def rebuild(name: str) -> Rebuilt:
    case = load_case(name)
    network = DAN(case["classes"], case["heads"]).double()
    network.load_state_dict(rebuilt_state_dict(network.state_dict(), case["salt"]))
    return Rebuilt(case, network, *rebuilt_batch(case))


@pytest.fixture(scope="module", params=CASES)
def rebuilt(request) -> Rebuilt:
    return rebuild(request.param)


@pytest.fixture(scope="module")
def eval_output(rebuilt) -> DANOutput:
    rebuilt.network.eval()
    with torch.no_grad():
        return rebuilt.network(rebuilt.images)


@pytest.fixture(scope="module", params=CASES)
def trained(request) -> tuple[dict, DANOutput, dict, dict, list[float]]:
    """(case, output, losses and gradient norms of the first step, total loss of five steps)."""
    start = rebuild(request.param)
    network, criterion = start.network.train(), start.criterion("released")
    parameters = dict(network.named_parameters()) | {"centers": criterion.affinity.centers}
    optimizer = SGD(parameters.values(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    totals, first = [], None
    for _ in range(5):
        optimizer.zero_grad()
        output = network(start.images)
        loss = criterion(output, batch_of(start.labels))
        loss.total.backward()
        if first is None:
            norms = {name: parameter.grad.norm() for name, parameter in parameters.items()}
            first = output, start.losses(output), norms
        optimizer.step()
        totals.append(loss.total.detach())
    return start.case, *first, torch.stack(totals)


def assert_losses_agree(ours: dict[str, Tensor], expected: dict[str, float | None]) -> None:
    assert set(ours) == set(expected)
    for name, value in expected.items():
        if value is None:
            # Infinite without the floor, which we document; see test_null_is_infinite.
            assert torch.isfinite(ours[name])
        else:
            assert_agrees(ours[name], value)


def test_the_labels_of_the_file_are_rebuilt(rebuilt):
    assert rebuilt.labels.tolist() == rebuilt.case["labels"]


def test_eval_logits(rebuilt, eval_output):
    assert_agrees(eval_output.logits, rebuilt.case["eval"]["logits"])


def test_eval_features(rebuilt, eval_output):
    assert_agrees(eval_output.features.mean(), rebuilt.case["eval"]["features_mean"])
    assert_agrees(eval_output.features.std(), rebuilt.case["eval"]["features_std"])


def test_eval_heads(rebuilt, eval_output):
    assert_agrees(eval_output.heads[:, :, :8], rebuilt.case["eval"]["heads_first8"])
    assert_agrees(eval_output.heads.mean(), rebuilt.case["eval"]["heads_mean"])


def test_eval_losses(rebuilt, eval_output):
    assert_losses_agree(rebuilt.losses(eval_output), rebuilt.case["eval"]["losses"])


@pytest.mark.slow
def test_train_logits(trained):
    case, output, *_ = trained
    assert_agrees(output.logits, case["train"]["logits"])


@pytest.mark.slow
def test_train_losses(trained):
    case, _, losses, *_ = trained
    assert_losses_agree(losses, case["train"]["losses"])


@pytest.mark.slow
def test_train_gradient_norms(trained):
    case, _, _, norms, _ = trained
    expected = case["train"]["grad_norm_released"]
    assert len(expected) == 10
    for name, value in expected.items():
        assert_agrees(norms[name], value)


@pytest.mark.slow
def test_five_steps_of_sgd_over_network_and_centers(trained):
    case, *_, totals = trained
    assert_agrees(totals, case["sgd_5_steps_total_loss"])


@pytest.mark.slow
def test_null_is_infinite_without_the_floor_and_what_the_floor_makes_of_it(trained):
    case, output, losses, *_ = trained
    if case["heads"] == 1:
        assert losses["partition_eq6"] == 0
        return
    variance = output.heads.detach().var(dim=1)
    literal = torch.log1p(case["heads"] / variance)
    assert (variance == 0).any()
    assert torch.isinf(literal).any()
    floored = literal.clamp_max(math.log(1 + case["heads"] / VARIANCE_FLOOR))
    assert_agrees(losses["partition_eq6"], floored.mean())


# ---- names, shapes and sizes of the release


def test_state_dict_has_the_released_names_in_order_and_shapes():
    with STATE_DICT_TABLE.open(newline="", encoding="utf-8") as stream:
        released = [(row["name"], row["shape"]) for row in csv.DictReader(stream)]
    ours = DAN(num_classes=7, num_heads=4).state_dict()
    shapes = [(name, "x".join(map(str, tensor.shape)) or "scalar") for name, tensor in ours.items()]
    assert len(released) == 275
    assert shapes == released


@pytest.mark.parametrize(
    ("classes", "heads", "size"),
    [
        (7, 1, 13_316_021),
        (7, 2, 15_451_925),
        (7, 3, 17_587_829),
        (7, 4, 19_723_733),
        (7, 5, 21_859_637),
        (8, 4, 19_724_248),
    ],
)
def test_number_of_parameters(classes, heads, size):
    parameters = list(DAN(classes, heads).parameters())
    assert sum(parameter.numel() for parameter in parameters) == size


def test_the_released_optimizer_has_152_parameters_and_the_centers():
    network, criterion = DAN(), DANLoss(7)
    assert len(list(network.parameters())) == 152
    assert [tuple(p.shape) for p in criterion.parameters()] == [(7, 512)]
