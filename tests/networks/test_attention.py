"""Where heads look: spatial maps against the network, overlaps and Grad-CAM++ against loops."""

from __future__ import annotations

import importlib.util
import math

import pytest
import torch
from torch import Tensor

from networks import DAN
from networks.attention import grad_cam_maps, map_overlaps, saturation, spatial_maps


@pytest.fixture(scope="module")
def dan() -> DAN:
    """Three heads whose maps and gates differ, in eval mode."""
    torch.manual_seed(0)
    network = DAN(7, 3)
    for head in network.attention_heads():
        torch.nn.init.normal_(head.ca.attention[3].weight, std=0.1)
    return network.eval()


def test_spatial_maps_are_what_the_heads_multiply_with(dan):
    images = torch.randn(2, 3, 96, 64)
    maps = spatial_maps(dan, images)
    assert maps.shape == (2, 3, 3, 2)
    assert not maps.requires_grad
    with torch.no_grad():
        features = dan.features(images)
        for i, head in enumerate(dan.attention_heads()):
            torch.testing.assert_close(head.sa(features), features * maps[:, i : i + 1])


def test_overlaps_are_those_of_loops():
    maps = torch.rand(2, 3, 2, 4, generator=torch.Generator().manual_seed(0))
    found = map_overlaps(maps)
    for image in range(2):
        for i in range(3):
            for j in range(3):
                p = (maps[image, i] / maps[image, i].sum()).flatten().tolist()
                q = (maps[image, j] / maps[image, j].sum()).flatten().tolist()
                pairs = list(zip(p, q, strict=True))
                expected = sum(map(min, pairs)) / sum(map(max, pairs))
                assert float(found[image, i, j]) == pytest.approx(expected, rel=1e-6)


def test_equal_maps_overlap_wholly_and_disjoint_ones_not():
    one = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    maps = torch.stack([one, 3 * one, one.flip(0), torch.zeros(2, 2)]).unsqueeze(0)
    found = map_overlaps(maps)[0]
    assert found[0, 1] == pytest.approx(1)
    assert found[0, 2] == 0
    assert found[0, 3].isnan()


@pytest.mark.parametrize("scale", [0.05, 0.5, 5.0])
def test_saturation_is_the_share_of_channels_in_which_one_head_has_all(scale):
    """Counted by hand, for heads that are far from each other and near."""
    torch.manual_seed(0)
    dan = DAN(7, 3).eval()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for head in dan.attention_heads():
        head.ca.register_forward_hook(lambda _, __, a: scale * a)
    with torch.no_grad():
        features = dan.features(images)
        vectors = [head(features) for head in dan.attention_heads()]
    expected = []
    for image in range(2):
        channels = [[float(vector[image, c]) for vector in vectors] for c in range(512)]
        largest = [max(each) for each in channels]
        weights = [
            1 / sum(math.exp(a - top) for a in each)
            for each, top in zip(channels, largest, strict=True)
        ]
        expected.append(sum(weight > 0.99 for weight in weights) / 512)
    assert 0.01 < expected[0] < 0.99
    assert saturation(dan, images).tolist() == pytest.approx(expected, abs=0.003)


def test_saturation_is_that_of_the_log_softmax_over_several_heads():
    images = torch.randn(2, 3, 64, 64)
    assert saturation(DAN(3, 1).eval(), images).tolist() == [0, 0]
    with pytest.raises(ValueError, match="the fusion is sum"):
        saturation(DAN(3, 2, fusion="sum").eval(), images)


def grad_cam_by_hand(network: DAN, images: Tensor, number: int) -> Tensor:
    """Grad-CAM++ (Chattopadhay et al., 2018, Eq. 19 and 7) at the size of the map: (B, h, w)."""
    kept = {}
    head = network.attention_heads()[number]

    def keep(_module, _inputs, output):
        output.retain_grad()
        kept["a"] = output

    hook = head.sa.register_forward_hook(keep)
    logits = network(images).logits
    hook.remove()
    logits.max(dim=1).values.sum().backward()
    network.zero_grad(set_to_none=True)
    maps = []
    for a, g in zip(kept["a"].detach().double(), kept["a"].grad.double(), strict=True):
        weights = torch.zeros(len(a), dtype=torch.float64)
        for c in range(len(a)):
            alpha = g[c] ** 2 / (2 * g[c] ** 2 + a[c].sum() * g[c] ** 3 + 1e-6)
            weights[c] = (alpha * g[c].clamp_min(0)).sum()
        maps.append((weights[:, None, None] * a).sum(0).clamp_min(0))
    return torch.stack(maps)


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("pytorch_grad_cam") is None,
    reason="grad-cam is not installed (requirements-figures.txt)",
)
def test_grad_cam_is_the_formula_for_each_head(dan):
    images = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    found = grad_cam_maps(dan, images)
    assert found.shape == (2, 3, 96, 96)
    for i in range(3):
        by_hand = grad_cam_by_hand(dan, images, i)
        low, high = by_hand.amin((1, 2), keepdim=True), by_hand.amax((1, 2), keepdim=True)
        scaled = (by_hand - low) / (high - low)
        # A position has 32 x 32 pixels; its center lies half a pixel beyond the 16th.
        centers = found[:, i, 15::32, 15::32].double()
        assert scaled.shape == centers.shape
        assert (centers - scaled).abs().max() < 0.04
    assert all(p.grad is None for p in dan.parameters())
    assert not dan.cat_head0.sa._forward_hooks
