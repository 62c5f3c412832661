"""RAN, region attention network (Wang et al., IEEE TIP 2020).

The backbone reads n crops and the full face, one pass each, F_i their pooled features. With
sigmoid weights a_i of F_i (self-attention) and b_i of [F_i; F_m] (relation-attention):

    F_m = sum_i a_i F_i / sum_i a_i
    P   = sum_i a_i b_i [F_i; F_m] / sum_i a_i b_i,     logits = W P + c
    L   = L_cls + mean over the batch of max(0, margin - (max over crops of a - a of the full face))

--ran-form paper:    a and b are the sigmoids
--ran-form released: the authors' code also takes the softmax over the regions of each

Regions are fractions of the image, resized to its size. --ran-regions paper: three of its sides and
two centers; released: the seven boxes of the authors' AffectNet code. The backbone's weights are
shared, and batch normalisation sees one region at a time. Training and testing take six passes
(eight).

The margin is 0.02; their codes have 0.02 and 0.03 for AffectNet and 0.1 for FER+.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.batch import Batch
from common.flags import flag, not_negative

from ..backbone import FEATURE_DIM, resnet18_backbone
from ..losses import LossTerms, cross_entropy
from ..precision import full_precision, no_autocast
from .base import Rival

#: left, top, right, bottom as fractions of the image; the full face comes after these.
REGIONS = {
    "paper": (
        (0.0, 0.0, 0.75, 0.75),
        (0.25, 0.0, 1.0, 0.75),
        (0.125, 0.25, 0.875, 1.0),
        (0.05, 0.05, 0.95, 0.95),
        (0.075, 0.075, 0.925, 0.925),
    ),
    "released": (
        (0.125, 0.25, 0.875, 1.0),
        (0.0, 0.0, 0.75, 0.75),
        (0.25, 0.0, 1.0, 0.75),
        (0.05, 0.05, 0.95, 0.95),
        (0.1, 0.1, 0.9, 0.9),
        (0.125, 0.125, 0.875, 0.875),
        (0.125, 0.0, 0.875, 0.75),
    ),
}
FULL_FACE = (0.0, 0.0, 1.0, 1.0)


class RANOutput(NamedTuple):
    """What the network returns."""

    logits: Tensor  # (B, C)
    features: Tensor  # (B, 512, h, w), of the full face
    weights: Tensor  # (B, n + 1), the self-attention a; the full face is last


class RAN(nn.Module):
    """ResNet-18 over regions of the face, joined by two attentions."""

    def __init__(self, num_classes: int = 7, *, form: str = "paper", regions: str = "paper"):
        super().__init__()
        self.num_classes = num_classes
        self.softmax = form == "released"
        self.boxes = (*REGIONS[regions], FULL_FACE)
        self.features = resnet18_backbone()
        self.full_face = nn.Identity()  # where Grad-CAM looks
        self.alpha = nn.Sequential(nn.Linear(FEATURE_DIM, 1), nn.Sigmoid())
        self.beta = nn.Sequential(nn.Linear(2 * FEATURE_DIM, 1), nn.Sigmoid())
        self.fc = nn.Linear(2 * FEATURE_DIM, num_classes)

    def joined(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        """P (B, 1024) and the weights a (B, n + 1) of pooled features (B, n + 1, 512)."""
        a = self._normed(self.alpha(regions))
        whole = (a * regions).sum(dim=1, keepdim=True) / a.sum(dim=1, keepdim=True)
        both = torch.cat([regions, whole.expand_as(regions)], dim=2)
        ab = a * self._normed(self.beta(both))
        return (ab * both).sum(dim=1) / ab.sum(dim=1), a.squeeze(2)

    def _normed(self, weights: Tensor) -> Tensor:
        return weights.softmax(dim=1) if self.softmax else weights

    def attention_maps(self, images: Tensor) -> Tensor:
        """Each pixel's mean weight of the regions that contain it: (B, 1, H, W)."""
        weights = self(images).weights
        inside = torch.zeros(len(self.boxes), *images.shape[2:], device=images.device)
        for mask, box in zip(inside, self.boxes, strict=True):
            crop(mask, box).fill_(1)
        return (torch.einsum("bn,nhw->bhw", weights, inside) / inside.sum(dim=0)).unsqueeze(1)

    def forward(self, images: Tensor) -> RANOutput:
        """Classify normalised images (B, 3, H, W), H and W from 32 up."""
        size, pooled = images.shape[2:], []
        for box in self.boxes[:-1]:
            region = F.interpolate(crop(images, box), size, mode="bilinear", align_corners=False)
            pooled.append(full_precision(self.features(region)).mean(dim=(2, 3)))
        features = self.full_face(self.features(images))
        with no_autocast(images):
            pooled.append(full_precision(features).mean(dim=(2, 3)))
            joined, weights = self.joined(torch.stack(pooled, dim=1))
            return RANOutput(self.fc(joined), features, weights)


def crop(images: Tensor, box: tuple[float, float, float, float]) -> Tensor:
    """The part of images (..., H, W) inside a box, to the nearest pixel; a view."""
    height, width = images.shape[-2:]
    left, top, right, bottom = box
    rows = slice(round(top * height), round(bottom * height))
    return images[..., rows, round(left * width) : round(right * width)]


def region_bias_loss(weights: Tensor, margin: float) -> Tensor:
    """Mean of max(0, margin - (largest weight of a crop - the full face's)).

    weights (B, n + 1), the full face last.
    """
    advantage = weights[:, :-1].max(dim=1).values - weights[:, -1]
    return torch.relu(margin - advantage).mean()


class RANLoss(nn.Module):
    """Cross-entropy and region bias loss."""

    def __init__(self, flags: RANFlags):
        super().__init__()
        self.margin = flags.ran_margin

    def forward(self, output: RANOutput, batch: Batch) -> LossTerms:
        """The loss of a batch."""
        classified = cross_entropy(output.logits, batch)
        bias = region_bias_loss(output.weights, self.margin)
        return LossTerms(classified + bias, {"cls": classified, "region_bias": bias})


@dataclass(frozen=True, kw_only=True)
class RANFlags(Rival):
    """RAN's flags; the defaults are the paper's."""

    mark: ClassVar[str] = "beta.0.weight"

    ran_form: str = flag(
        "paper",
        choices=("paper", "released"),
        help="ran: weights of the regions as sigmoids, or with the code's softmax over them",
    )
    ran_regions: str = flag(
        "paper", choices=tuple(REGIONS), help="ran: five crops, or the seven of the AffectNet code"
    )
    ran_margin: float = flag(0.02, check=not_negative, help="ran: margin of the region bias loss")

    def network(self, num_classes: int, image_size: int) -> RAN:
        """See `RAN`; any image size."""
        return RAN(num_classes, form=self.ran_form, regions=self.ran_regions)

    def criterion(self, num_classes: int) -> RANLoss:
        """See `RANLoss`."""
        return RANLoss(self)
