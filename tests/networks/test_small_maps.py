"""Convolutions on small maps as matrix products compute what torch's convolutions compute."""

from __future__ import annotations

import copy
import pickle
from itertools import product

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import train_rafdb
from engine.speed import MEMORY_FORMAT
from networks import DAN, Method, ResNet18, fuse, network_for, products_on_small_maps
from networks.small_maps import SmallMapConv2d, convolution_by_products
from tests.support.scripts import (
    assert_same_run,
    small_recipe,
    train_tiny,
    train_until,
)

KERNELS = ((3, 3), (1, 3), (3, 1), (1, 1))
SIZES = ((1, 1), (2, 2), (3, 3), (4, 4), (1, 4), (3, 2), (4, 3), (5, 3))


def tensors(kernel, size, *, batch=3, channels=5, outputs=7) -> tuple[Tensor, ...]:
    """Images, weight and bias in float64 that require gradients."""
    torch.manual_seed(4)
    shapes = ((batch, channels, *size), (outputs, channels, *kernel), (outputs,))
    return tuple(torch.randn(s, dtype=torch.float64).requires_grad_() for s in shapes)


def half_of(kernel: tuple[int, int]) -> tuple[int, int]:
    return kernel[0] // 2, kernel[1] // 2


def with_gradients(result: Tensor, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """The result, and the gradients of its product with fixed numbers."""
    weights = torch.randn(
        result.shape, generator=torch.Generator().manual_seed(6), dtype=torch.float64
    )
    return [result, *torch.autograd.grad(result, inputs, weights.to(result.dtype))]


@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (2, 1)])
@pytest.mark.parametrize("kernel", [*KERNELS, (2, 2), (5, 5)])
def test_it_agrees_with_torch_in_float64(kernel, stride):
    for size, padding in product(SIZES, {(0, 0), half_of(kernel), (2, 3)}):
        if any(n + 2 * p < k for n, p, k in zip(size, padding, kernel, strict=True)):
            continue
        inputs = tensors(kernel, size)
        ours = with_gradients(convolution_by_products(*inputs, stride, padding), inputs)
        expected = with_gradients(F.conv2d(*inputs, stride, padding), inputs)
        for one, other in zip(ours, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_it_agrees_with_loops():
    images, weight, bias = tensors((3, 3), (3, 2), batch=2, channels=2, outputs=3)
    result = convolution_by_products(images, weight, bias, (2, 2), (1, 1))
    assert result.shape == (2, 3, 2, 1)
    for b, o, y, x in product(*map(range, result.shape)):
        total = bias[o].clone()
        for c, i, j in product(range(2), range(3), range(3)):
            row, column = 2 * y + i - 1, 2 * x + j - 1
            if 0 <= row < 3 and 0 <= column < 2:
                total += weight[o, c, i, j] * images[b, c, row, column]
        assert result[b, o, y, x].item() == pytest.approx(total.item(), abs=1e-12)


@pytest.mark.parametrize("bias", [True, False])
def test_gradients_agree_with_differences(bias):
    images, weight, shift = tensors((3, 3), (4, 3), batch=2, channels=2, outputs=2)

    def function(images: Tensor, weight: Tensor, shift: Tensor) -> Tensor:
        return convolution_by_products(images, weight, shift if bias else None, (2, 1), (1, 1))

    inputs = (images, weight, shift) if bias else (images, weight, shift.detach())
    assert torch.autograd.gradcheck(function, inputs)


@pytest.mark.parametrize("kernel", KERNELS)
def test_in_bfloat16_it_is_as_exact_as_torch(kernel):
    for size in ((1, 1), (2, 2), (4, 4)):
        half = [t.detach().bfloat16() for t in tensors(kernel, size, channels=128, outputs=64)]
        exact = tuple(t.double().requires_grad_() for t in half)
        half = tuple(t.requires_grad_() for t in half)
        padding = half_of(kernel)
        expected = with_gradients(F.conv2d(*exact, 1, padding), exact)
        ours = with_gradients(convolution_by_products(*half, (1, 1), padding), half)
        torchs = with_gradients(F.conv2d(*half, 1, padding), half)
        for mine, theirs, truth in zip(ours, torchs, expected, strict=True):
            assert mine.dtype == torch.bfloat16
            assert _error(mine, truth) < max(2 * _error(theirs, truth), 2**-8)


def _error(found: Tensor, expected: Tensor) -> float:
    """The root mean square of the differences, relative to that of what is expected."""
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).norm() / expected.norm())


# --------------------------------------------------------------------------------------------
# Where it is chosen


@pytest.fixture
def chosen(monkeypatch) -> list[tuple[int, ...]]:
    """The shapes of the images for which the products were chosen."""
    shapes = []

    def record(images: Tensor, *arguments: object) -> Tensor:
        shapes.append(tuple(images.shape))
        return convolution_by_products(images, *arguments)

    monkeypatch.setattr("networks.small_maps.convolution_by_products", record)
    return shapes


def _layer(*arguments: object, **settings: object) -> tuple[nn.Conv2d, nn.Conv2d]:
    """Torch's layer, and a copy that may choose."""
    torch.manual_seed(3)
    layer = nn.Sequential(nn.Conv2d(*arguments, **settings))
    return layer[0], products_on_small_maps(copy.deepcopy(layer))[0]


BF16 = {"device_type": "cpu", "dtype": torch.bfloat16}


@pytest.mark.parametrize("size", [1, 2, 4])
def test_it_is_chosen_under_autocast_with_gradients_in_float32(chosen, size):
    theirs, ours = _layer(256, 512, 3, padding=1)
    images = torch.randn(5, 256, size, size, requires_grad=True)
    results = []
    for layer in (theirs, ours):
        with torch.autocast(**BF16):
            results.append(layer(images))
        results[-1].float().square().sum().backward()
        assert {p.grad.dtype for p in (images, *layer.parameters())} == {torch.float32}
    assert chosen == [(5, 256, size, size)]
    assert results[0].dtype == results[1].dtype == torch.bfloat16
    torch.testing.assert_close(results[1], results[0], rtol=2**-7, atol=2**-7)
    assert _error(ours.weight.grad, theirs.weight.grad) < 0.01


@pytest.mark.parametrize(
    ("arguments", "settings", "size", "bf16"),
    [
        ((256, 128, 3), {"padding": 1}, 2, False),
        ((256, 128, 3), {"padding": 1}, 3, True),
        ((256, 64, 3), {"padding": 1}, 2, True),
        ((256, 128, 1), {}, 2, True),
        ((256, 128, 3), {"padding": 1, "groups": 2}, 2, True),
        ((256, 128, 3), {"padding": 2, "dilation": 2}, 2, True),
        ((256, 128, 3), {"padding": "same"}, 2, True),
        ((256, 128, 3), {"padding": 1, "padding_mode": "reflect"}, 2, True),
    ],
    ids=["float32", "large", "few channels", "1x1", "groups", "dilation", "same", "reflect"],
)
def test_elsewhere_it_is_bitwise_torchs(chosen, arguments, settings, size, bf16):
    theirs, ours = _layer(*arguments, **settings)
    images = torch.randn(2, 256, size, size)
    with torch.autocast(**BF16, enabled=bf16):
        assert torch.equal(ours(images), theirs(images))
    assert not chosen


def test_float64_and_no_batch_are_left_to_torch_under_autocast(chosen):
    theirs, ours = (layer.double() for layer in _layer(256, 128, 3, padding=1))
    images = torch.randn(1, 256, 2, 2, dtype=torch.float64)
    with torch.autocast(**BF16):
        assert torch.equal(ours(images), theirs(images))
        assert torch.equal(ours.float()(images[0].float()), theirs.float()(images[0].float()))
    assert not chosen


# --------------------------------------------------------------------------------------------
# Whole networks


def _step(network: nn.Module, *, bf16: bool = True) -> tuple[float, Tensor]:
    """The cross-entropy of a training step of a copy, and all gradients as one vector."""
    network = copy.deepcopy(network).train()
    torch.manual_seed(8)
    images = torch.randn(32, 3, 64, 64).contiguous(memory_format=MEMORY_FORMAT)
    with torch.autocast(**BF16, enabled=bf16):
        logits = network(images).logits
    loss = F.cross_entropy(logits, torch.arange(32) % 7)
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in network.parameters()])


@pytest.mark.slow
def test_a_step_of_dan_is_as_exact_as_torchs(chosen):
    torch.manual_seed(1)
    plain = DAN(7, 2).to(memory_format=MEMORY_FORMAT)
    (_, exact), (loss, torchs) = _step(plain, bf16=False), _step(plain)
    assert not chosen
    found, ours = _step(products_on_small_maps(plain))
    # Layer4, and the heads' 3x3, 1x3 and 3x1, on 2x2 maps.
    assert len(chosen) == 4 + 2 * 3
    assert found == pytest.approx(loss, rel=0.005)
    assert _error(ours, exact) < 1.1 * _error(torchs, exact)


def test_names_weights_and_copies_stay():
    torch.manual_seed(2)
    plain = DAN(7, 1)
    ours = products_on_small_maps(copy.deepcopy(plain))
    assert type(ours) is DAN
    assert list(ours.state_dict()) == list(plain.state_dict())
    assert all(torch.equal(t, ours.state_dict()[name]) for name, t in plain.state_dict().items())
    for copied in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert isinstance(copied.features[7][0].conv1, SmallMapConv2d)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = fuse(plain)(images).logits
        assert torch.equal(fuse(ours)(images).logits, expected)


def test_networks_that_scripts_build_have_it():
    for arch, network in (("dan", DAN(7, 1)), ("resnet18", ResNet18(7))):
        built = Method(arch=arch, heads=1, pretrained="none").network(7)
        for made in (built, network_for(network.state_dict())):
            assert type(made) is type(network)
            assert type(made.features[7][0].conv1) is SmallMapConv2d
            assert type(made.features[7][0].downsample[0]) is nn.Conv2d


@pytest.mark.filterwarnings("ignore:`torch.jit.trace")
def test_graphs_have_torchs_convolutions(chosen):
    theirs, ours = _layer(256, 128, 3, padding=1)
    images = torch.randn(2, 256, 2, 2)
    network = nn.Sequential(ours).eval()
    with torch.no_grad(), torch.autocast(**BF16):
        expected = theirs(images)
        graphs = [
            torch.export.export(network, (images,)).module(),
            torch.jit.trace(network, (images,), check_trace=False),
            torch.fx.symbolic_trace(network),
            torch.compile(network, backend="eager", fullgraph=True),
        ]
        for graph in graphs:
            torch.testing.assert_close(graph(images), expected)
    assert not chosen


@pytest.mark.slow
def test_a_training_in_bfloat16_resumes_bitwise(data, tmp_path, chosen):
    flags = ("--epochs", 2, "--amp", "bf16", "--arch", "resnet18", "--image-size", 64)
    recipe = train_rafdb.RECIPE
    train_tiny(data, tmp_path / "whole", *flags, recipe=recipe)
    assert chosen
    train_until(small_recipe(data, tmp_path / "cut", *flags, recipe=recipe), 1)
    train_tiny(data, tmp_path / "cut", *flags, "--resume", recipe=recipe)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
