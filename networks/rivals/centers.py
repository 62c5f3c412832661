"""Class centers that have an SGD of their own: shared by center, island, DDA loss and DACL.

The losses' weights scale what reaches the network, not the centers: with features f, attention
weights A (1 where a method has none) and n_j the number of images of class j in the batch,

    c_j <- c_j - lr * [ sum_{i: y_i = j} A_i (c_j - f_i) / (1 + n_j)  +  dR/dc_j ]

The first part is Wen et al.'s step (ECCV 2016), R a method's further loss on the centers. A step
uses the batch's features from before the network's own step, as in the authors' codes.

Centers are a buffer: they are saved and resumed, and the optimiser does not see them. In several
processes sums and counts are those of the whole batch, so all keep the same centers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.batch import Batch

from ..backbone import FEATURE_DIM
from ..losses import LossTerms, cross_entropy
from ..precision import full_precision
from .processes import sum_over_processes


def center_gradient(
    features: Tensor, labels: Tensor, centers: Tensor, attention: Tensor | None = None
) -> Tensor:
    """Wen's step, without the rate: (K, C), as `centers`, over all processes' batches.

    features and attention (B, C), labels (B,) in 0..K-1.
    """
    difference = centers[labels] - features
    if attention is not None:
        difference = attention * difference
    members = F.one_hot(labels, len(centers)).to(features.dtype)  # (B, K)
    sums = sum_over_processes(members.T @ difference)
    return sums / (1 + sum_over_processes(members.sum(dim=0)))[:, None]


class MovingCenters(nn.Module):
    """Cross-entropy and losses of pooled features and centers, which move in training mode.

    A subclass gives the losses, their weights for the network, and which of them move the centers
    beside Wen's step, with what weight.
    """

    weights: dict[str, float]
    moving: dict[str, float] = {}

    def __init__(self, num_classes: int, *, lr: float, std: float = 1.0):
        """lr: of the centers; std: of their first, normally distributed values."""
        super().__init__()
        self.lr = lr
        self.register_buffer("centers", std * torch.randn(num_classes, FEATURE_DIM))

    def losses(
        self, features: Tensor, labels: Tensor, centers: Tensor, attention: Tensor | None
    ) -> dict[str, Tensor]:
        """The losses of pooled features (B, 512) by name, without weights."""
        raise NotImplementedError

    def forward(self, output: Any, batch: Batch) -> LossTerms:
        """The loss of an output with logits, features (B, 512, h, w) and maybe attention."""
        features = full_precision(output.features).mean(dim=(2, 3))
        arguments = (features, batch.labels, self.centers, getattr(output, "attention", None))
        terms = self.losses(*arguments)
        classified = cross_entropy(output.logits, batch)
        total = classified + sum(self.weights[name] * term for name, term in terms.items())
        if self.training:
            self._move(*(None if each is None else each.detach() for each in arguments))
        return LossTerms(total, {"cls": classified, **terms})

    def _move(
        self, features: Tensor, labels: Tensor, centers: Tensor, attention: Tensor | None
    ) -> None:
        gradient = center_gradient(features, labels, centers, attention)
        if self.moving:
            leaf = centers.clone().requires_grad_()
            terms = self.losses(features, labels, leaf, attention)
            moving = sum(weight * terms[name] for name, weight in self.moving.items())
            (share,) = torch.autograd.grad(moving, leaf)
            # The mean over the images of all processes.
            images = sum_over_processes(share.new_tensor(len(labels)))
            gradient = gradient + sum_over_processes(len(labels) * share) / images
        self.centers = centers - self.lr * gradient
