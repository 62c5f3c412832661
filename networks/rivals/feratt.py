"""FERAtt: attention, reconstruction and a Gaussian representation (Marrero Fernandez et al., 2019).

An encoder-decoder finds the face and a feature branch at full size reconstructs it (section 3):

    map       = decoder(ResNet-34(x))                         (B, 1, H, W)
    attention = 1x1(3x3(sigmoid(map) * features(x)))          (B, 3, H, W), the attention image
    z         = Linear(PreActResNet-18(average of 4x4(attention)))         (B, 64)
    logits    = Linear(z)

    L = cross-entropy + L_rep(z) + min(mean (clean * mask - attention)^2, 10)

clean is the picture without relighting, in 0..1; mask is 1 on the face, so that the attention
image should be the face on black. The authors' code changed with time:

--feratt-attention masked:       the above, as in November 2018
--feratt-attention masked-twice: 2 min(mean (clean * mask - attention)^2, 30), December 2018
--feratt-attention whole:        5 mean tanh(3 |clean - attention|), the code's end: no mask

What differs from paper and code: the code's embedding has 1,000 numbers, since its argument is lost
on the way; here it has the paper's 64. The code ends in a 4x4 pool for 128 px; here the average
goes over all positions, and skips are cropped, so that any size from 32 px up works. The four
dilated convolutions of the centre run side by side and are summed. The running statistics of batch
norm start as the mean of the first batches (`BatchNorm`), which changes the evaluation of short
runs, not the training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import ResNet34_Weights, resnet34

from common.batch import Batch
from common.errors import InputError
from common.flags import flag

from ..backbone import imagenet_weights
from ..losses import LossTerms, cross_entropy
from ..precision import full_precision, no_autocast
from .base import Rival

EMBEDDING_DIM = 64
#: The classifier sees the attention image at a quarter of the size: 32 px of the paper's 128.
SHRINK = 4
#: The rows of the paper's table.
VARIANTS = ("representation", "classify", "preactresnet18")
CLAMP = 10.0
#: Weight and clamp of the attention loss, by `--feratt-attention`.
FORMS = {"masked": (1.0, CLAMP), "masked-twice": (2.0, 30.0), "whole": (5.0, None)}


class FERAttOutput(NamedTuple):
    """What `FERAtt` returns; without attention, the last two are the image and an empty map."""

    logits: Tensor  # (B, C)
    features: Tensor  # (B, 512, h, w), the classifier's
    embedding: Tensor  # (B, 64), z
    attention: Tensor  # (B, 3, H, W), the attention image
    map: Tensor  # (B, 1, H, W), 0 to 1


class BatchNorm(nn.BatchNorm2d):
    """Batch norm whose running statistics are the mean of the first ten batches', then move on.

    Those of torch move from variance 1 at once. The inputs of these layers have a variance far
    below 1, at first of some 0.01 to 0.1: for a hundred steps the statistics are too large, over
    25 layers in a row the signal fades in evaluation, and the network predicts one class, however
    well it has learned. The encoder has torch's.
    """

    settled = False  # whether ten batches have been seen

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> the same shape."""
        if not self.training or self.settled:
            return super().forward(x)
        usual, batches = self.momentum, 1 + int(self.num_batches_tracked)
        self.momentum, self.settled = max(usual, 1 / batches), batches >= 1 / usual
        y = super().forward(x)
        self.momentum = usual
        return y


class PreActBlock(nn.Module):
    """Batch norm, ReLU and 3x3 convolution, twice, beside a shortcut (He et al., 2016)."""

    def __init__(self, channels: int, out: int, stride: int):
        super().__init__()
        self.bn1 = BatchNorm(channels)
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn2 = BatchNorm(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        changes = stride > 1 or channels != out
        self.shortcut = nn.Conv2d(channels, out, 1, stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, h, w) -> (B, out, h / stride, w / stride)."""
        y = self.bn1(x).relu()
        shortcut = x if self.shortcut is None else self.shortcut(y)
        return shortcut + self.conv2(self.bn2(self.conv1(y)).relu())


class PreActResNet18(nn.Sequential):
    """Images (B, 3, h, w), 32 px in the paper -> feature map (B, 512, h / 8, w / 8)."""

    def __init__(self):
        blocks, channels = [], 64
        for out, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
            blocks += [PreActBlock(channels, out, stride), PreActBlock(out, out, 1)]
            channels = out
        stem = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        super().__init__(stem, *blocks)


class Decoder(nn.Module):
    """3x3 convolution and a transposed 4x4 one that doubles the size, each with a ReLU."""

    def __init__(self, channels: int, middle: int, out: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, middle, 3, padding=1)
        self.up = nn.ConvTranspose2d(middle, out, 4, stride=2, padding=1)

    def forward(self, x: Tensor, size: torch.Size) -> Tensor:
        """(B, channels, h, w) -> (B, out, *size); size is 2h x 2w, or a row or column less."""
        height, width = size
        return self.up(self.conv(x).relu())[..., :height, :width].relu()


class DilatedCenter(nn.Module):
    """The sum of four 3x3 convolutions that are dilated by 1, 2, 3 and 4."""

    def __init__(self, channels: int):
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=rate, dilation=rate) for rate in (1, 2, 3, 4)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, h, w) -> the same shape."""
        return sum(branch(x).relu() for branch in self.branches)


class AttentionMap(nn.Module):
    """The U-Net: ResNet-34, dilated centre, five decoders with skips, one channel at full size."""

    def __init__(self):
        super().__init__()
        self.encoder = resnet34(weights=None)
        self.encoder.fc = nn.Identity()
        self.center = DilatedCenter(512)
        # From the centre to full size; each but the first also gets the encoder's map of its size.
        shapes = ((512, 256, 256), (512, 128, 128), (256, 64, 64), (128, 64, 64), (128, 32, 32))
        self.decoders = nn.ModuleList(Decoder(*shape) for shape in shapes)
        self.last = nn.Conv2d(32, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> the map's logits (B, 1, H, W)."""
        net = self.encoder
        skips = [net.bn1(net.conv1(images)).relu()]
        skips.append(net.layer1(net.maxpool(skips[0])))
        skips.append(net.layer2(skips[1]))
        skips.append(net.layer3(skips[2]))
        x = self.center(net.layer4(skips[3]))
        for decoder, skip in zip(self.decoders[:-1], reversed(skips), strict=True):
            x = torch.cat([decoder(x, skip.shape[2:]), skip], dim=1)
        return self.last(self.decoders[-1](x, images.shape[2:]))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm and LeakyReLU(.2), beside the identity."""

    def __init__(self, channels: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            BatchNorm(channels),
            nn.LeakyReLU(0.2),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            BatchNorm(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, h, w) -> the same shape."""
        return x + self.layers(x)


class Reconstruction(nn.Module):
    """Features at full size: 9x9 convolution, four residual blocks, 3x3 convolution, long skip."""

    def __init__(self, channels: int = 32):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, channels, 9, padding=4), nn.LeakyReLU(0.2))
        self.blocks = nn.Sequential(
            *(ResidualBlock(channels) for _ in range(4)),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            BatchNorm(channels),
        )

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 32, H, W)."""
        first = self.first(images)
        return first + self.blocks(first)


class FERAtt(nn.Module):
    """The network of the module's docstring; attention=False is its classifier alone.

    Raises ValueError for fewer than 2 classes.
    """

    map_names = ("attention map", "attention image")

    def __init__(self, num_classes: int = 7, *, attention: bool = True):
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes is {num_classes}; a classifier needs at least 2")
        self.num_classes = num_classes
        self.attention_map = AttentionMap() if attention else None
        self.reconstruction = Reconstruction() if attention else None
        self.attention_image = (
            nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.Conv2d(32, 3, 1))
            if attention
            else None
        )
        self.features = PreActResNet18()
        self.embedding = nn.Linear(512, EMBEDDING_DIM)
        self.fc = nn.Linear(EMBEDDING_DIM, num_classes)

    def forward(self, images: Tensor) -> FERAttOutput:
        """Classify normalised RGB images (B, 3, H, W) with H, W >= 32."""
        if self.attention_map is None:
            attention, weights = images, images.new_zeros(len(images), 1, *images.shape[2:])
        else:
            weights = self.attention_map(images).sigmoid()
            attention = self.attention_image(weights * self.reconstruction(images))
        features = self.features(F.avg_pool2d(attention, SHRINK))
        with no_autocast(images):
            z = self.embedding(full_precision(features).mean(dim=(2, 3)))
            return FERAttOutput(self.fc(z), features, z, attention, weights)

    def attention_maps(self, images: Tensor) -> Tensor:
        """The map, and the lightness of the attention image: (B, 2, H, W), not negative."""
        output = self(images)
        return torch.cat([output.map, output.attention.mean(dim=1, keepdim=True).relu()], dim=1)


class FERAttLoss(nn.Module):
    """Cross-entropy, and as `variant` says: representation loss, attention loss.

    variant: "representation" (the paper's Cls+Rep), "classify" (Cls), or "preactresnet18", which
    has no attention image and is trained with the cross-entropy alone. form: of the attention
    loss, a key of `FORMS`; the logged term is without its weight.

    Raises ValueError for others.
    """

    def __init__(self, variant: str = "representation", form: str = "masked"):
        super().__init__()
        for what, value, known in (("variant", variant, VARIANTS), ("form", form, FORMS)):
            if value not in known:
                raise ValueError(f"{what} is {value!r}; expected one of {', '.join(known)}")
        self.variant, self.form = variant, form
        self.weight, self.clamp = FORMS[form]

    def forward(self, output: FERAttOutput, batch: Batch) -> LossTerms:
        """The loss; the batch has the targets "mask" (B, 1, H, W) and "clean" (B, 3, H, W)."""
        with no_autocast(output.logits):
            z, attention = output.embedding, full_precision(output.attention)
            terms = {"cls": cross_entropy(output.logits, batch)}
            if self.variant == "representation":
                terms["representation"] = representation_loss(z, batch.labels)
            total = sum(terms.values())
            if self.variant != "preactresnet18":
                clean, mask = batch.targets["clean"], batch.targets["mask"]
                terms["attention"] = (
                    whole_picture_loss(attention, clean)
                    if self.clamp is None
                    else attention_loss(attention, clean, mask, self.clamp)
                )
                total = total + self.weight * terms["attention"]
            return LossTerms(total, terms)


def representation_loss(embeddings: Tensor, labels: Tensor) -> Tensor:
    """Gaussians around the batch's class means: mean_i sum_c (p_ic - y_ic)^2.

        e_ic = exp(-||z_i - mu_c||^2 / 2)        p_ic = e_ic / (sum_c e_ic + 1e-15)

    embeddings z (B, D), labels (B,); y is one-hot. mu_c is the mean of the samples of class c, and
    differentiated; classes without a sample are left out.
    """
    one_hot = F.one_hot(labels).to(embeddings.dtype)
    one_hot = one_hot[:, one_hot.any(dim=0)]
    means = one_hot.T @ embeddings / one_hot.sum(dim=0).unsqueeze(1)
    squares = (embeddings.unsqueeze(1) - means).square().sum(dim=2)
    e = torch.exp(-squares / 2)
    p = (e / (e.sum(dim=1, keepdim=True) + 1e-15)).clamp(0, 1)
    return (p - one_hot).square().sum(dim=1).mean()


def attention_loss(attention: Tensor, clean: Tensor, mask: Tensor, clamp: float = CLAMP) -> Tensor:
    """min(mean (clean * mask - attention)^2, clamp); without a gradient once it is clamped.

    attention and clean (B, 3, H, W), mask (B, 1, H, W).
    """
    return F.mse_loss(attention, clean * mask).clamp(max=clamp)


def whole_picture_loss(attention: Tensor, clean: Tensor) -> Tensor:
    """mean tanh(3 |clean - attention|), of the whole picture; both (B, 3, H, W)."""
    return (3 * (clean - attention).abs()).tanh().mean()


@dataclass(frozen=True, kw_only=True)
class FERAttFlags(Rival):
    """FERAtt's flags; its backbone is torchvision's ResNet-34."""

    mark: ClassVar[str] = "embedding.weight"

    feratt: str = flag(
        "representation",
        choices=VARIANTS,
        help="feratt: the rows of its table, Cls+Rep (representation), Cls (classify), or its "
        "classifier without attention (preactresnet18)",
    )

    feratt_attention: str = flag(
        "masked",
        choices=tuple(FORMS),
        help="feratt: what the attention image should be, and the weight of that",
    )

    @property
    def targets(self) -> tuple[str, ...]:
        """The face's mask and the clean picture, where there is an attention image."""
        return () if self.feratt == "preactresnet18" else ("face",)

    def network(self, num_classes: int, image_size: int) -> FERAtt:
        """See `FERAtt`; any image size from 32 up."""
        return FERAtt(num_classes, attention=self.feratt != "preactresnet18")

    def network_like(self, weights: Mapping[str, Tensor], num_classes: int) -> FERAtt:
        """With attention where the weights have it."""
        return FERAtt(num_classes, attention="attention_map.last.weight" in weights)

    def criterion(self, num_classes: int) -> FERAttLoss:
        """See `FERAttLoss`."""
        return FERAttLoss(self.feratt, self.feratt_attention)

    def backbone(self, network: FERAtt) -> nn.Module:
        """The encoder; nothing without attention."""
        return nn.Identity() if network.attention_map is None else network.attention_map.encoder

    def load_pretrained(self, network: FERAtt, pretrained: str) -> None:
        """Fill the encoder: "imagenet" (torchvision's ResNet-34), or "none" for random weights.

        Raises InputError for anything else, and where torchvision cannot fetch them.
        """
        if pretrained not in ("imagenet", "none"):
            raise InputError(
                f"--pretrained is {pretrained}; the encoder of feratt is a ResNet-34: expected "
                "imagenet (torchvision's weights) or none (random)"
            )
        if pretrained == "none" or network.attention_map is None:
            return
        weights = imagenet_weights(ResNet34_Weights.IMAGENET1K_V1)
        kept = {name: value for name, value in weights.items() if not name.startswith("fc.")}
        network.attention_map.encoder.load_state_dict(kept)
