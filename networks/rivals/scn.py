"""SCN, the self-cure network (Wang et al., CVPR 2020).

A weight for each image, alpha = sigmoid(w f + b) of the pooled features f, scales its logits:

    L_wce = -mean_i log softmax(alpha_i (W f_i + c))[y_i]

A batch's int(beta B) images of largest alpha are the high group, the rest the low group, whose
means are kept apart (rank regularization):

    L_rr = max(0, margin1 - (mean alpha of high - mean alpha of low))

From an epoch on, an image whose p_max - p_given > margin2 is relabelled to its most probable class.

--scn-form paper:    L = 0.5 L_rr + 0.5 L_wce, only images of the low group are relabelled
--scn-form released: L = L_rr + L_wce, all images may be relabelled, as in the authors' code

The code overwrites the data set's labels. Here the criterion keeps the new labels, so the data set
and the evaluation are untouched and a resumed run goes on with them. The logged term `relabelled`
is the fraction of the epoch's images whose label changed in that epoch.

Logits are scaled at test too: the class is the same, its probability is lower. In several processes
each one ranks its share of the batch; new labels are sent to all.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.batch import Batch
from common.flags import flag, not_negative, positive

from ..backbone import FEATURE_DIM, resnet18_backbone
from ..losses import LossTerms
from ..precision import full_precision, no_autocast
from .base import Rival
from .processes import gather_objects


class SCNOutput(NamedTuple):
    """What the network returns."""

    logits: Tensor  # (B, C), scaled by alpha
    features: Tensor  # (B, 512, h, w)
    alpha: Tensor  # (B,), from 0 to 1


class SCN(nn.Module):
    """ResNet-18 with an importance weight that scales the logits."""

    def __init__(self, num_classes: int = 7):
        super().__init__()
        self.num_classes = num_classes
        self.features = resnet18_backbone()
        self.alpha = nn.Sequential(nn.Linear(FEATURE_DIM, 1), nn.Sigmoid())
        self.fc = nn.Linear(FEATURE_DIM, num_classes)

    def forward(self, images: Tensor) -> SCNOutput:
        """Classify normalised images (B, 3, H, W), H and W from 32 up."""
        features = self.features(images)
        with no_autocast(images):
            pooled = full_precision(features).mean(dim=(2, 3))
            alpha = self.alpha(pooled)
            return SCNOutput(alpha * self.fc(pooled), features, alpha.squeeze(1))


def rank_regularization(alpha: Tensor, beta: float, margin: float) -> Tensor:
    """L_rr of the weights (B,) of a batch; 0 where a group is empty, as in tiny batches."""
    high = int(beta * len(alpha))
    if high in (0, len(alpha)):
        return alpha.new_zeros(())
    ordered = alpha.sort(descending=True).values
    return torch.relu(margin - (ordered[:high].mean() - ordered[high:].mean()))


def relabel(probabilities: Tensor, labels: Tensor, margin: float) -> Tensor:
    """The labels (B,) with those replaced whose p_max - p_given > margin; probabilities (B, C)."""
    largest, predicted = probabilities.max(dim=1)
    given = probabilities.gather(1, labels[:, None]).squeeze(1)
    return torch.where(largest - given > margin, predicted, labels)


class SCNLoss(nn.Module):
    """The loss of `SCN`, and the labels that it has changed."""

    epoch: int = 0  # set by the training loop, from 1

    def __init__(self, flags: SCNFlags):
        super().__init__()
        self.flags = flags
        self.changed: dict[int, int] = {}  # index of an image in the data set -> its new label

    def get_extra_state(self) -> str:
        """The changed labels as JSON: their number grows, and a checkpoint's shapes are fixed."""
        return json.dumps(self.changed)

    def set_extra_state(self, state: str) -> None:
        """Restore the changed labels; raises ValueError for anything else."""
        self.changed = {int(index): int(label) for index, label in json.loads(state).items()}

    def forward(self, output: SCNOutput, batch: Batch) -> LossTerms:
        """The loss of a batch; in training mode, relabels afterwards."""
        flags, logits = self.flags, full_precision(output.logits)
        labels = self.labels(batch)
        weighted = F.cross_entropy(logits, self._target(batch, labels))
        rank = rank_regularization(output.alpha, flags.scn_beta, flags.scn_margin1)
        share = 0.5 if flags.scn_form == "paper" else 1.0
        new = labels
        if self.training and self.epoch >= flags.scn_relabel_epoch:
            new = self._relabel(output.alpha.detach(), logits.detach(), labels)
            self._remember(batch.indices, labels, new)
        relabelled = (new != labels).to(weighted.dtype).mean()
        terms = {"cls": weighted, "rank": rank, "relabelled": relabelled}
        return LossTerms(share * (weighted + rank), terms)

    def labels(self, batch: Batch) -> Tensor:
        """The batch's labels (B,) with the changed ones in their places."""
        if not self.changed:
            return batch.labels
        pairs = zip(batch.indices.tolist(), batch.labels.tolist(), strict=True)
        return batch.labels.new_tensor([self.changed.get(index, label) for index, label in pairs])

    def _target(self, batch: Batch, labels: Tensor) -> Tensor:
        """What the cross-entropy is with: labels, or soft labels where these are not changed."""
        soft = batch.targets.get("soft_labels")
        if soft is None:
            return labels
        hard = F.one_hot(labels, soft.shape[1]).to(soft.dtype)
        return torch.where((labels != batch.labels)[:, None], hard, soft)

    def _relabel(self, alpha: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        new = relabel(logits.softmax(dim=1), labels, self.flags.scn_margin2)
        if self.flags.scn_form == "paper":
            high = alpha.argsort(descending=True)[: int(self.flags.scn_beta * len(alpha))]
            new[high] = labels[high]
        return new

    def _remember(self, indices: Tensor, labels: Tensor, new: Tensor) -> None:
        places = (new != labels).nonzero().flatten().cpu()
        changes = dict(zip(indices[places].tolist(), new.cpu()[places].tolist(), strict=True))
        for part in gather_objects(changes):
            self.changed.update(part)


@dataclass(frozen=True, kw_only=True)
class SCNFlags(Rival):
    """SCN's flags; the defaults are the paper's."""

    mark: ClassVar[str] = "alpha.0.weight"

    scn_form: str = flag(
        "paper",
        choices=("paper", "released"),
        help="scn: weights of the two losses and which images are relabelled",
    )
    scn_beta: float = flag(
        0.7,
        check=lambda beta: 0 < beta < 1,
        expected="between 0 and 1",
        help="scn: fraction of a batch in the group of high weights",
    )
    scn_margin1: float = flag(
        0.15,
        check=not_negative,
        help="scn: distance of the groups' mean weights; the authors advise 0.07 at batch 64",
    )
    scn_margin2: float = flag(
        0.2,
        check=not_negative,
        help="scn: relabel where the largest probability is above the label's by more than this",
    )
    scn_relabel_epoch: int = flag(
        10, check=positive, expected="at least 1", help="scn: first epoch in which to relabel"
    )

    def network(self, num_classes: int, image_size: int) -> SCN:
        """See `SCN`; any image size."""
        return SCN(num_classes)

    def criterion(self, num_classes: int) -> SCNLoss:
        """See `SCNLoss`."""
        return SCNLoss(self)
