"""EAC: the second view, and the consistency of the attention maps."""

from __future__ import annotations

import pytest
import torch

from networks.rivals.eac import EAC, EACFlags, consistency_loss
from tests.support.scripts import batch_of


def made(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("side", [(1, 1), (3, 2), (2, 5)])
def test_consistency_is_its_equation_for_any_size_of_the_map(side):
    height, width = side
    one, other = made(2, 4, *side), made(2, 4, *side, seed=1)
    weight = made(3, 4, seed=2)
    total = 0.0
    for i in range(2):
        for k in range(3):
            for y in range(height):
                for x in range(width):
                    here = sum(weight[k, c] * one[i, c, y, x] for c in range(4))
                    there = sum(weight[k, c] * other[i, c, y, width - 1 - x] for c in range(4))
                    total += float(here - there) ** 2
    ours = consistency_loss(one, other, weight)
    assert ours.item() == pytest.approx(total / (2 * 3 * height * width), rel=1e-12)


def test_consistency_has_the_gradient_of_its_value_and_none_for_the_classifier():
    one, other = made(2, 3, 2, 3).requires_grad_(), made(2, 3, 2, 3, seed=1).requires_grad_()
    weight = made(2, 3, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: consistency_loss(a, b, weight), (one, other))
    consistency_loss(one, other, weight).backward()
    assert weight.grad is None


def test_the_second_view_is_the_mirrored_image_in_training_alone():
    torch.manual_seed(0)
    network = EAC(3).train()
    images = torch.randn(2, 3, 64, 96)
    mean = network.features[1].running_mean.clone()
    output = network(images)
    assert network.features[1].num_batches_tracked == 2  # both views update BatchNorm
    assert not torch.equal(network.features[1].running_mean, mean)
    torch.testing.assert_close(output.mirrored, network.features(images.flip(3)))
    assert not output.weight.requires_grad
    assert network.eval()(images).mirrored is None


def test_mirrored_faces_with_mirrored_maps_are_consistent():
    features = made(2, 4, 3, 3)
    assert consistency_loss(features, features.flip(3), made(3, 4)) == 0


def test_the_loss_without_a_second_view_is_cross_entropy():
    torch.manual_seed(0)
    network, criterion = EAC(3).eval(), EACFlags().criterion(3)
    output = network(torch.randn(2, 3, 32, 32))
    loss = criterion(output, batch_of(torch.tensor([0, 2])))
    assert list(loss.terms) == ["cls"]
    assert loss.total == loss.terms["cls"]


def test_the_map_is_that_of_the_most_probable_class():
    torch.manual_seed(0)
    network = EAC(3).eval()
    images = torch.randn(2, 3, 96, 64)
    with torch.no_grad():
        output, maps = network(images), network.attention_maps(images)
    assert maps.shape == (2, 1, 3, 2)
    for i in range(2):
        chosen = network.fc.weight[output.logits[i].argmax()]
        expected = (chosen[:, None, None] * output.features[i]).sum(dim=0).clamp_min(0)
        torch.testing.assert_close(maps[i, 0], expected)
