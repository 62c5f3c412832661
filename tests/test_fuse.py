"""The network for inference computes what the plain one computes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from networks import DAN, ResNet18, fuse


def _lived_in(model: nn.Module) -> nn.Module:
    """Batch norms with statistics, scales and shifts that a forgotten fold would show in."""
    generator = torch.Generator().manual_seed(5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.weight.data.uniform_(0.8, 1.2, generator=generator)
            module.bias.data.normal_(0.0, 0.1, generator=generator)
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(8, 3, 64, 64, generator=generator))
    return model.eval()


def _worst(ours: torch.Tensor, expected: torch.Tensor) -> float:
    return float((ours - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize(
    ("make", "size"),
    [
        *[(lambda k=k: DAN(7, k), (64, 64)) for k in (1, 2, 3, 4, 5)],
        (lambda: DAN(8, 4), (97, 65)),
        (lambda: ResNet18(7), (64, 64)),
    ],
    ids=["1 head", "2 heads", "3 heads", "4 heads", "5 heads", "8 classes, odd size", "ResNet-18"],
)
def test_fused_network_agrees(make, size, dtype, tolerance):
    torch.manual_seed(1)
    model = _lived_in(make()).to(dtype)
    before = copy.deepcopy(model.state_dict())
    images = torch.randn(3, 3, *size, dtype=dtype)
    with torch.no_grad():
        expected, ours = model(images), fuse(model)(images)
    for name in expected._fields:
        assert _worst(getattr(ours, name), getattr(expected, name)) < tolerance, name
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_a_model_in_train_mode_is_fused_as_in_eval_mode_and_stays_in_train_mode():
    model = _lived_in(DAN(7, 2)).train()
    images = torch.randn(2, 3, 32, 32)
    fused = fuse(model)
    assert model.training
    assert not any(parameter.requires_grad for parameter in fused.parameters())
    with torch.no_grad():
        assert _worst(fused(images).logits, model.eval()(images).logits) < 1e-5


def test_fused_network_has_no_batch_norm_left():
    kinds = {type(module) for module in fuse(DAN(7, 4)).modules()}
    assert not kinds & {nn.BatchNorm1d, nn.BatchNorm2d}


def test_another_network_is_refused():
    with pytest.raises(TypeError, match="DAN or a ResNet18, got Linear"):
        fuse(nn.Linear(2, 2))
