"""EAC, erasing attention consistency (Zhang et al., ECCV 2022).

Each image is seen a second time, mirrored. The attention map of class k is the feature map weighed
by the classifier, M_k(x) = sum_c w_kc F_c(x), with w held fixed, and should be mirrored too:

    L = L_cls(x) + lambda * mean over B, K, h, w of ( M(x) - mirror(M(mirror(x))) )^2

Only the image itself is classified. Both passes are differentiated, and both update the running
statistics of batch normalisation. The map may have any size (7 x 7 in the code); with one position,
at 32 px, mirroring does not move it. The erasing is the recipe's RandomErasing: the second view
mirrors the erased image, as in the authors' code for clean labels. Unlike theirs, our recipes
mirror at random before that, which swaps the two views.

Each step takes two passes; a trained EAC is a ResNet-18.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from common.batch import Batch
from common.flags import flag, not_negative

from ..backbone import FEATURE_DIM, resnet18_backbone
from ..losses import LossTerms, cross_entropy
from ..precision import full_precision, no_autocast
from .base import Rival


class EACOutput(NamedTuple):
    """What the network returns."""

    logits: Tensor  # (B, C)
    features: Tensor  # (B, 512, h, w)
    mirrored: Tensor | None  # (B, 512, h, w), of the mirrored images; None in eval mode
    weight: Tensor  # (C, 512), the classifier's, detached


class EAC(nn.Module):
    """ResNet-18 that, in training mode, also looks at the mirrored images."""

    def __init__(self, num_classes: int = 7):
        super().__init__()
        self.num_classes = num_classes
        self.features = resnet18_backbone()
        self.fc = nn.Linear(FEATURE_DIM, num_classes)

    def attention_maps(self, images: Tensor) -> Tensor:
        """The attention map of the most probable class: (B, 1, h, w), negative values as 0."""
        output = self(images)
        chosen = self.fc.weight[output.logits.argmax(dim=1)]
        return torch.einsum("bchw,bc->bhw", output.features, chosen).relu().unsqueeze(1)

    def forward(self, images: Tensor) -> EACOutput:
        """Classify normalised images (B, 3, H, W), H and W from 32 up."""
        features = self.features(images)
        mirrored = self.features(images.flip(3)) if self.training else None
        with no_autocast(images):
            logits = self.fc(full_precision(features).mean(dim=(2, 3)))
        return EACOutput(logits, features, mirrored, self.fc.weight.detach())


def consistency_loss(maps: Tensor, mirrored_maps: Tensor, weight: Tensor) -> Tensor:
    """Mean squared difference of the attention maps of both views.

    Feature maps (B, C, h, w) of the images and of the mirrored images; weight (K, C), the
    classifier's, through which no gradient flows.
    """
    difference = maps - mirrored_maps.flip(3)  # the maps are linear in the features
    return torch.einsum("bchw,kc->bkhw", difference, weight.detach()).square().mean()


class EACLoss(nn.Module):
    """Cross-entropy and consistency of the attention maps."""

    def __init__(self, flags: EACFlags):
        super().__init__()
        self.weight = flags.eac_lambda

    def forward(self, output: EACOutput, batch: Batch) -> LossTerms:
        """The loss of a batch; in eval mode there is no second view and cross-entropy alone."""
        terms = {"cls": cross_entropy(output.logits, batch)}
        if output.mirrored is None:
            return LossTerms(terms["cls"], terms)
        views = full_precision(output.features), full_precision(output.mirrored)
        terms["consistency"] = consistency_loss(*views, full_precision(output.weight))
        return LossTerms(terms["cls"] + self.weight * terms["consistency"], terms)


@dataclass(frozen=True, kw_only=True)
class EACFlags(Rival):
    """EAC's flags."""

    eac_lambda: float = flag(5.0, check=not_negative, help="eac: weight of the consistency")

    def network(self, num_classes: int, image_size: int) -> EAC:
        """See `EAC`; any image size."""
        return EAC(num_classes)

    def criterion(self, num_classes: int) -> EACLoss:
        """See `EACLoss`."""
        return EACLoss(self)
