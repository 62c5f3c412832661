"""Test-time augmentation: a network's mean probabilities over several views of an image."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CROP = 0.9  # of each side
VIEWS = 12


class MeanOutput(NamedTuple):
    """Log of the mean probabilities, which are logits of these."""

    logits: Tensor  # (B, C)


def views(images: Tensor) -> Iterator[Tensor]:
    """The whole images (B, 3, S, S), their corners and their centre, and each of these mirrored.

    Corners and centre are crops of CROP of each side, enlarged to S x S. VIEWS in all.
    """
    size = images.shape[-1]
    side = round(CROP * size)
    end, middle = size - side, (size - side) // 2
    yield from (images, images.flip(3))
    for top, left in ((0, 0), (0, end), (end, 0), (end, end), (middle, middle)):
        crop = images[..., top : top + side, left : left + side]
        crop = F.interpolate(crop, size=(size, size), mode="bilinear", align_corners=False)
        yield from (crop, crop.flip(3))


class MeanOverViews(nn.Module):
    """A network over `views`; nothing is random."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> MeanOutput:
        """Images (B, 3, S, S) to the mean over the views of the softmax of the logits."""
        each = [self.network(view).logits.float().log_softmax(dim=1) for view in views(images)]
        # By logsumexp: a mean of probabilities could underflow, and its log be infinite.
        return MeanOutput(torch.stack(each).logsumexp(dim=0) - math.log(VIEWS))
