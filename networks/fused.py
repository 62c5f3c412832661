"""An equivalent network for inference: fewer, larger operations, the same numbers."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval
from torchvision.models.resnet import BasicBlock

from .backbone import FEATURE_DIM
from .dan import DAN, CrossAttentionHead, DANOutput, ResNet18, over_mean, weigh_heads
from .precision import full_precision, no_autocast
from .rivals.dacl import DACL
from .rivals.eac import EAC
from .rivals.ran import RAN
from .rivals.scn import SCN

#: The networks that `fuse` takes; all but DAN have their backbone fused and nothing else.
FUSABLE = (DAN, ResNet18, DACL, EAC, RAN, SCN)


def fuse(model: nn.Module) -> nn.Module:
    """A network that computes what `model.eval()` computes; the model itself is not changed.

    Same call, same output. Batch norms are folded into the layers before them; the 3x3, 1x3
    and 3x1 branches of a head are one 3x3 convolution; the heads run as one grouped
    convolution; and pooling comes before scaling, so that no scaled feature map is made.
    The result cannot be trained.

    Raises TypeError for a network that is none of `FUSABLE`, including subclasses of these.
    """
    if type(model) not in FUSABLE:
        known = ", ".join(kind.__name__ for kind in FUSABLE)
        raise TypeError(f"fuse takes one of {known}, got {type(model).__name__}")
    like = model.fc.weight
    # Fused in float64 and rounded once; on the CPU, since not every device has float64.
    model = copy.deepcopy(model).eval().cpu().double()
    fused = FusedDAN(model) if isinstance(model, DAN) else model
    _fold_backbone(model.features)
    return fused.requires_grad_(False).eval().to(like.device, like.dtype)


class FusedDAN(nn.Module):
    """DAN in eval mode with all heads side by side; made by `fuse`."""

    def __init__(self, model: DAN):
        """Take over the layers of a DAN that is in eval mode; its backbone is shared."""
        super().__init__()
        heads = model.attention_heads()
        self.num_classes = model.num_classes
        self.num_heads = len(heads)
        self.fusion, self.head_scale = model.fusion, model.head_scale
        self.features = model.features
        self.reduce = _side_by_side([fuse_conv_bn_eval(*head.sa.conv1x1) for head in heads])
        self.attend = _side_by_side([_one_kernel(head) for head in heads], groups=len(heads))
        self.squeeze = _Linears([fuse_linear_bn_eval(*head.ca.attention[:2]) for head in heads])
        self.excite = _Linears([head.ca.attention[3] for head in heads])
        self.fc = fuse_linear_bn_eval(model.fc, model.bn)

    def forward(self, images: Tensor) -> DANOutput:
        """As DAN's: images (B, 3, H, W) to logits, features and heads."""
        features = self.features(images)
        pooled = self._pooled(features)
        gate = self.excite(torch.relu(self.squeeze(pooled))).sigmoid()
        with no_autocast(images):
            heads = weigh_heads(full_precision(pooled * gate), self.fusion, self.head_scale)
            logits = self.fc(heads.sum(dim=1))
        return DANOutput(logits, features, heads)

    def _pooled(self, features: Tensor) -> Tensor:
        """Every head's spatial output, averaged over the positions: (B, k, 512).

        mean_p(x_p * m_p) is a product of the maps (k, hw) with the features (hw, 512).
        """
        maps = torch.relu(self.attend(self.reduce(features)))
        maps = full_precision(maps.unflatten(1, (self.num_heads, FEATURE_DIM))).sum(dim=2)
        if self.head_scale == "map":
            maps = over_mean(maps)
        with no_autocast(features):
            flat = full_precision(features).flatten(2)
            return maps.flatten(2) @ flat.transpose(1, 2) / flat.shape[2]


class _Linears(nn.Module):
    """k linear layers of equal size, each applied to its own vector: (B, k, in) to (B, k, out)."""

    def __init__(self, layers: list[nn.Linear]):
        super().__init__()
        self.weight = nn.Parameter(torch.stack([layer.weight for layer in layers]))  # (k, out, in)
        self.bias = nn.Parameter(torch.stack([layer.bias for layer in layers]))  # (k, out)

    def forward(self, vectors: Tensor) -> Tensor:
        return torch.einsum("bki,koi->bko", vectors, self.weight) + self.bias


def _one_kernel(head: CrossAttentionHead) -> nn.Conv2d:
    """The sum of a head's three branches as one 3x3 convolution."""
    whole = fuse_conv_bn_eval(*head.sa.conv_3x3)
    for branch, padding in ((head.sa.conv_1x3, (0, 0, 1, 1)), (head.sa.conv_3x1, (1, 1, 0, 0))):
        part = fuse_conv_bn_eval(*branch)
        whole.weight.data += F.pad(part.weight.data, padding)
        whole.bias.data += part.bias.data
    return whole


def _side_by_side(convolutions: list[nn.Conv2d], groups: int = 1) -> nn.Conv2d:
    """Convolutions of equal size as a single one over the concatenated output channels.

    groups=1: all read the same input; groups=k: each reads its own part of the input.
    """
    first = convolutions[0]
    joined = nn.Conv2d(
        first.in_channels * groups,
        first.out_channels * len(convolutions),
        first.kernel_size,
        padding=first.padding,
        groups=groups,
        device=first.weight.device,
        dtype=first.weight.dtype,
    )
    joined.weight.data = torch.cat([each.weight.data for each in convolutions])
    joined.bias.data = torch.cat([each.bias.data for each in convolutions])
    return joined


def _fold_backbone(backbone: nn.Sequential) -> None:
    """Fold the batch norms of a ResNet-18 backbone in place."""
    backbone[0], backbone[1] = fuse_conv_bn_eval(backbone[0], backbone[1]), nn.Identity()
    for block in backbone.modules():
        if not isinstance(block, BasicBlock):
            continue
        block.conv1, block.bn1 = fuse_conv_bn_eval(block.conv1, block.bn1), nn.Identity()
        block.conv2, block.bn2 = fuse_conv_bn_eval(block.conv2, block.bn2), nn.Identity()
        if block.downsample is not None:
            block.downsample = fuse_conv_bn_eval(*block.downsample)
