"""The method that a train script trains: network and loss, with the paper's ablations as flags."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn, optim

from common.batch import Batch
from common.errors import InputError
from common.flags import flag, flag_fields, flags_from, fraction, not_negative, positive

from .backbone import MSCELEB, load_backbone
from .dan import DAN, FUSIONS, HEAD_SCALES, ResNet18
from .losses import CENTER_WEIGHT, FCN_LOSSES, DANLoss, PartitionLoss
from .packed import fast_network
from .rivals import RIVALS, Rival
from .rivals.center import CenterFlags
from .rivals.dacl import DACLFlags
from .rivals.dda import DDAFlags
from .rivals.eac import EACFlags
from .rivals.feratt import FERAttFlags
from .rivals.island import IslandFlags
from .rivals.phanet import PhaNetFlags
from .rivals.ran import RANFlags
from .rivals.scn import SCNFlags
from .small_maps import products_on_small_maps
from .soft_labels import with_soft_labels

MAX_HEADS = 100  # of a network in a file; more would take minutes to build


ARCHS = ("dan", "resnet18", *RIVALS)
# Flags of every method; the others are DAN's or a rival's.
SHARED = ("arch", "pretrained", "label_smoothing", "mixup")


@dataclass(frozen=True, kw_only=True)
class Method:
    """DAN as in the paper unless a field says otherwise.

    A method is a network, `network(images) -> output` with `output.logits` (B, C), and a
    criterion, `criterion(output, batch) -> LossTerms`: the weighted sum that is minimised, and its
    named terms. Both may have parameters; all of them are optimised.
    """

    arch: str = flag(
        "dan",
        choices=ARCHS,
        help="dan; the paper's baseline resnet18: backbone, pooling, linear layer; or a rival "
        "(docs/rivals.md; phanet is an interpretation of an abstract)",
    )
    heads: int = flag(4, check=positive, expected="at least 1", help="cross attention heads of DAN")
    fusion: str = flag(
        FUSIONS[0],
        choices=FUSIONS,
        help="what is summed over the heads: the log-softmax, Eq. 5, the heads themselves, or the "
        "heads weighed by their softmax",
    )
    head_scale: str = flag(
        HEAD_SCALES[0],
        choices=HEAD_SCALES,
        help="what keeps the heads in range: none, as in the paper; map: each spatial map divided "
        "by its mean; norm: each attention vector divided by its root mean square",
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
    lambda1: float = flag(1.0, check=not_negative, help="weight of the affinity loss, Eq. 7")
    lambda2: float = flag(1.0, check=not_negative, help="weight of the partition loss, Eq. 7")
    center_weight: float = flag(
        CENTER_WEIGHT,
        check=not_negative,
        help="weight of the center loss, instead of --lambda1",
    )
    label_smoothing: float = flag(
        0.0,
        check=fraction,
        help="share of each label that is spread over all classes",
    )
    mixup: float = flag(
        0.0,
        check=not_negative,
        help="mix each training image with another; alpha of the Beta distribution (0: off)",
    )

    dacl: DACLFlags = DACLFlags()
    feratt: FERAttFlags = FERAttFlags()
    phanet: PhaNetFlags = PhaNetFlags()
    scn: SCNFlags = SCNFlags()
    eac: EACFlags = EACFlags()
    ran: RANFlags = RANFlags()
    center: CenterFlags = CenterFlags()
    island: IslandFlags = IslandFlags()
    dda: DDAFlags = DDAFlags()

    def __post_init__(self):
        """Raises InputError for a flag of another arch that is not at its default.

        The baseline resnet18 leaves DAN's flags unused.
        """
        owners = {kind: name for name, kind in RIVALS.items()}
        for owner, field in flag_fields(self):
            if field.name in SHARED or getattr(owner, field.name) == field.default:
                continue
            arch = owners.get(type(owner), "dan")
            if arch != self.arch and (arch, self.arch) != ("dan", "resnet18"):
                name = field.name.replace("_", "-")
                given = f"--{name} {getattr(owner, field.name)}"
                raise InputError(f"{given} is a flag of --arch {arch}; the arch is {self.arch}")

    @property
    def rival(self) -> Rival | None:
        """The flags of the rival that `arch` names, which build its network and criterion."""
        return getattr(self, self.arch) if self.arch in RIVALS else None

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of what the data set is asked for besides labels; see `datasets.targets`."""
        return self.rival.targets if self.rival else ()

    def network(self, num_classes: int, image_size: int = 224) -> nn.Module:
        """The network with its backbone loaded; raises InputError where weights are missing.

        image_size: pixels, for networks with layers of the feature map's size.
        """
        if self.rival:
            network = self.rival.network(num_classes, image_size)
            self.rival.load_pretrained(network, self.pretrained)
            return products_on_small_maps(network)
        baseline = self.arch == "resnet18"
        network = (
            ResNet18(num_classes)
            if baseline
            else DAN(num_classes, self.heads, fusion=self.fusion, head_scale=self.head_scale)
        )
        load_backbone(network.features, self.pretrained)
        return products_on_small_maps(network)

    def criterion(self, num_classes: int) -> nn.Module:
        """The loss; the baseline is trained with cross-entropy alone."""
        if self.rival:
            return self.rival.criterion(num_classes)
        baseline = self.arch == "resnet18"
        return DANLoss(
            num_classes,
            fcn_loss="none" if baseline else self.fcn_loss,
            partition="none" if baseline else self.partition,
            lambda1=self.lambda1,
            lambda2=self.lambda2,
            center_weight=self.center_weight,
        )

    def backbone(self, network: nn.Module) -> nn.Module:
        """The part of `network` that `--pretrained` fills."""
        return self.rival.backbone(network) if self.rival else network.features

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
        not show: fusion and scale of the heads, a rival's forms, and which rival it is where two
        have the same names.

    Raises InputError where they do not fit any network of this project, or each other.
    """
    fc = state_dict.get("fc.weight")
    if not isinstance(fc, Tensor) or fc.dim() != 2:
        raise InputError("the weights have no classifier fc.weight; expected a DAN or a ResNet-18")
    if len(fc) < 2:
        raise InputError(f"the weights have {len(fc)} classes; expected 2 or more")
    build = _builder(state_dict, settings or {})
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


def _builder(
    state_dict: Mapping[str, Tensor], settings: Mapping[str, Any]
) -> Callable[[], nn.Module]:
    """What makes the network with random weights; see `network_for`."""
    num_classes, arch = len(state_dict["fc.weight"]), settings.get("arch", "dan")
    if arch not in ARCHS:
        raise InputError(f"the weights are of --arch {arch}; known are {', '.join(ARCHS)}")
    marked = (name for name, kind in RIVALS.items() if kind.mark and kind.mark in state_dict)
    rival = arch if arch in RIVALS else next(marked, None)
    if rival:
        flags = flags_from(RIVALS[rival](), settings)
        return lambda: flags.network_like(state_dict, num_classes)
    found = [re.match(r"cat_head(\d{1,6})\.", str(name)) for name in state_dict]
    numbers = {int(match[1]) for match in found if match}
    if len(numbers) > MAX_HEADS:
        raise InputError(f"the weights have {len(numbers)} heads; expected {MAX_HEADS} at most")
    if numbers != set(range(len(numbers))):
        raise InputError(f"the weights have heads {sorted(numbers)}; expected 0, 1, 2, ... k-1")
    if not numbers:
        return lambda: ResNet18(num_classes)
    forms = {}
    for name, known in (("fusion", FUSIONS), ("head_scale", HEAD_SCALES)):
        forms[name] = settings.get(name, known[0])
        if forms[name] not in known:
            given = f"--{name.replace('_', '-')} {forms[name]}"
            raise InputError(f"the weights are of {given}; known are {', '.join(known)}")
    return lambda: DAN(num_classes, len(numbers), **forms)
