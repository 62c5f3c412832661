"""RAN: regions, the two attentions, the region bias loss."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from networks.rivals.ran import FULL_FACE, RAN, REGIONS, crop, region_bias_loss


def made(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def test_regions_are_fractions_of_the_image():
    image = torch.arange(80 * 40.0).view(1, 80, 40)
    left, top, right, bottom = REGIONS["paper"][2]
    assert (left, top, right, bottom) == (0.125, 0.25, 0.875, 1.0)
    assert torch.equal(crop(image, REGIONS["paper"][2]), image[:, 20:80, 5:35])
    assert torch.equal(crop(image, FULL_FACE), image)
    sizes = [right - left for left, _, right, _ in REGIONS["paper"]]
    assert sizes == pytest.approx([0.75, 0.75, 0.75, 0.9, 0.85])
    for boxes in REGIONS.values():
        for left, top, right, bottom in boxes:
            assert right - left == pytest.approx(bottom - top)


@pytest.mark.parametrize("form", ["paper", "released"])
def test_attention_is_its_equation(form):
    torch.manual_seed(0)
    network = RAN(3, form=form).double()
    regions = made(2, 4, 512)
    joined, weights = network.joined(regions)

    def normed(values: list[Tensor]) -> list[Tensor]:
        if form == "paper":
            return values
        total = sum(value.exp() for value in values)
        return [value.exp() / total for value in values]

    for i in range(2):
        a = normed([network.alpha(vector) for vector in regions[i]])
        whole = sum(w * v for w, v in zip(a, regions[i], strict=True)) / sum(a)
        both = [torch.cat([vector, whole]) for vector in regions[i]]
        ab = [w * u for w, u in zip(a, normed([network.beta(v) for v in both]), strict=True)]
        expected = sum(w * v for w, v in zip(ab, both, strict=True)) / sum(ab)
        torch.testing.assert_close(joined[i], expected)
        torch.testing.assert_close(weights[i], torch.cat(a))


@pytest.mark.parametrize("margin", [0.02, 0.1, 1.0])
def test_region_bias_is_its_equation(margin):
    weights = made(4, 3).sigmoid()
    total = 0.0
    for row in weights.tolist():
        total += max(0, margin - (max(row[:-1]) - row[-1]))
    assert region_bias_loss(weights, margin).item() == pytest.approx(total / 4, abs=1e-12)
    leaf = weights.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda w: region_bias_loss(w, 0.3), leaf)


@pytest.mark.parametrize(("regions", "passes"), [("paper", 6), ("released", 8)])
def test_each_region_is_one_pass_of_one_backbone(regions, passes):
    torch.manual_seed(0)
    network = RAN(3, regions=regions).train()
    seen: list[Tensor] = []
    network.features.register_forward_hook(lambda _m, given, _o: seen.append(given[0]))
    images = torch.randn(2, 3, 64, 32)
    output = network(images)
    assert len(seen) == passes == output.weights.shape[1]
    assert network.features[1].num_batches_tracked == passes
    assert all(region.shape == images.shape for region in seen)
    assert torch.equal(seen[-1], images)
    # The first crop's corner pixels are the image's: it is enlarged, nothing else.
    box = network.boxes[0]
    part = crop(images, box)
    for corner in ((0, 0), (-1, -1)):
        torch.testing.assert_close(seen[0][..., *corner], part[..., *corner])


def test_a_constant_image_has_equal_regions_and_the_mean_is_one_of_them():
    torch.manual_seed(0)
    network = RAN(3).eval()
    images = torch.full((1, 3, 64, 64), 0.3)
    with torch.no_grad():
        output = network(images)
        pooled = network.features(images).mean(dim=(2, 3))
        expected = network.fc(torch.cat([pooled, pooled], dim=1))
    torch.testing.assert_close(output.logits, expected)
    assert output.weights.std() == pytest.approx(0, abs=1e-6)


def test_the_map_is_the_mean_weight_of_the_regions_over_a_pixel():
    torch.manual_seed(0)
    network = RAN(3).eval()
    images = torch.randn(2, 3, 40, 40)
    with torch.no_grad():
        maps, weights = network.attention_maps(images), network(images).weights
    assert maps.shape == (2, 1, 40, 40)
    for y, x in ((0, 0), (20, 20), (39, 20), (5, 36)):
        inside = [
            left * 40 <= x < right * 40 - 0.49 and top * 40 <= y < bottom * 40 - 0.49
            for left, top, right, bottom in network.boxes
        ]
        expected = weights[:, torch.tensor(inside)].mean(dim=1)
        torch.testing.assert_close(maps[:, 0, y, x], expected)
