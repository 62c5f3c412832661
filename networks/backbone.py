"""The FCN's backbone: ResNet-18 without pooling and classifier, and its pre-trained weights."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torchvision.models import ResNet18_Weights, WeightsEnum, resnet18

from common.download import file_sha256
from common.errors import InputError
from common.files import load_tensors

#: The paper's backbone weights, where `--pretrained` looks for them.
MSCELEB = "models/pretrain/resnet18_msceleb.pth"
#: That file, as two public projects list it.
MSCELEB_SHA256 = "734341508e3ddbcd181e40da0173cf2c77cd0de3bc2455715cc1b7f42a63a6f6"
MSCELEB_BYTES = 181_511_212
FEATURE_DIM = 512

# torchvision's names for the children of a ResNet, in the order of the backbone's numbers.
_CHILDREN = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
_NUMBER = {name: str(number) for number, name in enumerate(_CHILDREN)}


def resnet18_backbone() -> nn.Sequential:
    """Images (B, 3, H, W) -> feature map (B, 512, ceil(H/32), ceil(W/32)); random weights.

    The children are numbered 0-7, which gives the released names `features.0` ... `features.7`.
    """
    whole = resnet18(weights=None)
    return nn.Sequential(*(getattr(whole, name) for name in _CHILDREN))


def load_backbone(backbone: nn.Sequential, pretrained: str | Path) -> None:
    """Load weights into a backbone, in place.

    pretrained: "none" leaves the random weights; "imagenet" takes torchvision's (downloaded
    once by torchvision); anything else is a file: the MS-Celeb-1M weights of the paper, a whole
    torchvision ResNet-18, or a checkpoint of this project or of the release, whose backbone is
    used. A file named like the MS-Celeb-1M file is checked against its known sha256.

    Raises InputError for a file that is missing, unreadable or of another network; only the
    classifier of the old task and the batch counters of BatchNorm may be unmatched.
    """
    if str(pretrained) == "none":
        return
    if str(pretrained) == "imagenet":
        source = "torchvision's ImageNet weights"
        weights = imagenet_weights(ResNet18_Weights.IMAGENET1K_V1)
    else:
        path = Path(pretrained)
        _check_exists(path)
        source, weights = str(path), _tensors_of(load_tensors(path, "backbone weights"), path)
        if path.name == Path(MSCELEB).name:
            _report_whether_known(path)
    _fill(backbone, _backbone_names(weights, source), source)


def imagenet_weights(weights: WeightsEnum) -> dict[str, Tensor]:
    """The tensors of torchvision's weights, downloaded once; raises InputError where they are not.

    weights: a member such as `ResNet18_Weights.IMAGENET1K_V1`.
    """
    try:
        return weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: the download's hash is wrong
        raise InputError(
            f"torchvision could not fetch its ImageNet weights ({error}); connect once, or put "
            f"{Path(weights.url).name} into the folder checkpoints/ of torch's hub cache, or use "
            "--pretrained none"
        ) from error


def _check_exists(path: Path) -> None:
    if path.is_file():
        return
    raise InputError(
        f"backbone weights {path} not found; the paper's numbers need ResNet-18 pre-trained on "
        f"MS-Celeb-1M: put resnet18_msceleb.pth at {MSCELEB} (models/pretrain/README.md says "
        "where to get it), or use --pretrained imagenet (torchvision's weights), --pretrained "
        "CHECKPOINT (the backbone of your own run), or --pretrained none (random weights)"
    )


def _report_whether_known(path: Path) -> None:
    """Print whether a file named resnet18_msceleb.pth is the known one; warn if it is not."""
    digest = file_sha256(path)
    if digest == MSCELEB_SHA256:
        print(f"{path} is the known MS-Celeb-1M file (sha256 {digest[:8]}...)", flush=True)
        return
    warnings.warn(
        f"{path} is not the known MS-Celeb-1M file: sha256 {digest}, {path.stat().st_size:,} bytes;"
        f" known is sha256 {MSCELEB_SHA256}, {MSCELEB_BYTES:,} bytes; results may differ from the "
        "paper's",
        stacklevel=3,
    )


def _tensors_of(content: dict[str, Any], path: Path) -> dict[str, Tensor]:
    """The state dict inside a file: bare, or under one of the two names in use."""
    for key in ("model_state_dict", "state_dict"):
        if isinstance(content.get(key), dict):
            content = content[key]
            break
    tensors = {
        str(name).removeprefix("module."): value
        for name, value in content.items()
        if isinstance(value, Tensor)
    }
    if not tensors:
        raise InputError(f"backbone weights {path} hold no tensors; expected a ResNet-18")
    return tensors


def _backbone_names(weights: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """Rename to the backbone's numbers and drop the classifier; other names are an error."""
    if any(name.startswith("features.") for name in weights):
        # The heads, attentions and classifiers of our networks.
        ours = ("cat_head", "fc.", "bn.", "alpha.", "beta.", "attention.", "attention_heads.")
        parts = {
            name: name.removeprefix("features.") for name in weights if name.startswith("features.")
        }
        foreign = [name for name in weights if name not in parts and not name.startswith(ours)]
    else:
        parts, foreign = {}, []
        for name in weights:
            child, _, rest = name.partition(".")
            if child in _NUMBER:
                parts[name] = f"{_NUMBER[child]}.{rest}"
            elif name not in ("fc.weight", "fc.bias"):
                foreign.append(name)
    if foreign:
        raise InputError(
            f"{source} is not a ResNet-18: {len(foreign)} names do not belong to it, the first "
            f"is {foreign[0]}; expected torchvision's names or a checkpoint of this project"
        )
    return {short: weights[name] for name, short in parts.items()}


def _fill(backbone: nn.Sequential, weights: dict[str, Tensor], source: str) -> None:
    expected = backbone.state_dict()
    # Files from before torch 0.4.1 have no batch counters; they do not change the network.
    missing = [
        name
        for name in expected
        if name not in weights and not name.endswith("num_batches_tracked")
    ]
    extra = [name for name in weights if name not in expected]
    wrong = [
        name
        for name, value in weights.items()
        if name in expected
        and (
            value.shape != expected[name].shape
            or value.is_floating_point() != expected[name].is_floating_point()
        )
    ]
    for names, complaint in (
        (missing, "missing"),
        (extra, "unknown"),
        (wrong, "of another shape or type"),
    ):
        if names:
            raise InputError(
                f"{source} is not a ResNet-18: {len(names)} tensors are {complaint}, the first "
                f"is {names[0]} of the backbone"
            )
    backbone.load_state_dict(expected | weights)
