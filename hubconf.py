"""torch.hub entry points: the networks, for programs that live elsewhere.

    model = torch.hub.load(REPOSITORY, "dan", weights="runs/rafdb-seed0/best.pth", source="local")
    model.class_names, model.image_size

Only `networks` and `common` are imported, so a program may have a `datasets` of its own.
"""

from torch import nn as _nn

from common.errors import InputError as _InputError
from networks import DAN as _DAN
from networks import ResNet18 as _ResNet18
from networks import load_model as _load_model
from networks.pretrained import shipped_weights as _shipped_weights

dependencies = ["numpy", "torch", "torchvision"]


def dan(weights: str | None = None, *, num_classes: int = 7, num_heads: int = 4) -> _nn.Module:
    """DAN. weights: "ferplus" for this project's; the path of a checkpoint; None for random ones.

    With weights the network is in eval mode and has `.class_names` and `.image_size`, see
    `networks.load_model`; num_classes and num_heads are those of random ones.

    Raises InputError where the weights are not there or are not those of a DAN.
    """
    return _DAN(num_classes, num_heads) if weights is None else _loaded(_DAN, weights, "dan")


def resnet18(weights: str | None = None, *, num_classes: int = 7) -> _nn.Module:
    """The paper's baseline; as `dan`."""
    return _ResNet18(num_classes) if weights is None else _loaded(_ResNet18, weights, "resnet18")


def _loaded(kind: type[_nn.Module], weights: str, entry: str) -> _nn.Module:
    # A bare word is a name; a file of the working folder has an ending.
    path = _shipped_weights(f"{entry}_{weights}") if str(weights).isidentifier() else weights
    network = _load_model(path)
    if type(network) is not kind:
        found = type(network).__name__
        raise _InputError(
            f"{path} holds a {found}; the entry point {entry!r} is for {kind.__name__}"
        )
    return network
