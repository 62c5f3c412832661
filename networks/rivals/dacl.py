"""DACL, deep attentive center loss (Farzaneh and Qi, WACV 2021); Figure 1's first column.

From the backbone's feature map x an attention network computes a weight for each of the pooled
features f, with which they count in a sparse center loss:

    h = tanh(BN(Linear(relu(BN(Linear(relu(BN(Linear(flat x)))))))))
    A_d = softmax of the pair (Linear h)_d, its second entry
    L = L_cls + lambda / (2B) sum_i sum_d A_id (f_id - c_{y_i,d})^2

The centers' step (`centers.py`) is weighted by A and not by lambda, as in the authors' code, from
which the widths 3584, 512 and 64 are. The first layer reads the whole map: 92 million parameters at
224 px, for training and for drawing alone. The classifier is the baseline's, so what is tested is a
ResNet-18.

Their recipe: --lr 0.01 --batch-size 64 --epochs 60 --optimizer sgd-5e-4 --scheduler step-20
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from common.errors import InputError
from common.flags import flag, not_negative

from ..backbone import FEATURE_DIM, resnet18_backbone
from ..precision import full_precision, no_autocast
from . import centers as moving
from .base import Rival

WIDTHS = (3584, 512, 64)
STRIDE = 32  # pixels of the image to a position of the map


class DACLOutput(NamedTuple):
    """What the network returns."""

    logits: Tensor  # (B, C)
    features: Tensor  # (B, 512, h, w)
    attention: Tensor | None  # (B, 512), from 0 to 1; None in eval mode


class DACL(nn.Module):
    """ResNet-18 with DACL's attention network beside the pooling."""

    def __init__(self, num_classes: int = 7, image_size: int = 224):
        """image_size: pixels in training, which the attention network's first layer is made for."""
        super().__init__()
        self.num_classes = num_classes
        self.side = math.ceil(image_size / STRIDE)
        self.features = resnet18_backbone()
        first, second, third = WIDTHS
        self.attention = nn.Sequential(
            nn.Linear(FEATURE_DIM * self.side**2, first),
            nn.BatchNorm1d(first),
            nn.ReLU(),
            nn.Linear(first, second),
            nn.BatchNorm1d(second),
            nn.ReLU(),
            nn.Linear(second, third),
            nn.BatchNorm1d(third),
            nn.Tanh(),
        )
        self.attention_heads = nn.Linear(third, 2 * FEATURE_DIM)
        self.fc = nn.Linear(FEATURE_DIM, num_classes)

    def attention_of(self, features: Tensor) -> Tensor:
        """A (B, 512) of a feature map (B, 512, h, w).

        Raises InputError for a map of another size than in training.
        """
        if features.shape[2:] != (self.side, self.side):
            height, width = features.shape[2:]
            raise InputError(
                f"DACL's attention network reads maps of {self.side} x {self.side}, these images "
                f"give {height} x {width}; use images of the size it was trained with"
            )
        pairs = self.attention_heads(self.attention(features.flatten(1)))
        return full_precision(pairs).unflatten(1, (FEATURE_DIM, 2)).softmax(dim=2)[..., 1]

    def attention_maps(self, images: Tensor) -> Tensor:
        """The feature map as A weighs it, summed over its channels: (B, 1, h, w), not negative."""
        features = self.features(images)
        return (self.attention_of(features)[..., None, None] * features).sum(dim=1, keepdim=True)

    def forward(self, images: Tensor) -> DACLOutput:
        """Classify normalised images (B, 3, H, W); in eval mode of any size from 32 px up."""
        features = self.features(images)
        with no_autocast(images):
            logits = self.fc(full_precision(features).mean(dim=(2, 3)))
        return DACLOutput(logits, features, self.attention_of(features) if self.training else None)


def sparse_center_loss(
    features: Tensor, attention: Tensor, labels: Tensor, centers: Tensor
) -> Tensor:
    """1/(2B) sum_i sum_d A_id (f_id - c_{y_i,d})^2; features and attention (B, C)."""
    return (attention * (features - centers[labels]).square()).sum() / (2 * len(labels))


def center_gradient(features: Tensor, attention: Tensor, labels: Tensor, centers: Tensor) -> Tensor:
    """The centers' step without the rate (K, C): sum A_i (c_j - f_i) / (1 + n_j)."""
    return moving.center_gradient(features, labels, centers, attention)


class DACLCriterion(moving.MovingCenters):
    """Cross-entropy and sparse center loss."""

    def __init__(self, flags: DACLFlags, num_classes: int):
        super().__init__(num_classes, lr=flags.dacl_center_lr, std=math.sqrt(2 / num_classes))
        self.weights = {"center": flags.dacl_lambda}

    def losses(
        self, features: Tensor, labels: Tensor, centers: Tensor, attention: Tensor | None
    ) -> dict[str, Tensor]:
        """The sparse center loss; in eval mode there is no attention and no such loss."""
        if attention is None:
            return {}
        return {"center": sparse_center_loss(features, attention, labels, centers)}


@dataclass(frozen=True, kw_only=True)
class DACLFlags(Rival):
    """DACL's flags."""

    mark: ClassVar[str] = "attention_heads.weight"

    dacl_lambda: float = flag(0.01, check=not_negative, help="dacl: weight of the center loss")
    dacl_center_lr: float = flag(0.5, check=not_negative, help="dacl: learning rate of the centers")

    def network(self, num_classes: int, image_size: int) -> DACL:
        """See `DACL`."""
        return DACL(num_classes, image_size)

    def criterion(self, num_classes: int) -> DACLCriterion:
        """See `DACLCriterion`."""
        return DACLCriterion(self, num_classes)

    def network_like(self, weights: Mapping[str, Tensor], num_classes: int) -> DACL:
        """The attention network's input size gives that of the images."""
        first = weights.get("attention.0.weight")
        inputs = first.shape[-1] if isinstance(first, Tensor) and first.dim() else 0
        return DACL(num_classes, STRIDE * max(1, math.isqrt(inputs // FEATURE_DIM)))
