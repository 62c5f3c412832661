"""Convolutions on small maps as matrix products: what torch computes, faster on a CPU in bfloat16.

Below 128 pixels the last feature maps have few positions (2x2 at 64 pixels), and oneDNN's
convolutions, tuned for large maps, reach a fraction of the machine's limit there. A matrix
product over the gathered patches reaches several times as much.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: Output positions up to which the product was measured to be the faster one.
MAX_POSITIONS = 16


def products_on_small_maps(network: nn.Module) -> nn.Module:
    """Let the convolutions of a network choose matrix products on small maps; returns the network.

    The network is changed in place: its weights, their names and its numbers up to the rounding
    of bfloat16 stay. Kernels of one position are left out, as they gain nothing.
    """
    for layer in network.modules():
        if type(layer) is nn.Conv2d and layer.kernel_size != (1, 1) and _is_common(layer):
            layer.__class__ = SmallMapConv2d
    return network


def _is_common(layer: nn.Conv2d) -> bool:
    zeros = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return zeros and layer.groups == 1 and layer.dilation == (1, 1)


class SmallMapConv2d(nn.Conv2d):
    """A convolution that is a matrix product on small maps, on a CPU, in bfloat16.

    Everywhere else, and wherever torch records the network as a graph, it is torch's own.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not self._product_is_faster(input):
            return super()._conv_forward(input, weight, bias)
        return convolution_as_product(input.bfloat16(), weight, bias, self.stride, self.padding)

    def _product_is_faster(self, images: Tensor) -> bool:
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return False
        # torch.fx traces with proxies, which are no tensors.
        if not isinstance(images, Tensor) or images.device.type != "cpu" or images.dim() != 4:
            return False
        if _type_in_convolutions(images) != torch.bfloat16:
            return False
        height, width = _output_size(images, self.kernel_size, self.stride, self.padding)
        return 0 < height * width <= MAX_POSITIONS


def convolution_as_product(
    images: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
) -> Tensor:
    """`F.conv2d` as one matrix product: patches (B h w, taps C) times weights (taps C, O).

    Takes images (B, C, H, W) and weight (O, C, kh, kw); returns (B, O, h, w), channels last. Taps
    of the kernel that meet nothing but padding are left out: on a 1x1 map, all but the centre.
    Under autocast the product casts the weights, as a convolution does.
    """
    kernel = weight.shape[2:]
    size = _output_size(images, kernel, stride, padding)
    rows, columns = (
        slice(max(0, p - (n - 1) * s), min(k, p + length))
        for length, n, k, s, p in zip(images.shape[2:], size, kernel, stride, padding, strict=True)
    )
    patches = _Patches.apply(images.permute(0, 2, 3, 1), kernel, stride, padding, rows, columns)
    taps = weight.permute(0, 2, 3, 1)[:, rows, columns]
    return F.linear(patches.flatten(3), taps.flatten(1), bias).permute(0, 3, 1, 2)


class _Patches(torch.autograd.Function):
    """Maps (B, H, W, C) to what each output position sees of them: (B, h, w, rows, columns, C)."""

    @staticmethod
    def forward(
        ctx: Any,
        maps: Tensor,
        kernel: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int],
        rows: slice,
        columns: slice,
    ) -> Tensor:
        ctx.window, ctx.padding, ctx.shape = (kernel, stride, rows, columns), padding, maps.shape
        (up, left) = padding
        padded = F.pad(maps, (0, 0, left, left, up, up))
        return _windows(padded, *ctx.window).contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        batch, height, width, channels = ctx.shape
        up, left = ctx.padding
        # A position is in up to nine patches; their sum is rounded once.
        exact = torch.promote_types(gradient.dtype, torch.float32)
        padded = gradient.new_zeros(batch, height + 2 * up, width + 2 * left, channels, dtype=exact)
        windows = _windows(padded, *ctx.window)
        for row in range(windows.shape[3]):
            for column in range(windows.shape[4]):
                windows[:, :, :, row, column] += gradient[:, :, :, row, column]
        maps = padded[:, up : up + height, left : left + width].to(gradient.dtype)
        return maps, None, None, None, None, None


def _windows(
    padded: Tensor, kernel: tuple[int, int], stride: tuple[int, int], rows: slice, columns: slice
) -> Tensor:
    """A view (B, h, w, rows, columns, C) of padded maps (B, H, W, C)."""
    windows = padded.unfold(1, kernel[0], stride[0]).unfold(2, kernel[1], stride[1])
    return windows[..., rows, columns].permute(0, 1, 2, 4, 5, 3)


def _output_size(
    images: Tensor, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
) -> list[int]:
    return [
        (length + 2 * p - k) // s + 1
        for length, k, s, p in zip(images.shape[2:], kernel, stride, padding, strict=True)
    ]


def _type_in_convolutions(images: Tensor) -> torch.dtype:
    """The type that a convolution computes in, which autocast may choose; not of float64."""
    if torch.is_autocast_enabled("cpu") and images.dtype != torch.float64:
        return torch.get_autocast_dtype("cpu")
    return images.dtype
