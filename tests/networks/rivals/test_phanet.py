"""PhaNet-style: its terms against loops, the gate, the bins of the yaw."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from common.errors import InputError
from networks import Method
from networks.rivals.phanet import (
    PhaNet,
    PhaNetFlags,
    PhaNetLoss,
    PhaNetOutput,
    ScaleAttention,
    edges_of,
    hierarchical_loss,
    pose_bins,
    weighted,
)
from tests.support.scripts import batch_of

LABELS = torch.tensor([0, 2, 1, 2])
YAW = torch.tensor([-80.0, -15.0, 14.9, 45.0])


def random_output() -> PhaNetOutput:
    """Of 4 images, 3 classes, 5 bins, in double precision."""
    shapes = ((4, 3), (4, 512, 1, 1), (4, 5), (4, 3, 3), (4, 3))
    return PhaNetOutput(*(torch.randn(s, dtype=torch.float64) for s in shapes), maps=())


def cross_entropy(logits: torch.Tensor, label: int) -> float:
    return math.log(sum(math.exp(v) for v in logits.tolist())) - logits[label].item()


def test_the_loss_is_its_loops():
    output, criterion = random_output(), PhaNetLoss().double()
    with torch.no_grad():
        criterion.log_weights.copy_(torch.tensor([0.5, -0.3, 1.2]))
    terms = dict.fromkeys(("hierarchical", "cls", "pose"), 0.0)
    for i, (label, pose) in enumerate(zip(LABELS.tolist(), [0, 2, 2, 4], strict=True)):
        terms["cls"] += cross_entropy(output.logits[i], label) / 4
        terms["pose"] += cross_entropy(output.pose_logits[i], pose) / 4
        for scale in range(3):
            terms["hierarchical"] += cross_entropy(output.scale_logits[i, scale], label) / 12
    pairs = zip((0.5, -0.3, 1.2), terms.values(), strict=True)
    expected = sum(math.exp(-s) * value + s for s, value in pairs)
    found = criterion(output, batch_of(LABELS, yaw=YAW))
    assert {name: term.item() for name, term in found.terms.items()} == pytest.approx(terms)
    assert found.total.item() == pytest.approx(expected)


def test_without_a_yaw_the_pose_term_is_off():
    output, criterion = random_output(), PhaNetLoss().double()
    output.pose_logits.requires_grad_()
    found = criterion(output, batch_of(LABELS))
    assert list(found.terms) == ["hierarchical", "cls"]
    assert found.total.item() == pytest.approx(sum(term.item() for term in found.terms.values()))
    found.total.backward()
    assert criterion.log_weights.grad[2] == 0
    assert (output.pose_logits.grad == 0).all()  # there, for several processes


def test_the_learned_weights_settle_at_the_logarithm_of_their_loss():
    """d/ds exp(-s) L + s = 0 at s = log L."""
    losses = [torch.tensor(value, dtype=torch.float64) for value in (0.4, 2.5, 9.0)]
    s = torch.stack(losses).log().requires_grad_()
    weighted(losses, s).backward()
    torch.testing.assert_close(s.grad, torch.zeros(3, dtype=torch.float64))


def test_gradients_are_those_of_finite_differences():
    scale_logits = torch.randn(4, 3, 3, dtype=torch.float64, requires_grad=True)
    s = torch.randn(2, dtype=torch.float64, requires_grad=True)

    def loss(scale_logits, s):
        return weighted([hierarchical_loss(scale_logits, LABELS), scale_logits.square().mean()], s)

    assert torch.autograd.gradcheck(loss, (scale_logits, s))


def test_attended_pooling_by_hand():
    scale = ScaleAttention(2).double().eval()
    features = torch.rand(3, 2, 4, 5, dtype=torch.float64)
    weights, vector = scale(features)
    for b in range(3):
        pooled = torch.zeros(2, dtype=torch.float64)
        for y in range(4):
            for x in range(5):
                logit = (scale.map.weight[0, :, 0, 0] * features[b, :, y, x]).sum()
                m = 1 / (1 + math.exp(-(logit + scale.map.bias[0]).item()))
                assert weights[b, 0, y, x].item() == pytest.approx(m)
                pooled += m * features[b, :, y, x] / 20
        expected = F.relu(scale.embed[0](pooled) / math.sqrt(1 + 1e-5))
        torch.testing.assert_close(vector[b], expected)


@pytest.mark.parametrize(
    ("size", "sides"), [(32, (4, 2, 1)), (64, (8, 4, 2)), (100, (13, 7, 4)), (224, (28, 14, 7))]
)
def test_maps_of_three_scales_at_any_size(size, sides):
    network = PhaNet(4).eval()
    with torch.no_grad():
        output = network(torch.randn(2, 3, size, size))
        maps = network.attention_maps(torch.randn(2, 3, size, size))
    assert [m.shape for m in output.maps] == [(2, 1, side, side) for side in sides]
    assert output.features.shape == (2, 512, sides[2], sides[2])
    assert maps.shape == (2, 3, sides[0], sides[0])
    torch.testing.assert_close(output.gate.sum(dim=1), torch.ones(2))


def test_the_gate_chooses_the_scale():
    """With the gate forced to one scale, the logits are those of its vector alone."""
    network = PhaNet(4).eval()
    with torch.no_grad():
        network.gate.weight.zero_()
        network.gate.bias.copy_(torch.tensor([-1e4, 0.0, -1e4]))
        network.fc.load_state_dict(network.scale_heads[1].state_dict())
        output = network(torch.randn(3, 3, 64, 64))
    assert torch.equal(output.gate, torch.tensor([[0.0, 1.0, 0.0]]).expand(3, 3))
    torch.testing.assert_close(output.logits, output.scale_logits[:, 1])


def test_bins_of_the_yaw_hold_their_lower_edge():
    yaw = torch.tensor([-90.0, -45.1, -45, -15, 0, 15, 44.9, 45, 90])
    edges = torch.tensor([-45.0, -15, 15, 45])
    assert pose_bins(yaw, edges).tolist() == [0, 0, 1, 2, 2, 3, 3, 4, 4]


def test_edges_are_a_flag_to_either_side():
    assert edges_of("15,45") == (-45, -15, 15, 45)
    network = Method(
        arch="phanet", pretrained="none", phanet=PhaNetFlags(phanet_pose_edges="30")
    ).network(3)
    assert network.pose.out_features == 3
    assert network.pose_edges.tolist() == [-30, 30]
    for text in ("45,15", "0,20", "90", "a", "", "15,15", "nan"):
        with pytest.raises(InputError, match=r"--phanet-pose-edges is .*15,45"):
            edges_of(text)


def test_the_yaw_is_asked_for_unless_the_pose_is_off():
    assert PhaNetFlags().targets == ("yaw",)
    assert PhaNetFlags(phanet_pose="off").targets == ()


def test_invalid_arguments_are_errors():
    with pytest.raises(ValueError, match="num_classes is 1"):
        PhaNet(1)
    with pytest.raises(ValueError, match="pose_edges are"):
        PhaNet(3, [30, -30])
