"""The losses of DAN: affinity (Eq. 2), partition (Eq. 6), unified (Eq. 7); center loss, Table 1."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.batch import Batch

from .backbone import FEATURE_DIM
from .dan import DANOutput
from .precision import full_precision, no_autocast

#: Losses on the FCN's features (Table 1).
FCN_LOSSES = ("affinity", "center", "none")
# Weight of the center loss. Its value is the affinity loss's times the variance among the
# centers, which is 512 at the start: with 0.002 both start with the same gradient.
CENTER_WEIGHT = 0.002
# Below this variance two heads count as equal (they differ by less than about 0.01 nat).
# A channel that ReLU left at zero over its whole map makes every head equal there, and Eq. 6
# read literally would be infinite; with the floor such a channel adds the constant
# log(1 + k / VARIANCE_FLOOR), about 10.6 for four heads, and no gradient.
VARIANCE_FLOOR = 1e-4


class AffinityLoss(nn.Module):
    """Affinity loss (Eq. 2): distance to the class center over the variance among centers.

    With pooled features x_i and centers c (classes, feature_dim), learned by the optimiser:

        L = 1/B sum_i ||x_i - c_{y_i}||^2 / sum_d var_j(c_jd)

    The division by the batch size, the average pooling and the unbiased variance are the
    release's reading. The divisor is differentiated, so the centers are driven apart.

    Raises ValueError for fewer than 2 classes (their variance does not exist).
    """

    def __init__(self, num_classes: int, feature_dim: int = FEATURE_DIM):
        super().__init__()
        if num_classes < 2:
            raise ValueError(
                f"num_classes is {num_classes}; the variance among centers needs at least 2"
            )
        self.centers = nn.Parameter(torch.randn(num_classes, feature_dim))

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """The loss of features (B, D, h, w) or (B, D) with labels (B,) in 0..classes-1."""
        with no_autocast(features):
            centers = full_precision(self.centers)
            return squared_distance(features, labels, centers) / centers.var(dim=0).sum()


class CenterLoss(nn.Module):
    """Center loss, Table 1's alternative to the affinity loss: distance to the class center.

    With pooled features x_i and centers c (classes, feature_dim), learned by the optimiser:

        L = 1/B sum_i ||x_i - c_{y_i}||^2

    It is Eq. 2 without the division, so nothing drives the centers apart and the value is some
    500 times larger; weigh it accordingly.
    """

    def __init__(self, num_classes: int, feature_dim: int = FEATURE_DIM):
        super().__init__()
        self.centers = nn.Parameter(torch.randn(num_classes, feature_dim))

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """The loss of features (B, D, h, w) or (B, D) with labels (B,) in 0..classes-1."""
        with no_autocast(features):
            return squared_distance(features, labels, full_precision(self.centers))


def squared_distance(features: Tensor, labels: Tensor, centers: Tensor) -> Tensor:
    """Mean over the batch of the squared distance of pooled features to their class center.

    features (B, D, h, w) or (B, D), labels (B,) in 0..classes-1, centers (classes, D); a scalar.
    """
    pooled = full_precision(features)
    if pooled.dim() == 4:
        pooled = pooled.mean(dim=(2, 3))
    return (pooled - centers.index_select(0, labels)).square().sum() / len(labels)


class PartitionLoss(nn.Module):
    """Partition loss: small when the k heads differ from each other.

    form="eq6" is the paper's Equation 6, the mean over samples and channels of
    log(1 + k / v), v the unbiased variance over the heads, floored at `VARIANCE_FLOOR`.
    form="released" is what the released code computes, log(1 + k / mean v).
    One head cannot be partitioned: its loss is 0.

    Where the heads of a channel come close, the gradient of "eq6" grows as one over their distance.
    With two heads that happens often enough to spoil the training (docs/reproducing.md).

    Raises ValueError for another form.
    """

    #: Readings of Equation 6.
    FORMS = ("eq6", "released")

    def __init__(self, form: str = "eq6"):
        super().__init__()
        if form not in self.FORMS:
            raise ValueError(f"form is {form!r}; expected one of {', '.join(self.FORMS)}")
        self.form = form

    def forward(self, heads: Tensor) -> Tensor:
        """The loss of attention vectors (B, k, D) after the log-softmax over k."""
        with no_autocast(heads):
            heads = full_precision(heads)
            num_heads = heads.shape[1]
            if num_heads == 1:
                return heads.new_zeros(())
            # Not torch.var, which takes forty times as long on a CPU.
            centered = heads - heads.mean(dim=1, keepdim=True)
            variance = centered.square().sum(dim=1) / (num_heads - 1)
            if self.form == "released":
                # Machine epsilon keeps identical heads finite, far below any variance that matters.
                mean = variance.mean() + torch.finfo(heads.dtype).eps
                return torch.log1p(num_heads / mean)
            return torch.log1p(num_heads / variance.clamp_min(VARIANCE_FLOOR)).mean()


class LossTerms(NamedTuple):
    """The weighted sum of a loss, and its terms by name, unweighted."""

    total: Tensor  # scalar; its gradient is what training uses
    terms: dict[str, Tensor]  # scalars


def cross_entropy(logits: Tensor, batch: Batch) -> Tensor:
    """L_cls of logits (B, C): mean cross-entropy with the labels or, where the batch has the target
    "soft_labels", with those: the fraction of the votes for each class.
    """
    with no_autocast(logits):
        target = batch.targets.get("soft_labels", batch.labels)
        return F.cross_entropy(full_precision(logits), target)


class DANLoss(nn.Module):
    """Unified loss (Eq. 7): L = lambda1 L_affinity + lambda2 L_partition + L_cls.

    L_cls is `cross_entropy`.

    fcn_loss "affinity", "center" (weighed by center_weight instead of lambda1) or "none";
    partition "eq6", "released" or "none". Terms that are off are not computed. All terms are
    computed in at least float32, also under autocast.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        fcn_loss: str = "affinity",
        partition: str = "eq6",
        lambda1: float = 1.0,
        lambda2: float = 1.0,
        center_weight: float = CENTER_WEIGHT,
    ):
        super().__init__()
        if fcn_loss not in FCN_LOSSES:
            raise ValueError(f"fcn_loss is {fcn_loss!r}; expected one of {', '.join(FCN_LOSSES)}")
        self.affinity = AffinityLoss(num_classes) if fcn_loss == "affinity" else None
        self.center = CenterLoss(num_classes) if fcn_loss == "center" else None
        self.partition = PartitionLoss(partition) if partition != "none" else None
        self.weights = {"affinity": lambda1, "center": center_weight, "partition": lambda2}

    def forward(self, output: DANOutput, batch: Batch) -> LossTerms:
        """The loss of a network's output for a batch with labels (B,) in 0..classes-1."""
        labels = batch.labels
        terms = {"cls": cross_entropy(output.logits, batch)}
        if self.affinity is not None:
            terms["affinity"] = self.affinity(output.features, labels)
        if self.center is not None:
            terms["center"] = self.center(output.features, labels)
        if self.partition is not None:
            terms["partition"] = self.partition(output.heads)
        total = terms["cls"]
        for name, term in terms.items():
            if name != "cls":
                total = total + self.weights[name] * term
        return LossTerms(total, terms)
