"""The network for inference computes what the trained one computes."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from engine.speed import autocast
from networks import DAN, ResNet18, fast_network, fuse, pack
from networks.packed import PackedConv2d, can_pack
from networks.rivals.eac import EAC
from networks.rivals.ran import RAN
from networks.rivals.scn import SCN

CPU = torch.device("cpu")
#: Rounding of some twenty layers in float32, relative to the largest value; it differs by CPU.
ROUNDING = 3e-5
RIVALS = (EAC, RAN, SCN)


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


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, ROUNDING), (torch.float64, 1e-10)]
)
@pytest.mark.parametrize(
    ("make", "size"),
    [
        *[(lambda k=k: DAN(7, k), (64, 64)) for k in (1, 2, 3, 4, 5)],
        (lambda: DAN(7, 3, fusion="sum"), (64, 64)),
        (lambda: DAN(7, 3, fusion="softmax"), (64, 64)),
        (lambda: DAN(7, 3, head_scale="map"), (96, 64)),
        (lambda: DAN(7, 3, head_scale="norm"), (64, 64)),
        (lambda: DAN(8, 4), (97, 65)),
        (lambda: ResNet18(7), (64, 64)),
        *[(lambda kind=kind: kind(7), (64, 64)) for kind in RIVALS],
    ],
    ids=[
        *("1 head", "2 heads", "3 heads", "4 heads", "5 heads", "sum", "softmax", "map", "norm"),
        *("8 classes, odd size", "ResNet-18"),
        *(kind.__name__ for kind in RIVALS),
    ],
)
@pytest.mark.slow
def test_fused_network_agrees(make, size, dtype, tolerance):
    torch.manual_seed(1)
    model = _lived_in(make()).to(dtype)
    before = copy.deepcopy(model.state_dict())
    images = torch.randn(3, 3, *size, dtype=dtype)
    with torch.no_grad():
        expected, ours = model(images), fuse(model)(images)
    for name in expected._fields:
        if getattr(expected, name) is None:
            continue
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
        assert _worst(fused(images).logits, model.eval()(images).logits) < ROUNDING


def test_fused_network_has_no_batch_norm_left():
    kinds = {type(module) for module in fuse(DAN(7, 4)).modules()}
    assert not kinds & {nn.BatchNorm1d, nn.BatchNorm2d}


class Own(DAN):
    """A user's network, which is not what DAN computes."""

    def forward(self, images: torch.Tensor):
        output = super().forward(images)
        return output._replace(logits=output.logits + 1)


def test_a_network_made_from_dan_is_not_taken_for_it():
    network = Own(7, 2).eval()
    with pytest.raises(TypeError, match="got Own"):
        fuse(network)
    assert fast_network(network, CPU) is network


def test_another_network_is_refused():
    with pytest.raises(TypeError, match=r"fuse takes one of DAN, .*, got Linear"):
        fuse(nn.Linear(2, 2))


# --------------------------------------------------------------------------------------------
# Packed weights


def _layouts(batch: int) -> list[torch.Tensor]:
    images = torch.randn(batch, 3, 65, 64, generator=torch.Generator().manual_seed(batch))
    return [images, images.to(memory_format=torch.channels_last)]


@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("make", [lambda: DAN(7, 4), lambda: ResNet18(7)], ids=["DAN", "ResNet-18"])
def test_packed_network_agrees(make, bf16):
    dtype = torch.bfloat16 if bf16 else torch.float32
    if not can_pack(dtype):
        pytest.skip(f"torch has no oneDNN convolution in {dtype} on this machine")
    torch.manual_seed(2)
    fused = fuse(_lived_in(make())).to(memory_format=torch.channels_last)
    packed = pack(copy.deepcopy(fused), dtype)
    kinds = [type(module) for module in packed.modules()]
    assert nn.Conv2d not in kinds
    assert kinds.count(PackedConv2d) == [type(module) for module in fused.modules()].count(
        nn.Conv2d
    )
    for images in [image for batch in (1, 5) for image in _layouts(batch)]:
        with torch.inference_mode(), autocast(CPU, bf16):
            expected, ours = fused(images), packed(images)
        for name in expected._fields:
            assert getattr(ours, name).dtype == getattr(expected, name).dtype
            worst = _worst(getattr(ours, name).float(), getattr(expected, name).float())
            assert worst < (1e-2 if bf16 else ROUNDING), name


def test_a_padded_strided_grouped_convolution_is_packed_as_it_is():
    torch.manual_seed(3)
    layers = [
        nn.Conv2d(8, 12, (3, 5), stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=4),
        nn.Conv2d(12, 6, 1, bias=False),
    ]
    images = torch.randn(2, 8, 17, 19)
    with torch.inference_mode():
        expected = nn.Sequential(*layers)(images)
        torch.testing.assert_close(pack(nn.Sequential(*layers))(images), expected)


def test_what_cannot_be_packed_is_left_as_it_is(monkeypatch):
    reflecting = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"))
    same = nn.Sequential(nn.Conv2d(1, 1, 3, padding="same"))
    for network, dtype in ((reflecting, torch.float32), (same, torch.float32)):
        assert type(pack(network, dtype)[0]) is nn.Conv2d
    assert type(pack(nn.Sequential(nn.Conv2d(1, 1, 3)), torch.float64)[0]) is nn.Conv2d
    for owner, name, value in (
        (torch.backends.mkldnn, "is_available", lambda: False),
        (torch._C, "_nn", SimpleNamespace()),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, value)
            assert not can_pack(torch.float32)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert type(pack(nn.Sequential(nn.Conv2d(1, 1, 3)))[0]) is nn.Conv2d


def test_the_network_that_evaluates_leaves_the_trained_one_as_it_is():
    model = _lived_in(DAN(7, 2)).train()
    before = copy.deepcopy(model.state_dict())
    images = torch.randn(2, 3, 48, 48)
    with torch.inference_mode():
        ours = fast_network(model, CPU)(images)
        assert model.training
        expected = model.eval()(images)
    assert _worst(ours.logits, expected.logits) < ROUNDING
    assert all(torch.equal(after, before[name]) for name, after in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_network_of_another_kind_evaluates_as_it_is():
    network = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2))
    assert fast_network(network, CPU) is network
