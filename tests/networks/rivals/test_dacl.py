"""DACL's attention network: its sizes, its order, and that only training needs it."""

from __future__ import annotations

import pytest
import torch

from common.errors import InputError
from networks import Method, ResNet18, network_for
from networks.rivals.dacl import DACL


def test_number_of_attention_parameters_at_224_px():
    with torch.device("meta"):
        network = Method(arch="dacl", pretrained="none").rival.network(7, 224)
    attention = [*network.attention.parameters(), *network.attention_heads.parameters()]
    assert sum(p.numel() for p in attention) == 91_862_208


def test_attention_is_the_second_of_each_pair():
    torch.manual_seed(0)
    network = DACL(3, 64).double().eval()
    maps = torch.rand(2, 512, 2, 2, dtype=torch.float64)
    scores = network.attention_heads(network.attention(maps.reshape(2, -1)))
    attention = network.attention_of(maps)
    for i in range(2):
        for d in (0, 1, 511):
            one, other = scores[i, 2 * d].exp(), scores[i, 2 * d + 1].exp()
            torch.testing.assert_close(attention[i, d], other / (one + other))
    channels_last = maps.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(network.attention_of(channels_last), attention)


def test_the_trained_network_is_a_resnet18():
    torch.manual_seed(0)
    network = DACL(3, 64).eval()
    plain = ResNet18(3).eval()
    plain.load_state_dict(
        {k: v for k, v in network.state_dict().items() if not k.startswith("attention")}
    )
    images = torch.randn(2, 3, 96, 64)
    with torch.no_grad():
        output = network(images)
        torch.testing.assert_close(output.logits, plain(images).logits)
    assert output.attention is None


def test_a_map_of_another_size_is_refused_where_the_attention_is_needed():
    network = DACL(3, 64)
    with pytest.raises(InputError, match="reads maps of 2 x 2, these images give 3 x 2"):
        network.train()(torch.randn(2, 3, 96, 64))
    with pytest.raises(InputError, match="size it was trained with"):
        network.eval().attention_maps(torch.randn(1, 3, 96, 96))


@pytest.mark.parametrize("size", [32, 48, 96])
def test_the_image_size_is_read_from_the_weights(size):
    weights = DACL(3, size).state_dict()
    assert network_for(weights).side == -(-size // 32)


def test_the_map_is_the_features_as_the_attention_weighs_them():
    torch.manual_seed(0)
    network = DACL(3, 64).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        features = network.features(images)
        attention, maps = network.attention_of(features), network.attention_maps(images)
    for i, y, x in ((0, 0, 1), (1, 1, 0)):
        expected = (attention[i] * features[i, :, y, x]).sum()
        torch.testing.assert_close(maps[i, 0, y, x], expected)
    assert (maps >= 0).all()
