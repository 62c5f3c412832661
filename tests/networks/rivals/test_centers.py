"""Center, island and DDA loss, DACL's sparse one, and how their centers move, against loops."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from networks.rivals import RIVALS
from networks.rivals.center import center_loss
from networks.rivals.centers import center_gradient
from networks.rivals.dacl import sparse_center_loss
from networks.rivals.dda import discriminant_loss
from networks.rivals.island import island_loss, pair_loss
from tests.support.scripts import batch_of

ARCHS = ("center", "island", "dda", "dacl")


def made(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


FEATURES, CENTERS, ATTENTION = made(5, 4), made(3, 4, seed=1), made(5, 4, seed=2).sigmoid()
LABELS = torch.tensor([0, 2, 2, 0, 2])  # no image of class 1


def sparse_by_hand(attention: Tensor) -> float:
    total = 0.0
    for i, label in enumerate(LABELS.tolist()):
        for d in range(4):
            difference = float(FEATURES[i, d] - CENTERS[label, d])
            total += float(attention[i, d]) * difference**2
    return total / (2 * len(LABELS))


def pairs_by_hand() -> float:
    total = 0.0
    for j, one in enumerate(CENTERS.tolist()):
        for k, other in enumerate(CENTERS.tolist()):
            if j != k:
                dot = sum(a * b for a, b in zip(one, other, strict=True))
                total += dot / (math.hypot(*one) * math.hypot(*other)) + 1
    return total


def discriminant_by_hand() -> float:
    total = 0.0
    for i, label in enumerate(LABELS.tolist()):
        nearness = [
            math.exp(-sum(float(a - b) ** 2 for a, b in zip(FEATURES[i], center, strict=True)))
            for center in CENTERS
        ]
        total -= math.log(nearness[label] / sum(nearness))
    return total / len(LABELS)


def wens_step_by_hand(attention: Tensor) -> Tensor:
    step = torch.zeros(3, 4, dtype=torch.float64)
    for j in range(3):
        members = [i for i, label in enumerate(LABELS.tolist()) if label == j]
        for i in members:
            step[j] += attention[i] * (CENTERS[j] - FEATURES[i]) / (1 + len(members))
    return step


def test_losses_are_their_equations():
    sparse, pairs = sparse_by_hand(torch.ones(5, 4)), pairs_by_hand()
    found = {
        "center": (center_loss(FEATURES, LABELS, CENTERS), sparse),
        "dacl": (
            sparse_center_loss(FEATURES, ATTENTION, LABELS, CENTERS),
            sparse_by_hand(ATTENTION),
        ),
        "pairs": (pair_loss(CENTERS), pairs),
        "island": (island_loss(FEATURES, LABELS, CENTERS, 10.0), sparse + 10 * pairs),
        "dda": (discriminant_loss(FEATURES, LABELS, CENTERS), discriminant_by_hand()),
    }
    for name, (ours, expected) in found.items():
        assert ours.item() == pytest.approx(expected, rel=1e-12), name


def test_losses_have_the_gradients_of_their_values():
    tensors = [tensor.clone().requires_grad_() for tensor in (FEATURES, CENTERS, ATTENTION)]
    features, centers, attention = tensors
    check = torch.autograd.gradcheck
    assert check(lambda f, c: center_loss(f, LABELS, c), (features, centers))
    assert check(lambda f, c: island_loss(f, LABELS, c, 10.0), (features, centers))
    assert check(lambda f, c: discriminant_loss(f, LABELS, c), (features, centers))
    assert check(
        lambda f, a, c: sparse_center_loss(f, a, LABELS, c), (features, attention, centers)
    )


def test_wens_step_is_its_equation_and_leaves_a_class_without_images():
    step = center_gradient(FEATURES, LABELS, CENTERS)
    torch.testing.assert_close(step, wens_step_by_hand(torch.ones(5, 4)))
    assert (step[1] == 0).all()
    weighted = center_gradient(FEATURES, LABELS, CENTERS, ATTENTION)
    torch.testing.assert_close(weighted, wens_step_by_hand(ATTENTION))


def criterion_and_output(arch: str) -> tuple[torch.nn.Module, SimpleNamespace]:
    criterion = RIVALS[arch]().criterion(3).double()
    criterion.centers = CENTERS
    maps = FEATURES[..., None, None].expand(5, 4, 2, 2)
    attention = ATTENTION if arch == "dacl" else None
    return criterion, SimpleNamespace(logits=made(5, 3), features=maps, attention=attention)


@pytest.mark.parametrize("arch", ARCHS)
def test_centers_move_in_training_alone(arch):
    criterion, output = criterion_and_output(arch)
    criterion.eval()(output, batch_of(LABELS))
    assert torch.equal(criterion.centers, CENTERS)
    criterion.train()(output, batch_of(LABELS))
    moved = (criterion.centers != CENTERS).any(dim=1)
    # A class without images is moved by the terms between centers alone.
    assert moved.tolist() == [True, arch in ("island", "dda"), True]
    assert not criterion.centers.requires_grad


@pytest.mark.parametrize("arch", ARCHS)
def test_the_weight_of_the_center_loss_does_not_scale_the_step(arch):
    steps = []
    for weight in (0.0, 0.5):
        criterion, output = criterion_and_output(arch)
        criterion.weights = {**criterion.weights, "center": weight}
        criterion.train()(output, batch_of(LABELS))
        steps.append(criterion.centers)
    assert torch.equal(*steps)


@pytest.mark.parametrize("arch", ARCHS)
def test_the_optimiser_has_no_centers_and_the_checkpoint_has(arch):
    criterion = RIVALS[arch]().criterion(3)
    assert list(criterion.parameters()) == []
    assert list(criterion.state_dict()) == ["centers"]


def test_island_loss_drives_the_centers_apart():
    criterion, output = criterion_and_output("island")
    before = pair_loss(criterion.centers)
    criterion.lr = 0.01
    for _ in range(50):
        criterion.train()(output, batch_of(LABELS))
    assert pair_loss(criterion.centers) < before
