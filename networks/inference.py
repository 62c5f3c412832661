"""The network that evaluates: the same numbers as the trained one's, sooner."""

from __future__ import annotations

import torch
from torch import nn

from .dan import DAN, ResNet18
from .fused import fuse
from .packed import pack


def inference_network(
    network: nn.Module, device: torch.device, *, bf16: bool = False, plain: bool = False
) -> nn.Module:
    """A network in eval mode on a device; that given is left as it is.

    DAN and the ResNet-18 are fused and, on a CPU, packed for its kernels. Others, classes made
    from these too, may compute something else and run as they are.

    bf16: whether it will run under autocast to bfloat16.
    plain: let every layer run on its own, as it was trained.
    """
    if plain or type(network) not in (DAN, ResNet18):
        return network.eval().to(device)
    fused = fuse(network).to(device, memory_format=torch.channels_last)
    if device.type == "cpu":
        pack(fused, torch.bfloat16 if bf16 else torch.float32)
    return fused
