"""ResNet-18 with island loss (Cai et al., FG 2018): center loss, and centers in other directions.

    L = L_cls + lambda (L_center + lambda1 L_pairs)
    L_center = 1/(2B) sum_i ||f_i - c_{y_i}||^2
    L_pairs  = sum_j sum_{k != j} ( c_j.c_k / (|c_j| |c_k|) + 1 )

over ordered pairs, so each counts twice. The pairs do not depend on the features: they reach the
network by the centers alone, whose step (`centers.py`) has lambda1 dL_pairs/dc beside Wen's. The
authors have released no code; the mean over the batch is as in the other losses here (their text
has the sum), and dL_pairs/dc is the derivative of the loss as written, with no further factor.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from common.flags import flag, not_negative

from .base import Rival
from .center import center_loss
from .centers import MovingCenters


def pair_loss(centers: Tensor) -> Tensor:
    """L_pairs of the centers (K, C)."""
    directions = F.normalize(centers, dim=1, eps=0)
    cosines = directions @ directions.T
    classes = len(centers)
    return cosines.sum() - cosines.diagonal().sum() + classes * (classes - 1)


def island_loss(features: Tensor, labels: Tensor, centers: Tensor, lambda1: float) -> Tensor:
    """L_center + lambda1 L_pairs; features (B, C), labels (B,), centers (K, C)."""
    return center_loss(features, labels, centers) + lambda1 * pair_loss(centers)


class IslandCriterion(MovingCenters):
    """Cross-entropy and island loss."""

    def __init__(self, flags: IslandFlags, num_classes: int):
        super().__init__(num_classes, lr=flags.island_center_lr)
        pairs = flags.island_lambda1
        self.weights = {"center": flags.island_lambda, "pairs": flags.island_lambda * pairs}
        self.moving = {"pairs": pairs}

    def losses(
        self, features: Tensor, labels: Tensor, centers: Tensor, attention: None
    ) -> dict[str, Tensor]:
        """The two parts of the island loss."""
        return {"center": center_loss(features, labels, centers), "pairs": pair_loss(centers)}


@dataclass(frozen=True, kw_only=True)
class IslandFlags(Rival):
    """Flags of the ResNet-18 with island loss."""

    island_lambda: float = flag(0.01, check=not_negative, help="island: weight of the island loss")
    island_lambda1: float = flag(10.0, check=not_negative, help="island: weight of the pairs in it")
    island_center_lr: float = flag(
        0.5, check=not_negative, help="island: learning rate of the centers"
    )

    def criterion(self, num_classes: int) -> IslandCriterion:
        """See `IslandCriterion`."""
        return IslandCriterion(self, num_classes)
