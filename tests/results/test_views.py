"""Test-time augmentation against a loop over the views."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from results.views import VIEWS, MeanOverViews, views


class Probe(nn.Module):
    """A network whose logits are a linear map of the pixels."""

    def __init__(self, size: int, scale: float = 1.0):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = scale * torch.randn(3 * size * size, 5, generator=generator)

    def forward(self, images: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=images.flatten(1) @ self.weight)


def pictures(size: int = 20, count: int = 2) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def test_the_views_are_the_whole_image_four_corners_and_the_centre_each_with_its_mirror():
    images = pictures()
    made = list(views(images))
    assert len(made) == VIEWS == 12
    assert torch.equal(made[0], images)
    for view, mirrored in zip(made[::2], made[1::2], strict=True):
        assert view.shape == images.shape
        assert torch.equal(mirrored, view.flip(3))
    for view, (top, left) in zip(made[2::2], ((0, 0), (0, 2), (2, 0), (2, 2), (1, 1)), strict=True):
        for image in range(2):
            for channel in range(3):
                crop = images[image, channel, top : top + 18, left : left + 18].numpy()
                expected = Image.fromarray(crop).resize((20, 20), Image.Resampling.BILINEAR)
                expected = torch.from_numpy(np.array(expected))
                torch.testing.assert_close(view[image, channel], expected)


def test_the_output_is_the_mean_of_the_probabilities():
    images, network = pictures(), Probe(20, scale=0.05)
    found = MeanOverViews(network)(images).logits
    expected = torch.stack([network(view).logits.softmax(dim=1) for view in views(images)])
    torch.testing.assert_close(found.softmax(dim=1), expected.mean(dim=0))
    torch.testing.assert_close(found.exp().sum(dim=1), torch.ones(2))


def test_classes_without_any_probability_stay_finite():
    assert MeanOverViews(Probe(20, scale=100.0))(pictures()).logits.isfinite().all()


@pytest.mark.parametrize("size", [32, 33, 48])
def test_nothing_is_random_and_mirrored_images_give_the_same(size):
    """The centre crop of an odd rest is not symmetric, so only to the last digits of its share."""
    images, network = pictures(size), MeanOverViews(Probe(size, scale=0.05))
    assert torch.equal(network(images).logits, network(images).logits)
    if round(0.9 * size) % 2 == size % 2:
        torch.testing.assert_close(network(images.flip(3)).logits, network(images).logits)
