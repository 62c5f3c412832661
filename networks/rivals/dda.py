"""ResNet-18 with DDA loss (Farzaneh and Qi, CVPRW 2020): center loss, and distance to the others.

    L   = L_cls + lambda L_C + gamma L_D
    L_C = 1/(2B) sum_i ||f_i - c_{y_i}||^2
    L_D = 1/B sum_i -log softmax_k(-||f_i - c_k||^2)[y_i]

The centers' step (`centers.py`) has gamma dL_D/dc beside Wen's.

--dda-form mean:     L_D as above
--dda-form released: the authors' code divides that mean by 2B once more: a gamma of 4 at batch 64
                     acts as 0.031 (in several processes B is the process's share)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from common.flags import flag, not_negative

from .base import Rival
from .center import center_loss
from .centers import MovingCenters


def discriminant_loss(features: Tensor, labels: Tensor, centers: Tensor) -> Tensor:
    """L_D, the true mean; features (B, C), labels (B,), centers (K, C)."""
    squared = (features[:, None] - centers[None]).square().sum(dim=2)
    return F.cross_entropy(-squared, labels)


class DDACriterion(MovingCenters):
    """Cross-entropy and DDA loss."""

    def __init__(self, flags: DDAFlags, num_classes: int):
        super().__init__(num_classes, lr=flags.dda_center_lr, std=math.sqrt(2 / num_classes))
        self.released = flags.dda_form == "released"
        self.weights = {"center": flags.dda_lambda, "discriminant": flags.dda_gamma}
        self.moving = {"discriminant": flags.dda_gamma}

    def losses(
        self, features: Tensor, labels: Tensor, centers: Tensor, attention: None
    ) -> dict[str, Tensor]:
        """The two parts of the DDA loss."""
        discriminant = discriminant_loss(features, labels, centers)
        if self.released:
            discriminant = discriminant / (2 * len(labels))
        return {"center": center_loss(features, labels, centers), "discriminant": discriminant}


@dataclass(frozen=True, kw_only=True)
class DDAFlags(Rival):
    """Flags of the ResNet-18 with DDA loss."""

    dda_form: str = flag(
        "mean", choices=("mean", "released"), help="dda: what its discriminant part is divided by"
    )
    dda_lambda: float = flag(0.01, check=not_negative, help="dda: weight of the center loss")
    dda_gamma: float = flag(4.0, check=not_negative, help="dda: weight of the discriminant loss")
    dda_center_lr: float = flag(0.5, check=not_negative, help="dda: learning rate of the centers")

    def criterion(self, num_classes: int) -> DDACriterion:
        """See `DDACriterion`."""
        return DDACriterion(self, num_classes)
