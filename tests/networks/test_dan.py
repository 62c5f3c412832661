"""DAN against the paper's equations by hand, the baseline against torchvision, and rebuilding."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet18

from common.errors import InputError
from networks import DAN, ResNet18, network_for
from networks.dan import (
    FUSIONS,
    HEAD_SCALES,
    ChannelAttention,
    CrossAttentionHead,
    SpatialAttention,
    over_mean,
    weigh_heads,
)

FEATURES = 512


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype)


def seeded(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A network in eval mode whose BatchNorm statistics and gates are not the trivial ones."""
    torch.manual_seed(seed)
    network = build()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.1, 0.1)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.05)
    return network.eval()


@pytest.fixture(scope="module")
def dan() -> DAN:
    return seeded(lambda: DAN(7, 3))


@pytest.fixture(scope="module")
def head() -> CrossAttentionHead:
    return seeded(CrossAttentionHead).double()


# ---- shapes and invariances of the whole


@pytest.mark.parametrize(
    ("height", "width", "grid"),
    [(32, 32, (1, 1)), (48, 48, (2, 2)), (65, 97, (3, 4)), (224, 224, (7, 7))],
)
def test_input_sizes(dan, height, width, grid):
    with torch.no_grad():
        output = dan(normal(2, 3, height, width))
    assert grid == (math.ceil(height / 32), math.ceil(width / 32))
    assert output.features.shape == (2, FEATURES, *grid)
    assert output.heads.shape == (2, 3, FEATURES)
    assert output.logits.shape == (2, 7)
    assert all(torch.isfinite(tensor).all() for tensor in output)
    assert output._fields == ("logits", "features", "heads")


@pytest.mark.parametrize("build", [lambda: DAN(7, 3), lambda: ResNet18(7)], ids=["dan", "resnet18"])
def test_a_batch_in_eval_mode_equals_its_images_one_by_one(build):
    network, images = seeded(build).double(), normal(3, 3, 64, 48, dtype=torch.float64)
    with torch.no_grad():
        batch = network(images)
        singles = [network(image[None]) for image in images]
    for name in batch._fields:
        single = torch.cat([getattr(output, name) for output in singles])
        torch.testing.assert_close(getattr(batch, name), single, rtol=1e-10, atol=1e-10)
    assert not torch.allclose(batch.logits[0], batch.logits[1])


def test_heads_are_independent_and_in_order(dan):
    images = normal(2, 3, 64, 64)
    with torch.no_grad():
        features = dan.features(images)
        raw = [getattr(dan, f"cat_head{i}")(features) for i in range(3)]
        output = dan(images)
    assert not torch.allclose(raw[0], raw[1], rtol=0.01)
    expected = torch.stack(raw, dim=1).log_softmax(dim=1)
    torch.testing.assert_close(output.heads, expected)
    assert len({id(p) for p in dan.parameters()}) == len(list(dan.parameters()))


def test_one_head_feels_its_own_weights_only():
    network, images = seeded(lambda: DAN(7, 3)), normal(2, 3, 64, 64)
    features = network.features(images).detach()
    before = [head(features).detach() for head in network.attention_heads()]
    with torch.no_grad():
        network.cat_head1.ca.attention[3].bias.add_(1.0)
    after = [head(features).detach() for head in network.attention_heads()]
    assert [torch.equal(old, new) for old, new in zip(before, after, strict=True)] == [
        True,
        False,
        True,
    ]


def test_exchanging_two_heads_exchanges_their_vectors_and_keeps_the_logits():
    network, images = seeded(lambda: DAN(7, 3)), normal(2, 3, 64, 64)
    with torch.no_grad():
        before = network(images)
        network.cat_head0, network.cat_head2 = network.cat_head2, network.cat_head0
        after = network(images)
    torch.testing.assert_close(after.heads, before.heads.flip(1))
    torch.testing.assert_close(after.logits, before.logits, rtol=1e-4, atol=1e-4)


def test_log_softmax_is_taken_over_the_heads(dan):
    with torch.no_grad():
        heads = dan(normal(2, 3, 64, 64)).heads
    torch.testing.assert_close(heads.exp().sum(dim=1), torch.ones(2, FEATURES))


def test_a_single_head_is_used_as_it_is():
    network, images = seeded(lambda: DAN(7, 1)), normal(2, 3, 64, 64)
    with torch.no_grad():
        output = network(images)
        vector = network.cat_head0(output.features)
        logits = network.bn(network.fc(vector))
    assert torch.equal(output.heads, vector.unsqueeze(1))
    torch.testing.assert_close(output.logits, logits)
    assert output.heads.abs().sum() > 0


# ---- fusion


def weights_by_hand(vectors: list[float], fusion: str) -> list[float]:
    """What one channel's values of the heads become before they are summed."""
    shares = [math.exp(a) / sum(math.exp(b) for b in vectors) for a in vectors]
    if fusion == "log-softmax":
        return [math.log(share) for share in shares]
    return vectors if fusion == "sum" else [s * a for s, a in zip(shares, vectors, strict=True)]


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_fusion_is_its_formula_channel_by_channel(fusion):
    heads = normal(2, 3, 5, dtype=torch.float64)
    weighed = weigh_heads(heads, fusion)
    for image in range(2):
        for channel in range(5):
            expected = weights_by_hand(heads[image, :, channel].tolist(), fusion)
            assert weighed[image, :, channel].tolist() == pytest.approx(expected)
    single = normal(2, 1, 5)
    assert weigh_heads(single, fusion) is single


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_network_fuses_as_it_says(fusion):
    network = seeded(lambda: DAN(7, 3, fusion=fusion))
    with torch.no_grad():
        output = network(normal(2, 3, 64, 64))
        heads = torch.stack([head(output.features) for head in network.attention_heads()], dim=1)
        expected = network.bn(network.fc(weigh_heads(heads, fusion).sum(dim=1)))
    torch.testing.assert_close(output.heads, weigh_heads(heads, fusion))
    torch.testing.assert_close(output.logits, expected)
    assert list(network.state_dict()) == list(DAN(7, 3).state_dict())


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_gradients_of_a_fusion(fusion, k):
    """Of the sum over the heads: with the log-softmax 1 - k p, which adds up to 0 over them."""
    heads = normal(2, k, 3, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda a: weigh_heads(a, fusion).sum(dim=1), heads)
    weigh_heads(heads, fusion).sum().backward()
    p = heads.detach().softmax(dim=1)
    mean = (p * heads.detach()).sum(dim=1, keepdim=True)
    expected = {
        "log-softmax": 1 - k * p if k > 1 else torch.ones_like(p),
        "sum": torch.ones_like(p),
        "softmax": p * (1 + heads.detach() - mean),
    }[fusion]
    torch.testing.assert_close(heads.grad, expected)


@pytest.mark.parametrize("k", [2, 3, 4, 5])
def test_the_log_softmax_loses_what_the_heads_have_in_common(k):
    heads = normal(2, k, 3, dtype=torch.float64)
    common = normal(2, 1, 3, dtype=torch.float64)
    change = {
        f: (weigh_heads(heads + common, f) - weigh_heads(heads, f)).sum(dim=1) for f in FUSIONS
    }
    torch.testing.assert_close(change["log-softmax"], torch.zeros(2, 3, dtype=torch.float64))
    torch.testing.assert_close(change["sum"], k * common[:, 0])
    torch.testing.assert_close(change["softmax"], common[:, 0])


def test_two_heads_leave_the_log_softmax_the_size_of_their_difference_alone():
    """log p + log(1 - p) = -d - 2 log(1 + exp(-d)) with d = |a - b|: the same for p and 1 - p."""
    heads = normal(20, 2, 3, dtype=torch.float64)
    fused = weigh_heads(heads, "log-softmax").sum(dim=1)
    difference = (heads[:, 0] - heads[:, 1]).abs()
    torch.testing.assert_close(fused, -difference - 2 * torch.log1p((-difference).exp()))
    mirrored = weigh_heads(-heads, "log-softmax").sum(dim=1)
    torch.testing.assert_close(mirrored, fused)
    three = normal(20, 3, 3, dtype=torch.float64)
    gap = weigh_heads(three, "log-softmax") - weigh_heads(-three, "log-softmax")
    assert gap.sum(dim=1).abs().min() > 1e-4


@pytest.mark.parametrize("k", [3, 4, 5])
def test_one_head_above_the_others_costs_the_log_softmax_more_than_one_below(k):
    """By t, far apart: -(k - 1) t above, -t - k log(k - 1) below."""
    t = 50.0
    heads = torch.zeros(2, k, 1, dtype=torch.float64)
    heads[0, 0], heads[1, 0] = t, -t
    above, below = weigh_heads(heads, "log-softmax").sum(dim=(1, 2)).tolist()
    assert above == pytest.approx(-(k - 1) * t)
    assert below == pytest.approx(-t - k * math.log(k - 1))
    assert above < below


def test_an_unknown_fusion_is_refused():
    with pytest.raises(
        ValueError, match="fusion is 'mean'; expected one of log-softmax, sum, soft"
    ):
        DAN(fusion="mean")


# ---- scale of the heads


def test_a_map_over_its_mean_makes_pooling_a_weighted_mean():
    unit = seeded(lambda: SpatialAttention(mean_map=True)).double().eval()
    features = normal(2, 512, 3, 2, dtype=torch.float64)
    with torch.no_grad():
        pooled = unit(features).mean(dim=(2, 3))
        unit.mean_map = False
        weights = unit.attention_map(features)
    for image in range(2):
        total = sum(weights[image, 0, i, j] for i, j in product(range(3), range(2)))
        expected = sum(
            weights[image, 0, i, j] / total * features[image, :, i, j]
            for i, j in product(range(3), range(2))
        )
        torch.testing.assert_close(pooled[image], expected)
    assert not over_mean(torch.zeros(1, 1, 2, 2)).any()


def test_a_vector_over_its_norm_keeps_its_direction():
    heads = normal(2, 3, 5, dtype=torch.float64)
    scaled = weigh_heads(heads, "sum", "norm")
    for vector, result in zip(heads.flatten(0, 1), scaled.flatten(0, 1), strict=True):
        root_mean_square = math.sqrt(sum(float(a) ** 2 for a in vector) / 5)
        torch.testing.assert_close(result, vector / root_mean_square)
    torch.testing.assert_close(
        weigh_heads(100 * heads, "log-softmax", "norm"), weigh_heads(heads, "log-softmax", "norm")
    )
    assert weigh_heads(heads, "sum", "map") is heads


def test_the_scale_keeps_the_log_softmax_out_of_saturation():
    """Features of size 1: without a scale one head takes all of nearly every softmax."""
    features = normal(4, 512, 4, 4).abs()
    largest = {}
    for scale in HEAD_SCALES:
        network = seeded(lambda scale=scale: DAN(7, 3, head_scale=scale)).eval()
        with torch.no_grad():
            heads = torch.stack([head(features) for head in network.attention_heads()], dim=1)
            largest[scale] = weigh_heads(heads, "log-softmax", scale).exp().amax(dim=1).median()
    assert largest["none"] > 0.999
    assert largest["map"] < 0.6
    assert largest["norm"] < 0.6


def test_an_unknown_scale_is_refused():
    with pytest.raises(ValueError, match="head_scale is 'sum'; expected one of none, map, norm"):
        DAN(head_scale="sum")


def test_logits_are_the_normalized_linear_map_of_the_sum_of_heads(dan):
    with torch.no_grad():
        output = dan(normal(2, 3, 64, 64))
    summed = output.heads.double().sum(dim=1)
    linear = summed @ dan.fc.weight.double().T + dan.fc.bias
    scale = (dan.bn.running_var + dan.bn.eps).rsqrt() * dan.bn.weight
    expected = (linear - dan.bn.running_mean) * scale + dan.bn.bias
    torch.testing.assert_close(output.logits.double(), expected, rtol=1e-4, atol=1e-3)


# ---- Eq. 3 and Eq. 4 by hand


def conv_bn_at(branch: nn.Sequential, maps: Tensor, row: int, column: int) -> Tensor:
    """Convolution (zero padding, stride 1) and BatchNorm of maps (C, h, w) at one position."""
    conv, norm = branch
    kernel_height, kernel_width = conv.kernel_size
    value = conv.bias.clone()
    for i in range(kernel_height):
        for j in range(kernel_width):
            y, x = row + i - kernel_height // 2, column + j - kernel_width // 2
            if 0 <= y < maps.shape[1] and 0 <= x < maps.shape[2]:
                value += conv.weight[:, :, i, j] @ maps[:, y, x]
    return (value - norm.running_mean) / (
        norm.running_var + norm.eps
    ).sqrt() * norm.weight + norm.bias


def spatial_by_hand(unit: SpatialAttention, maps: Tensor) -> Tensor:
    """Eq. 3 for one feature map (512, h, w)."""
    positions = [(y, x) for y in range(maps.shape[1]) for x in range(maps.shape[2])]
    reduced = maps.new_empty(256, *maps.shape[1:])
    for y, x in positions:
        reduced[:, y, x] = conv_bn_at(unit.conv1x1, maps, y, x)
    result = torch.empty_like(maps)
    for y, x in positions:
        branches = [
            conv_bn_at(branch, reduced, y, x)
            for branch in (unit.conv_3x3, unit.conv_1x3, unit.conv_3x1)
        ]
        result[:, y, x] = maps[:, y, x] * sum(branches).clamp_min(0).sum()
    return result


def channel_by_hand(unit: ChannelAttention, spatial: Tensor) -> Tensor:
    """Eq. 4 for one spatial output (512, h, w)."""
    down, norm, _, up, _ = unit.attention
    pooled = torch.stack([channel.sum() / channel.numel() for channel in spatial])
    hidden = down.weight @ pooled + down.bias
    hidden = (hidden - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
    hidden = (hidden * norm.weight + norm.bias).clamp_min(0)
    gate = 1 / (1 + torch.exp(-(up.weight @ hidden + up.bias)))
    return pooled * gate


@torch.no_grad()
@pytest.mark.parametrize("grid", [(1, 1), (2, 3)])
def test_spatial_unit_is_equation_3(head, grid):
    maps = normal(2, FEATURES, *grid, dtype=torch.float64).relu()
    expected = torch.stack([spatial_by_hand(head.sa, sample) for sample in maps])
    torch.testing.assert_close(head.sa(maps), expected, rtol=1e-10, atol=1e-10)
    attention = head.sa.attention_map(maps)
    assert attention.shape == (2, 1, *grid)
    torch.testing.assert_close(maps * attention, expected, rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_spatial_map_is_summed_in_float32_under_autocast():
    """The sum is in the hundreds, where bfloat16 has steps of one or more."""
    unit = seeded(SpatialAttention)
    maps = 5 * normal(2, FEATURES, 3, 3).relu()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        reduced = unit.conv1x1(maps)
        branches = unit.conv_3x3(reduced) + unit.conv_1x3(reduced) + unit.conv_3x1(reduced)
        attention = unit.attention_map(maps)
    expected = branches.relu().double().sum(dim=1, keepdim=True)
    assert expected.min() > 100
    torch.testing.assert_close(attention.double(), expected, rtol=1e-6, atol=0)


@torch.no_grad()
def test_channel_unit_is_equation_4(head):
    spatial = normal(2, FEATURES, 2, 3, seed=1, dtype=torch.float64) * 5
    expected = torch.stack([channel_by_hand(head.ca, sample) for sample in spatial])
    torch.testing.assert_close(head.ca(spatial), expected, rtol=1e-10, atol=1e-12)
    gates = expected / spatial.mean(dim=(2, 3))
    assert gates.std() > 0.01, "the gate should not be constant, or this test shows nothing"


@torch.no_grad()
def test_a_head_is_the_channel_unit_on_the_spatial_unit(head):
    maps = normal(2, FEATURES, 2, 2, dtype=torch.float64).relu()
    assert torch.equal(head(maps), head.ca(head.sa(maps)))


# ---- initialization and names


def test_initialization_of_the_heads_is_the_releases():
    torch.manual_seed(0)
    for name, module in CrossAttentionHead().named_modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * math.prod(module.kernel_size)
            assert module.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.02)
            assert abs(module.weight.mean().item()) < 1e-3
        elif isinstance(module, nn.Linear):
            assert module.weight.std().item() == pytest.approx(0.001, rel=0.03), name
            assert abs(module.weight.mean().item()) < 5e-5
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert (module.weight == 1).all()
        else:
            continue
        assert (module.bias == 0).all(), name


def test_classifier_keeps_the_frameworks_defaults():
    torch.manual_seed(0)
    network = DAN(100, 1)
    bound = 1 / math.sqrt(FEATURES)
    for values in (network.fc.weight, network.fc.bias):
        assert values.abs().max() <= bound
        assert values.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.2)
    assert (network.bn.weight == 1).all()
    assert (network.bn.bias == 0).all()


def test_modules_have_the_released_names():
    network = DAN(7, 2)
    assert [name for name, _ in network.named_children()] == [
        "features",
        "cat_head0",
        "cat_head1",
        "fc",
        "bn",
    ]
    sizes = {
        name: (conv.in_channels, conv.out_channels, conv.kernel_size)
        for name, conv in network.cat_head1.sa.named_modules()
        if isinstance(conv, nn.Conv2d)
    }
    assert sizes == {
        "conv1x1.0": (512, 256, (1, 1)),
        "conv_3x3.0": (256, 512, (3, 3)),
        "conv_1x3.0": (256, 512, (1, 3)),
        "conv_3x1.0": (256, 512, (3, 1)),
    }
    kinds = [type(module).__name__ for module in network.cat_head0.ca.attention]
    assert kinds == ["Linear", "BatchNorm1d", "ReLU", "Linear", "Sigmoid"]


def test_defaults_are_the_papers():
    network = DAN()
    assert (network.num_classes, network.num_heads) == (7, 4)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: DAN(num_classes=1), "num_classes is 1"),
        (lambda: DAN(num_heads=0), "num_heads is 0"),
        (lambda: ResNet18(num_classes=1), "num_classes is 1"),
    ],
)
def test_impossible_sizes_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


# ---- the baseline


def test_baseline_is_torchvisions_resnet18():
    reference = seeded(lambda: resnet18(weights=None, num_classes=7)).double()
    ours = ResNet18(7).double().eval()
    assert [p.shape for p in ours.parameters()] == [p.shape for p in reference.parameters()]
    values = zip(ours.state_dict(), reference.state_dict().values(), strict=True)
    ours.load_state_dict(dict(values))
    images = normal(2, 3, 70, 64, dtype=torch.float64)
    with torch.no_grad():
        output, expected = ours(images), reference(images)
    torch.testing.assert_close(output.logits, expected, rtol=1e-10, atol=1e-10)
    pooled = F.adaptive_avg_pool2d(output.features, 1).flatten(1)
    torch.testing.assert_close(output.heads, pooled.unsqueeze(1), rtol=1e-12, atol=1e-12)


# ---- network_for


@pytest.mark.parametrize(
    "build",
    [lambda: DAN(7, 1), lambda: DAN(8, 2), lambda: DAN(7, 4), lambda: ResNet18(8)],
    ids=["dan1", "dan2-8classes", "dan4", "resnet18"],
)
def test_a_network_is_rebuilt_from_its_weights(build):
    original, images = seeded(build), normal(2, 3, 48, 48)
    rebuilt = network_for(original.state_dict()).eval()
    assert type(rebuilt) is type(original)
    assert rebuilt.num_classes == original.num_classes
    with torch.no_grad():
        for ours, theirs in zip(rebuilt(images), original(images), strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_network_is_rebuilt_with_the_fusion_of_its_settings(fusion):
    original, images = seeded(lambda: DAN(7, 2, fusion=fusion)), normal(2, 3, 48, 48)
    rebuilt = network_for(original.state_dict(), {"fusion": fusion, "heads": 2}).eval()
    with torch.no_grad():
        assert torch.equal(rebuilt(images).logits, original(images).logits)
    with pytest.raises(InputError, match="of --fusion mean; known are log-softmax"):
        network_for(original.state_dict(), {"fusion": "mean"})


def without(network: nn.Module, start: str) -> dict[str, Tensor]:
    """A state dict without the names that begin so."""
    return {
        name: tensor for name, tensor in network.state_dict().items() if not name.startswith(start)
    }


def changed(network: nn.Module, name: str, value: object) -> dict[str, object]:
    """A state dict with one entry replaced or added."""
    return network.state_dict() | {name: value}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda net: {}, r"no classifier fc\.weight.*expected a DAN or a ResNet-18"),
        (lambda net: without(net, "fc.weight"), r"no classifier fc\.weight"),
        (
            lambda net: changed(net, "fc.weight", torch.zeros(7)),
            r"no classifier fc\.weight",
        ),
        (lambda net: without(net, "cat_head0."), r"heads \[1\]; expected 0, 1"),
        (
            lambda net: without(net, "cat_head1.ca.attention.3"),
            r"lack cat_head1\.ca\.attention\.3",
        ),
        (
            lambda net: without(net, "features.7.1"),
            r"lack features\.7\.1\.conv1\.weight of DAN",
        ),
        (lambda net: without(net, "bn."), r"lack bn\.weight of DAN"),
        (
            lambda net: changed(net, "fc.weight", torch.zeros(7, 2048)),
            r"fc\.weight as \(7, 2048\); expected \(7, 512\)",
        ),
        (
            lambda net: changed(net, "bn.bias", torch.zeros(8)),
            r"bn\.bias as \(8,\); expected \(7,\)",
        ),
        (lambda net: changed(net, "bn.bias", "text"), r"lack bn\.bias"),
        (
            lambda net: changed(net, "extra.weight", torch.zeros(1)),
            r"1 tensors that DAN does not have.*extra\.weight",
        ),
        (lambda net: resnet18(weights=None).state_dict(), r"lack features\.0\.weight of ResNet18"),
        pytest.param(
            lambda net: {"fc.weight": torch.zeros(1, FEATURES)},
            "have 1 classes; expected 2 or more",
        ),
    ],
)
def test_weights_of_another_network_are_refused_by_name(make, message):
    with pytest.raises(InputError, match=message):
        network_for(make(DAN(7, 2)))
