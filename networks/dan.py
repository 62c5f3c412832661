"""DAN: feature clustering backbone, multi-head cross attention, attention fusion (paper section 3).

Module names are those of the released checkpoints, so that `state_dict` is exchangeable.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn import init

from .backbone import FEATURE_DIM, resnet18_backbone
from .precision import full_precision, no_autocast


class DANOutput(NamedTuple):
    """What every network of this project returns."""

    logits: Tensor  # (B, C)
    features: Tensor  # (B, 512, h, w), the FCN's feature map x'
    heads: Tensor  # (B, k, 512), attention vectors as the fusion uses them


def _conv_bn(in_channels: int, out_channels: int, kernel: tuple[int, int]) -> nn.Sequential:
    padding = (kernel[0] // 2, kernel[1] // 2)
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, padding=padding),
        nn.BatchNorm2d(out_channels),
    )


class SpatialAttention(nn.Module):
    """Spatial unit of a head: s = x' * map (section 3.2, Eq. 3).

    mean_map: divide each map by its mean, so that pooling s gives a weighted mean of x'.
    """

    def __init__(self, *, mean_map: bool = False):
        super().__init__()
        self.mean_map = mean_map
        reduced = FEATURE_DIM // 2
        self.conv1x1 = _conv_bn(FEATURE_DIM, reduced, (1, 1))
        self.conv_3x3 = _conv_bn(reduced, FEATURE_DIM, (3, 3))
        self.conv_1x3 = _conv_bn(reduced, FEATURE_DIM, (1, 3))
        self.conv_3x1 = _conv_bn(reduced, FEATURE_DIM, (3, 1))

    def attention_map(self, features: Tensor) -> Tensor:
        """The spatial map (B, 1, h, w) of a feature map (B, 512, h, w); not negative."""
        y = self.conv1x1(features)
        y = self.conv_3x3(y) + self.conv_1x3(y) + self.conv_3x1(y)
        # A sum of 512 channels is in the hundreds, where half precision has steps of one or more.
        # The cast to float32 comes before the ReLU, which changes no value: the ReLU's gradient
        # then stays in float32 with the layout of the maps, which is far faster.
        found = torch.relu(full_precision(y)).sum(dim=1, keepdim=True)
        return over_mean(found) if self.mean_map else found

    def forward(self, features: Tensor) -> Tensor:
        """Scale a feature map (B, 512, h, w) by its spatial map; same shape."""
        return features * self.attention_map(features)


def over_mean(maps: Tensor) -> Tensor:
    """Maps (B, k, h, w), not negative, each divided by its mean; one of zeros stays zero."""
    mean = maps.mean(dim=(2, 3), keepdim=True)
    return maps / mean.clamp_min(torch.finfo(mean.dtype).tiny)


class ChannelAttention(nn.Module):
    """Channel unit of a head: a = v * gate(v), v the pooled spatial output (section 3.2, Eq. 4)."""

    def __init__(self):
        super().__init__()
        self.attention = nn.Sequential(
            nn.Linear(FEATURE_DIM, 32),
            nn.BatchNorm1d(32),
            nn.ReLU(),
            nn.Linear(32, FEATURE_DIM),
            nn.Sigmoid(),
        )

    def forward(self, spatial: Tensor) -> Tensor:
        """Pool (B, 512, h, w) over its positions and gate the channels: (B, 512)."""
        pooled = spatial.mean(dim=(2, 3))
        return pooled * self.attention(pooled)


class CrossAttentionHead(nn.Module):
    """One head of MAN: the spatial unit, then the channel unit (Figure 2)."""

    def __init__(self, *, mean_map: bool = False):
        super().__init__()
        self.sa = SpatialAttention(mean_map=mean_map)
        self.ca = ChannelAttention()
        self.apply(_init_head)

    def forward(self, features: Tensor) -> Tensor:
        """Attend to a feature map (B, 512, h, w); returns the attention vector (B, 512)."""
        return self.ca(self.sa(features))


def _init_head(module: nn.Module) -> None:
    """The release's initialisation of the heads; the fused classifier keeps torch's defaults."""
    if isinstance(module, nn.Conv2d):
        init.kaiming_normal_(module.weight, mode="fan_out")
        init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        init.ones_(module.weight)
        init.zeros_(module.bias)
    elif isinstance(module, nn.Linear):
        init.normal_(module.weight, std=0.001)
        init.zeros_(module.bias)


#: What the heads become before AFN adds them up, the paper's (Eq. 5) first.
FUSIONS = ("log-softmax", "sum", "softmax")


#: What keeps the heads, and so the log-softmax over them, in range; the paper's, none, first.
HEAD_SCALES = ("none", "map", "norm")


def weigh_heads(heads: Tensor, fusion: str, scale: str = HEAD_SCALES[0]) -> Tensor:
    """Attention vectors (B, k, 512) as the fusion adds them up; same shape.

    With p = softmax(a) over the k heads of each channel: "log-softmax" gives log p, Eq. 5; "sum"
    gives a; "softmax" gives p a, whose sum is a soft maximum. A single head stays as it is, since
    its softmax is constant. With the scale "norm" each vector is first divided by its root mean
    square over the channels; the other scales change nothing here.
    """
    if scale == "norm":
        heads = F.rms_norm(heads, heads.shape[-1:])
    if fusion == "sum" or heads.shape[1] == 1:
        return heads
    return heads.log_softmax(dim=1) if fusion == "log-softmax" else heads.softmax(dim=1) * heads


class DAN(nn.Module):
    """Distract your Attention Network: FCN backbone, `num_heads` cross attention heads, AFN.

    `num_classes` >= 2 expressions, `num_heads` >= 1, `fusion` one of `FUSIONS`, `head_scale` one of
    `HEAD_SCALES`. The backbone starts from random weights; `networks.load_backbone(model.features,
    ...)` fills it.

    Raises ValueError for other values.
    """

    def __init__(
        self,
        num_classes: int = 7,
        num_heads: int = 4,
        *,
        fusion: str = FUSIONS[0],
        head_scale: str = HEAD_SCALES[0],
    ):
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes is {num_classes}; DAN needs at least 2")
        if num_heads < 1:
            raise ValueError(f"num_heads is {num_heads}; DAN needs at least 1")
        if fusion not in FUSIONS:
            raise ValueError(f"fusion is {fusion!r}; expected one of {', '.join(FUSIONS)}")
        if head_scale not in HEAD_SCALES:
            known = ", ".join(HEAD_SCALES)
            raise ValueError(f"head_scale is {head_scale!r}; expected one of {known}")
        self.num_classes = num_classes
        self.num_heads = num_heads
        self.fusion = fusion
        self.head_scale = head_scale
        self.features = resnet18_backbone()
        for i in range(num_heads):
            # Released checkpoints name the heads cat_head0 ... cat_head{k-1}.
            head = CrossAttentionHead(mean_map=head_scale == "map")
            setattr(self, f"cat_head{i}", head)
        self.fc = nn.Linear(FEATURE_DIM, num_classes)
        self.bn = nn.BatchNorm1d(num_classes)

    def attention_heads(self) -> list[CrossAttentionHead]:
        """The k heads in order."""
        return [getattr(self, f"cat_head{i}") for i in range(self.num_heads)]

    def forward(self, images: Tensor) -> DANOutput:
        """Classify normalised RGB images (B, 3, H, W) with H, W >= 32.

        Returns logits (B, C), features (B, 512, h, w) and heads (B, k, 512), these as `weigh_heads`
        leaves them.
        """
        features = self.features(images)
        heads = torch.stack([head(features) for head in self.attention_heads()], dim=1)
        with no_autocast(images):
            heads = weigh_heads(full_precision(heads), self.fusion, self.head_scale)
            logits = self.bn(self.fc(heads.sum(dim=1)))
        return DANOutput(logits, features, heads)


class ResNet18(nn.Module):
    """The paper's baseline: the same backbone, average pooling, one linear layer."""

    def __init__(self, num_classes: int = 7):
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes is {num_classes}; a classifier needs at least 2")
        self.num_classes = num_classes
        self.features = resnet18_backbone()
        self.fc = nn.Linear(FEATURE_DIM, num_classes)

    def forward(self, images: Tensor) -> DANOutput:
        """Classify (B, 3, H, W); the pooled features are returned as a single head (B, 1, 512)."""
        features = self.features(images)
        with no_autocast(images):
            pooled = full_precision(features).mean(dim=(2, 3))
            return DANOutput(self.fc(pooled), features, pooled.unsqueeze(1))
