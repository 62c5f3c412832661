"""ResNet-18 with center loss (Wen et al., ECCV 2016).

    L = L_cls + lambda / (2B) sum_i ||f_i - c_{y_i}||^2

with pooled features f; the centers' step is in `centers.py`. Wen et al. sum over the batch with
lambda 0.003 for face recognition; the mean with 0.01 is what the codes of DACL and DDA have. The
center loss of `--arch dan --fcn-loss center` has centers that the run's optimiser learns.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from common.flags import flag, not_negative

from ..losses import squared_distance
from .base import Rival
from .centers import MovingCenters


def center_loss(features: Tensor, labels: Tensor, centers: Tensor) -> Tensor:
    """1/(2B) sum_i ||f_i - c_{y_i}||^2; features (B, C), labels (B,), centers (K, C)."""
    return squared_distance(features, labels, centers) / 2


class CenterCriterion(MovingCenters):
    """Cross-entropy and center loss."""

    def __init__(self, flags: CenterFlags, num_classes: int):
        super().__init__(num_classes, lr=flags.center_lr)
        self.weights = {"center": flags.center_lambda}

    def losses(
        self, features: Tensor, labels: Tensor, centers: Tensor, attention: None
    ) -> dict[str, Tensor]:
        """The center loss."""
        return {"center": center_loss(features, labels, centers)}


@dataclass(frozen=True, kw_only=True)
class CenterFlags(Rival):
    """Flags of the ResNet-18 with center loss."""

    center_lambda: float = flag(0.01, check=not_negative, help="center: weight of the center loss")
    center_lr: float = flag(0.5, check=not_negative, help="center: learning rate of the centers")

    def criterion(self, num_classes: int) -> CenterCriterion:
        """See `CenterCriterion`."""
        return CenterCriterion(self, num_classes)
