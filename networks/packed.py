"""A fast network for inference: fused, with weights packed in the layout of the CPU's kernels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .fused import FUSABLE, fuse


def fast_network(network: nn.Module, device: torch.device, *, bf16: bool = False) -> nn.Module:
    """A faster network on a device with the output of `network.eval()`, which is not changed.

    The networks of `FUSABLE` are fused and, on a CPU, packed. Others, including subclasses of
    these, may compute something else and are returned as they are.

    bf16: whether it will run under autocast to bfloat16.
    """
    if type(network) not in FUSABLE:
        return network.eval().to(device)
    fused = fuse(network).to(device, memory_format=torch.channels_last)
    return pack(fused, torch.bfloat16 if bf16 else torch.float32) if device.type == "cpu" else fused


def pack(network: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Replace the convolutions of a network by packed ones, in place; returns the network.

    For inference on a CPU. oneDNN, which computes torch's convolutions there, needs weights in
    its own layout and otherwise reorders them in every call, which takes a quarter of the time at
    batch size 1. The numbers are the same up to rounding.

    dtype: float32, or bfloat16 to compute what the network computes under autocast. For other
    dtypes, and where torch has no oneDNN or the CPU no bfloat16, the network is left unchanged.
    Packed weights are not parameters: they cannot be moved, saved or trained.
    """
    if can_pack(dtype):
        _pack(network, dtype)
    return network


def can_pack(dtype: torch.dtype) -> bool:
    """Whether torch computes convolutions of this dtype with oneDNN on this machine."""
    reorder = hasattr(torch._C._nn, "mkldnn_reorder_conv2d_weight")
    if not (torch.backends.mkldnn.is_available() and reorder):
        return False
    if dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return dtype == torch.float32


class PackedConv2d(nn.Module):
    """A convolution whose weight is in oneDNN's layout; images (B, C, H, W) as with nn.Conv2d."""

    def __init__(self, layer: nn.Conv2d, dtype: torch.dtype):
        """Copy a zero-padded layer; computes in `dtype`, float32 or bfloat16."""
        super().__init__()
        self.arguments = (layer.padding, layer.stride, layer.dilation, layer.groups)
        self.bias = None if layer.bias is None else layer.bias.detach().to(dtype)
        # Private functions of torch; its own compiler (inductor) packs with them.
        self.weight = torch._C._nn.mkldnn_reorder_conv2d_weight(
            layer.weight.detach().to(dtype).to_mkldnn(), *self.arguments
        )

    def forward(self, images: Tensor) -> Tensor:
        return torch.ops.mkldnn._convolution_pointwise(
            images.to(self.weight.dtype), self.weight, self.bias, *self.arguments, "none", [], ""
        )


def _pack(network: nn.Module, dtype: torch.dtype) -> None:
    for name, layer in network.named_children():
        if not isinstance(layer, nn.Conv2d):
            _pack(layer, dtype)
        elif layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
            setattr(network, name, PackedConv2d(layer, dtype))
