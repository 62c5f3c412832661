"""PhaNet-style: pose-adaptive hierarchical attention (Liu et al., ACM MM 2019).

Only the abstract of PhaNet is public, so this is an interpretation of it: expression and pose are
learned together; attention works at several scales, of which the informative ones are chosen; the
weights of hierarchical, expression and pose loss are learned.

For the maps F_s of the backbone's layer2, layer3 and layer4:

    m_s = sigmoid(1x1(F_s))                                the attention map of scale s
    v_s = ReLU(BN(Linear(mean over positions m_s F_s)))    (B, 256)
    g   = softmax over s of Linear([v_1, v_2, v_3])        the gate, for each image
    u   = sum_s g_s v_s                                    -> expression logits, pose logits

    L = sum_t exp(-s_t) L_t + s_t        t: hierarchical, expression, pose; s_t learned

The hierarchical loss is the mean over the scales of the cross-entropy of Linear(v_s). The pose is
the yaw in bins; where the data have no yaw its term is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.batch import Batch
from common.errors import InputError
from common.flags import flag

from ..backbone import resnet18_backbone
from ..losses import LossTerms, cross_entropy
from ..precision import full_precision, no_autocast
from .base import Rival

SCALES = {5: 128, 6: 256, 7: 512}  # child of the backbone (layer2, layer3, layer4) -> channels
SCALE_DIM = 256
#: Degrees between the bins of the yaw, which go from -90 to 90.
POSE_EDGES = (-45.0, -15.0, 15.0, 45.0)
TERMS = ("hierarchical", "cls", "pose")


class PhaNetOutput(NamedTuple):
    """What `PhaNet` returns."""

    logits: Tensor  # (B, C)
    features: Tensor  # (B, 512, h, w), of layer4
    pose_logits: Tensor  # (B, bins)
    scale_logits: Tensor  # (B, 3, C), of each scale alone
    gate: Tensor  # (B, 3), sums to 1
    maps: tuple[Tensor, ...]  # (B, 1, h_s, w_s) of layer2, layer3, layer4, 0 to 1


class ScaleAttention(nn.Module):
    """Attention at one scale: F -> m, v of the module's docstring."""

    def __init__(self, channels: int):
        super().__init__()
        self.map = nn.Conv2d(channels, 1, 1)
        self.embed = nn.Sequential(
            nn.Linear(channels, SCALE_DIM), nn.BatchNorm1d(SCALE_DIM), nn.ReLU()
        )

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, C, h, w) -> map (B, 1, h, w) and vector (B, 256)."""
        weights = self.map(features).sigmoid()
        return weights, self.embed((weights * features).mean(dim=(2, 3)))


class PhaNet(nn.Module):
    """The network of the module's docstring, an interpretation of PhaNet's abstract.

    pose_edges: degrees, rising, between -90 and 90; n edges make n + 1 bins, an edge belonging to
    the bin above it. They are kept in the state dict.

    Raises ValueError for fewer than 2 classes or other edges.
    """

    map_names = ("layer2", "layer3", "layer4")
    remark = "an interpretation: only the abstract of PhaNet is public"

    def __init__(self, num_classes: int = 7, pose_edges: Sequence[float] = POSE_EDGES):
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes is {num_classes}; a classifier needs at least 2")
        whole = [-90.0, *pose_edges, 90.0]
        if len(whole) < 3 or not all(low < high for low, high in pairwise(whole)):
            raise ValueError(f"pose_edges are {tuple(pose_edges)}; expected rising, -90 to 90")
        self.num_classes = num_classes
        self.features = resnet18_backbone()
        self.scales = nn.ModuleList(ScaleAttention(channels) for channels in SCALES.values())
        self.scale_heads = nn.ModuleList(nn.Linear(SCALE_DIM, num_classes) for _ in SCALES)
        self.gate = nn.Linear(len(SCALES) * SCALE_DIM, len(SCALES))
        self.fc = nn.Linear(SCALE_DIM, num_classes)
        self.pose = nn.Linear(SCALE_DIM, len(pose_edges) + 1)
        self.register_buffer("pose_edges", torch.tensor(pose_edges, dtype=torch.float32))

    def forward(self, images: Tensor) -> PhaNetOutput:
        """Classify normalised RGB images (B, 3, H, W) with H, W >= 32."""
        x, maps, vectors = images, [], []
        scales = dict(zip(SCALES, self.scales, strict=True))
        for number, layer in enumerate(self.features):
            x = layer(x)
            if number in scales:
                weights, vector = scales[number](x)
                maps.append(weights)
                vectors.append(vector)
        with no_autocast(images):
            scaled = full_precision(torch.stack(vectors, dim=1))  # (B, 3, 256)
            gate = self.gate(scaled.flatten(1)).softmax(dim=1)
            chosen = (gate.unsqueeze(2) * scaled).sum(dim=1)
            alone = [head(v) for head, v in zip(self.scale_heads, scaled.unbind(1), strict=True)]
            return PhaNetOutput(
                self.fc(chosen), x, self.pose(chosen), torch.stack(alone, dim=1), gate, tuple(maps)
            )

    def attention_maps(self, images: Tensor) -> Tensor:
        """The maps of the three scales, enlarged to that of layer2: (B, 3, h, w), 0 to 1."""
        maps = self(images).maps
        size = maps[0].shape[2:]
        return torch.cat([F.interpolate(m, size, mode="bilinear") for m in maps], dim=1)


class PhaNetLoss(nn.Module):
    """sum_t exp(-s_t) L_t + s_t with learned s, `log_weights`, in the order of `TERMS`.

    pose_edges: as those of the network.
    """

    def __init__(self, pose_edges: Sequence[float] = POSE_EDGES):
        super().__init__()
        self.log_weights = nn.Parameter(torch.zeros(len(TERMS)))
        self.register_buffer("pose_edges", torch.tensor(pose_edges, dtype=torch.float32))

    def forward(self, output: PhaNetOutput, batch: Batch) -> LossTerms:
        """The loss; the pose term needs the target "yaw" (B,), degrees, and is left out without."""
        labels = batch.targets.get("soft_labels", batch.labels)
        yaw = batch.targets.get("yaw")
        with no_autocast(output.logits):
            terms = {
                "hierarchical": hierarchical_loss(output.scale_logits, labels),
                "cls": cross_entropy(output.logits, batch),
            }
            if yaw is not None:
                bins = pose_bins(yaw, self.pose_edges)
                terms["pose"] = F.cross_entropy(output.pose_logits, bins)
            total = weighted(list(terms.values()), self.log_weights)
            # In several processes every parameter needs a gradient, also of a head that is off.
            return LossTerms(
                total if yaw is not None else total + 0 * output.pose_logits.sum(), terms
            )


def hierarchical_loss(scale_logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over the scales of the cross-entropy: logits (B, scales, C), labels (B,) or (B, C)."""
    count = scale_logits.shape[1]
    return F.cross_entropy(scale_logits.flatten(0, 1), labels.repeat_interleave(count, dim=0))


def weighted(losses: Sequence[Tensor], log_weights: Tensor) -> Tensor:
    """sum_t exp(-s_t) L_t + s_t over the losses given (Kendall et al., 2018, up to a factor)."""
    s = log_weights[: len(losses)]
    return (torch.exp(-s) * torch.stack(list(losses)) + s).sum()


def pose_bins(yaw: Tensor, edges: Tensor) -> Tensor:
    """The bin (B,), from 0, of each yaw (B,) in degrees; an edge belongs to the bin above it."""
    return torch.bucketize(yaw.to(edges.dtype), edges, right=True)


def edges_of(text: str) -> tuple[float, ...]:
    """Edges of "15,45", degrees to either side: (-45, -15, 15, 45).

    Raises InputError for what are not rising numbers between 0 and 90.
    """
    try:
        sides = [float(part) for part in text.split(",")]
    except ValueError:
        sides = []
    if not sides or not all(low < high for low, high in pairwise([0.0, *sides, 90.0])):
        raise InputError(
            f"--phanet-pose-edges is {text}; expected rising degrees between 0 and 90, as in 15,45"
        )
    return (*(-side for side in reversed(sides)), *sides)


@dataclass(frozen=True, kw_only=True)
class PhaNetFlags(Rival):
    """The flags of the interpretation of PhaNet."""

    mark: ClassVar[str] = "pose_edges"

    phanet_pose: str = flag(
        "on",
        choices=("on", "off"),
        help="phanet, our reading of an abstract: the loss on the pose",
    )
    phanet_pose_edges: str = flag(
        "15,45", help="phanet: edges of the yaw's bins to either side, degrees, as in 15,45"
    )

    @property
    def targets(self) -> tuple[str, ...]:
        """The yaw."""
        return ("yaw",) if self.phanet_pose == "on" else ()

    def network(self, num_classes: int, image_size: int) -> PhaNet:
        """See `PhaNet`; any image size from 32 up; raises InputError for other edges."""
        return PhaNet(num_classes, edges_of(self.phanet_pose_edges))

    def network_like(self, weights: Mapping[str, Tensor], num_classes: int) -> PhaNet:
        """With as many bins as the weights have; their edges are among the weights."""
        count = weights["pose_edges"].numel() if "pose_edges" in weights else len(POSE_EDGES)
        return PhaNet(num_classes, [180 * (i + 1) / (count + 1) - 90 for i in range(count)])

    def criterion(self, num_classes: int) -> PhaNetLoss:
        """See `PhaNetLoss`."""
        return PhaNetLoss(edges_of(self.phanet_pose_edges))
