"""SCN: groups, new labels, and how they are kept."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from networks.rivals.scn import SCN, SCNFlags, SCNLoss, SCNOutput, rank_regularization, relabel
from tests.support.scripts import batch_of

ALPHA = torch.tensor([0.9, 0.1, 0.5, 0.7, 0.3], dtype=torch.float64)
#: p_max - p_given is 0.8 for every image with another label than 2.
SURE = torch.tensor([[0.1, 0.0, 0.9]] * 5, dtype=torch.float64).clamp_min(1e-9).log()


def sure_output() -> SCNOutput:
    return SCNOutput(SURE.clone(), None, ALPHA)


def trained(form: str = "released", epoch: int = 10, **flags: float) -> SCNLoss:
    criterion = SCNFlags(scn_form=form, **flags).criterion(3).train()
    criterion.epoch = epoch
    return criterion


@pytest.mark.parametrize("beta", [0.2, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("margin", [0.07, 0.15, 0.9])
def test_rank_regularization_is_its_equation(beta, margin):
    ordered = sorted(ALPHA.tolist(), reverse=True)
    high = int(beta * 5)
    top, rest = ordered[:high], ordered[high:]
    distance = math.fsum(top) / len(top) - math.fsum(rest) / len(rest)
    ours = rank_regularization(ALPHA, beta, margin)
    assert ours.item() == pytest.approx(max(0, margin - distance), rel=1e-12, abs=1e-12)
    shuffled = ALPHA[torch.tensor([3, 0, 4, 1, 2])]
    assert rank_regularization(shuffled, beta, margin) == ours


def test_rank_regularization_has_the_gradient_of_its_value():
    alpha = ALPHA.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda a: rank_regularization(a, 0.5, 0.9), alpha)


def test_a_batch_without_one_of_the_groups_has_no_rank_loss():
    assert rank_regularization(ALPHA[:1], 0.7, 0.15) == 0
    assert rank_regularization(ALPHA[:2], 0.3, 0.15) == 0


def test_labels_change_where_the_prediction_is_above_them_by_more_than_the_margin():
    probabilities = torch.tensor([[0.6, 0.4], [0.45, 0.55], [0.625, 0.375], [0.2, 0.8]])
    labels = torch.tensor([1, 0, 1, 1])
    assert relabel(probabilities, labels, 0.15).tolist() == [0, 0, 0, 1]
    assert relabel(probabilities, labels, 0.25).tolist() == [1, 0, 1, 1]  # not more than 0.25
    assert labels.tolist() == [1, 0, 1, 1]


@pytest.mark.parametrize(
    ("form", "changed"), [("released", {0: 2, 1: 2, 2: 2, 4: 2}), ("paper", {1: 2, 4: 2})]
)
def test_new_labels_are_used_from_the_next_time_on(form, changed):
    labels = torch.tensor([0, 0, 1, 2, 1])
    criterion, batch = trained(form), batch_of(labels)
    first = criterion(sure_output(), batch)
    assert first.terms["relabelled"].item() == pytest.approx(len(changed) / 5)
    assert criterion.changed == changed
    assert batch.labels.tolist() == [0, 0, 1, 2, 1]
    new = torch.tensor([changed.get(i, label) for i, label in enumerate(labels.tolist())])
    assert criterion.labels(batch).tolist() == new.tolist()
    second = criterion(sure_output(), batch)
    expected = torch.nn.functional.cross_entropy(SURE, new)
    torch.testing.assert_close(second.terms["cls"], expected)
    assert second.terms["cls"] < first.terms["cls"]


def test_nothing_is_relabelled_before_the_epoch_and_in_evaluation():
    labels = torch.zeros(5, dtype=torch.int64)
    for criterion in (trained(epoch=9), trained().eval(), trained(scn_margin2=0.9)):
        assert criterion(sure_output(), batch_of(labels)).terms["relabelled"] == 0
        assert criterion.changed == {}


def test_new_labels_follow_the_image_not_its_place_in_the_batch():
    criterion = trained()
    criterion.changed = {7: 2}
    batch = batch_of(torch.tensor([0, 0, 1]))
    moved = type(batch)(batch.images, batch.labels, torch.tensor([3, 7, 70]))
    assert criterion.labels(moved).tolist() == [0, 2, 1]


def test_new_labels_are_in_the_state_and_only_those_are_accepted():
    criterion, other = trained(), SCNFlags().criterion(3)
    criterion.changed = {7: 2, 12_270: 0}
    other.load_state_dict(criterion.state_dict())
    assert other.changed == criterion.changed
    with pytest.raises(ValueError, match="Expecting value"):
        other.set_extra_state("seven")


def test_a_relabelled_images_soft_label_becomes_its_new_label():
    criterion = trained()
    criterion.changed = {1: 2}
    soft = torch.tensor([[0.5, 0.5, 0.0]] * 5, dtype=torch.float64)
    labels = torch.tensor([0, 0, 1, 2, 1])
    loss = criterion.eval()(sure_output(), batch_of(labels, soft_labels=soft))
    mixed = -SURE.log_softmax(dim=1)
    expected = (4 * (0.5 * mixed[0, 0] + 0.5 * mixed[0, 1]) + mixed[0, 2]) / 5
    torch.testing.assert_close(loss.terms["cls"], expected)


def test_the_network_scales_logits_with_the_bias():
    torch.manual_seed(0)
    network = SCN(3).eval()
    images = torch.randn(2, 3, 40, 32)
    with torch.no_grad():
        output = network(images)
        pooled = network.features(images).mean(dim=(2, 3))
    for i in range(2):
        alpha = torch.sigmoid(network.alpha[0](pooled[i])).item()
        assert output.alpha[i].item() == pytest.approx(alpha)
        for k in range(3):
            logit: Tensor = pooled[i] @ network.fc.weight[k] + network.fc.bias[k]
            assert output.logits[i, k].item() == pytest.approx(alpha * logit.item(), rel=1e-4)
