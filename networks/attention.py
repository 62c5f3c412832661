"""The heads of a DAN: their spatial maps and how far these overlap, Grad-CAM++, saturation."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from common.errors import InputError

from .dan import DAN


def spatial_maps(network: nn.Module, images: Tensor) -> Tensor:
    """The map that each head multiplies the features with (Eq. 3): (B, k, h, w), not negative.

    A rival's map is what its `attention_maps` says.

    images: (B, 3, H, W), normalised. No gradients are computed; the network is not changed and
    should be in eval mode. Raises InputError for a network without such maps.
    """
    with torch.no_grad():
        if hasattr(network, "attention_maps"):
            return network.attention_maps(images)
        if not isinstance(network, DAN):
            raise InputError(
                f"a {type(network).__name__} has no spatial map of its own; draw it with Grad-CAM++"
            )
        features = network.features(images)
        maps = [head.sa.attention_map(features) for head in network.attention_heads()]
    return torch.cat(maps, dim=1)


def map_overlaps(maps: Tensor) -> Tensor:
    """How far the maps (B, k, h, w) of each pair of heads overlap: (B, k, k), 0 to 1.

    Intersection over union of the maps p and q, each divided by its sum:

        sum over positions of min(p, q) / sum over positions of max(p, q)

    1 for equal maps (up to a factor), 0 for maps without a common position; nan where a map
    is zero everywhere.
    """
    flat = maps.double().flatten(2)
    shares = flat / flat.sum(dim=2, keepdim=True)
    one, other = shares.unsqueeze(2), shares.unsqueeze(1)
    return torch.minimum(one, other).sum(dim=3) / torch.maximum(one, other).sum(dim=3)


def saturation(network: DAN, images: Tensor) -> Tensor:
    """Where the log-softmax over the heads (Eq. 5) is saturated: the share of channels, (B,).

    A channel is saturated where one head has more than 99 % of the softmax: its own log-softmax is
    nearly 0 there, the others' are their gaps to it. A single head counts as 0.

    images: (B, 3, H, W), normalised. No gradients are computed; the network should be in eval mode.
    Raises ValueError for a network with another fusion.
    """
    if network.fusion != "log-softmax":
        raise ValueError(f"the fusion is {network.fusion}; only a log-softmax saturates")
    if network.num_heads == 1:
        return images.new_zeros(len(images))
    with torch.no_grad():
        largest = network(images).heads.max(dim=1).values
    return (largest > math.log(0.99)).float().mean(dim=1)


def grad_cam_maps(network: nn.Module, images: Tensor) -> Tensor:
    """Grad-CAM++ of each head as in the paper's Figure 1: (B, k, H, W), each map from 0 to 1.

    The target layer of a head is the output of its spatial unit, the score is the largest logit
    of the fused output. A network without heads has one map, of its backbone's output (RAN's: for
    the full face). The network is put into eval mode.

    images: (B, 3, H, W), normalised. Raises InputError where the package grad-cam is missing.
    """
    try:
        from pytorch_grad_cam import GradCAMPlusPlus  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise InputError(
            f"Grad-CAM++ needs the package grad-cam ({error}); pip install -r "
            "requirements-figures.txt, or draw the spatial maps, which need no package"
        ) from error
    maps = []
    # One head at a time: given several layers at once, the package averages their maps.
    for layer in _target_layers(network):
        cam = GradCAMPlusPlus(LogitsOnly(network), [layer])
        try:
            with torch.enable_grad():
                maps.append(torch.from_numpy(cam(images, targets=None)))
        finally:
            cam.activations_and_grads.release()
            network.zero_grad(set_to_none=True)
    return torch.stack(maps, dim=1)


def _target_layers(network: nn.Module) -> list[nn.Module]:
    if isinstance(network, DAN):
        return [head.sa for head in network.attention_heads()]
    # Its last child, since PhaNet runs the children one by one.
    return [getattr(network, "full_face", network.features[-1])]


class LogitsOnly(nn.Module):
    """A network that returns only its logits (B, C): for grad-cam, and for exported programs."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images).logits
