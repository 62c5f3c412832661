"""The method that a train script trains: network and loss, with the paper's ablations as flags."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn, optim

from common.batch import Batch
from common.errors import InputError
from common.flags import flag, not_negative, positive

from .backbone import MSCELEB, load_backbone
from .dan import DAN, FUSIONS, ResNet18
from .losses import CENTER_WEIGHT, FCN_LOSSES, DANLoss, PartitionLoss
from .packed import fast_network
from .small_maps import products_on_small_maps
from .soft_labels import with_soft_labels

MAX_HEADS = 100  # of a network in a file; more would take minutes to build


@dataclass(frozen=True, kw_only=True)
class Method:
    """DAN as in the paper unless a field says otherwise.

    A method is a network, `network(images) -> output` with `output.logits` (B, C), and a
    criterion, `criterion(output, batch) -> LossTerms`: the weighted sum that is minimised, and its
    named terms. Both may have parameters; all of them are optimised.
    """

    arch: str = flag(
        "dan",
        choices=("dan", "resnet18"),
        help="dan, or the paper's baseline resnet18: backbone, pooling, linear layer",
    )
    heads: int = flag(4, check=positive, expected="at least 1", help="cross attention heads of DAN")
    fusion: str = flag(
        FUSIONS[0],
        choices=FUSIONS,
        help="what is summed over the heads: the log-softmax, Eq. 5, the heads themselves, or the "
        "heads weighed by their softmax",
    )
    pretrained: str = flag(
        MSCELEB,
        help="weights the backbone starts from: PATH (MS-Celeb-1M file, or a checkpoint of ours), "
        "imagenet (torchvision's), or none (random)",
    )
    fcn_loss: str = flag(
        "affinity",
        choices=FCN_LOSSES,
        help="loss on the FCN's features: affinity, Eq. 2, or Table 1's center loss or none",
    )
    partition: str = flag(
        "eq6",
        choices=(*PartitionLoss.FORMS, "none"),
        help="loss on the heads: the paper's Eq. 6, the released code's form, or none",
    )
    lambda1: float = flag(
        1.0, check=not_negative, expected="at least 0", help="weight of the affinity loss, Eq. 7"
    )
    lambda2: float = flag(
        1.0, check=not_negative, expected="at least 0", help="weight of the partition loss, Eq. 7"
    )
    center_weight: float = flag(
        CENTER_WEIGHT,
        check=not_negative,
        expected="at least 0",
        help="weight of the center loss, instead of --lambda1",
    )
    label_smoothing: float = flag(
        0.0,
        check=lambda share: 0 <= share < 1,
        expected="0 up to, not including, 1",
        help="share of each label that is spread over all classes",
    )
    mixup: float = flag(
        0.0,
        check=not_negative,
        expected="at least 0",
        help="mix each training image with another; alpha of the Beta distribution (0: off)",
    )

    def network(self, num_classes: int) -> nn.Module:
        """The network with its backbone loaded; raises InputError where weights are missing."""
        baseline = self.arch == "resnet18"
        network = (
            ResNet18(num_classes) if baseline else DAN(num_classes, self.heads, fusion=self.fusion)
        )
        load_backbone(network.features, self.pretrained)
        return products_on_small_maps(network)

    def criterion(self, num_classes: int) -> DANLoss:
        """The loss; the baseline is trained with cross-entropy alone."""
        baseline = self.arch == "resnet18"
        return DANLoss(
            num_classes,
            fcn_loss="none" if baseline else self.fcn_loss,
            partition="none" if baseline else self.partition,
            lambda1=self.lambda1,
            lambda2=self.lambda2,
            center_weight=self.center_weight,
        )

    def training_batch(self, batch: Batch, num_classes: int) -> Batch:
        """The batch to train on, made from the one that was loaded; see `with_soft_labels`."""
        return with_soft_labels(
            batch, num_classes, label_smoothing=self.label_smoothing, mixup=self.mixup
        )

    def fast(self, network: nn.Module, device: torch.device) -> nn.Module:
        """A faster network with the output of `network`; see `fast_network`."""
        return fast_network(network, device)

    def advice(self, optimizer: optim.Optimizer) -> list[str]:
        """What a user should know before a run that is likely to fail; one line each."""
        if self.arch == "dan" and self.pretrained == "none" and isinstance(optimizer, optim.SGD):
            return [
                "DAN from random weights under SGD rarely leaves the majority class; train "
                "--arch resnet18 --pretrained none first and give its last.pth as --pretrained, "
                "or use --optimizer adamw --lr 0.001"
            ]
        return []


def network_for(
    state_dict: Mapping[str, Tensor], settings: Mapping[str, Any] | None = None
) -> nn.Module:
    """Build the network that a state dict (ours or released) belongs to, and load it.

    The architecture, the number of heads and of classes are read from names and shapes.

    settings: the flags it was trained with, as a checkpoint has them. They give what weights do
        not show: the fusion of the heads.

    Raises InputError where they do not fit any network of this project.
    """
    fc = state_dict.get("fc.weight")
    if not isinstance(fc, Tensor) or fc.dim() != 2:
        raise InputError("the weights have no classifier fc.weight; expected a DAN or a ResNet-18")
    if len(fc) < 2:
        raise InputError(f"the weights have {len(fc)} classes; expected 2 or more")
    found = [re.match(r"cat_head(\d{1,6})\.", str(name)) for name in state_dict]
    numbers = {int(match[1]) for match in found if match}
    if len(numbers) > MAX_HEADS:
        raise InputError(f"the weights have {len(numbers)} heads; expected {MAX_HEADS} at most")
    if numbers != set(range(len(numbers))):
        raise InputError(f"the weights have heads {sorted(numbers)}; expected 0, 1, 2, ... k-1")
    num_classes, fusion = fc.shape[0], (settings or {}).get("fusion", FUSIONS[0])
    if fusion not in FUSIONS:
        raise InputError(f"the weights are of --fusion {fusion}; known are {', '.join(FUSIONS)}")

    def build() -> nn.Module:
        if not numbers:
            return ResNet18(num_classes)
        return DAN(num_classes, len(numbers), fusion=fusion)

    # First without data: a small file must not make us allocate gigabytes.
    with torch.device("meta"):
        network = build()
    expected = network.state_dict()
    for name, tensor in expected.items():
        given = state_dict.get(name)
        if not isinstance(given, Tensor):
            raise InputError(f"the weights lack {name} of {type(network).__name__}")
        if given.shape != tensor.shape:
            raise InputError(
                f"the weights have {name} as {tuple(given.shape)}; expected {tuple(tensor.shape)}"
            )
        if given.is_floating_point() != tensor.is_floating_point():
            raise InputError(f"the weights have {name} as {given.dtype}; expected {tensor.dtype}")
    extra = [name for name in state_dict if name not in expected]
    if extra:
        raise InputError(
            f"the weights hold {len(extra)} tensors that {type(network).__name__} does not have; "
            f"the first is {extra[0]}"
        )
    network = build()
    network.load_state_dict(dict(state_dict))
    return products_on_small_maps(network)
