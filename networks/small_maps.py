"""Convolutions on small maps as matrix products: what torch computes, faster on a CPU in bfloat16.

Below 128 pixels the last feature maps have few positions (2x2 at 64 pixels), and most of a 3x3
kernel's taps there meet padding. oneDNN's convolutions compute those as well; the products leave
them out.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby, product
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: Output positions up to which the products were measured to be faster.
MAX_POSITIONS = 16

Pair = tuple[int, int]


def products_on_small_maps(network: nn.Module) -> nn.Module:
    """Let the convolutions of a network choose matrix products on small maps; returns the network.

    The network is changed in place: its weights and their names stay, and so do its numbers, up
    to the rounding of bfloat16. Kernels of one position gain nothing and are left out.
    """
    for layer in network.modules():
        if type(layer) is nn.Conv2d and layer.kernel_size != (1, 1) and _is_common(layer):
            layer.__class__ = SmallMapConv2d
    return network


def _is_common(layer: nn.Conv2d) -> bool:
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        return False
    meets_maps = all(p < k for p, k in zip(layer.padding, layer.kernel_size, strict=True))
    return meets_maps and layer.groups == 1 and layer.dilation == (1, 1)


class SmallMapConv2d(nn.Conv2d):
    """A convolution that is computed by matrix products on small maps, on a CPU, in bfloat16.

    Everywhere else, and wherever torch records the network as a graph, it is torch's own.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not self._products_are_faster(input):
            return super()._conv_forward(input, weight, bias)
        bias = None if bias is None else bias.bfloat16()
        half = (input.bfloat16(), weight.bfloat16(), bias)
        return convolution_by_products(*half, self.stride, self.padding)

    def _products_are_faster(self, images: Tensor) -> bool:
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return False
        # torch.fx traces with proxies, which are no tensors.
        if not isinstance(images, Tensor) or images.device.type != "cpu" or images.dim() != 4:
            return False
        if _type_in_convolutions(images) != torch.bfloat16:
            return False
        height, width = _output_size(images.shape[2:], self.kernel_size, self.stride, self.padding)
        return 0 < height * width <= MAX_POSITIONS


def convolution_by_products(
    images: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair
) -> Tensor:
    """`F.conv2d` of images (B, C, H, W) and weight (O, C, kh, kw): (B, O, h, w), channels last.

    Positions whose patches meet the same taps of the kernel are one product, patches (B positions,
    taps C) times weights (taps C, O). The padding has to be smaller than the kernel.
    """
    last = (images.permute(0, 2, 3, 1), weight.permute(0, 2, 3, 1))
    return _ConvolutionByProducts.apply(*last, bias, (stride, padding)).permute(0, 3, 1, 2)


class _ConvolutionByProducts(torch.autograd.Function):
    """Maps (B, H, W, C) and weight (O, kh, kw, C) to (B, h, w, O)."""

    @staticmethod
    def forward(
        ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor | None, geometry: tuple[Pair, Pair]
    ) -> Tensor:
        ctx.save_for_backward(maps, weight)
        ctx.geometry = geometry
        size = _output_size(maps.shape[1:3], weight.shape[1:3], *geometry)
        output = maps.new_empty(len(maps), *size, len(weight))
        for part in _parts(maps, weight, *geometry):
            taps = weight[part.taps].flatten(1)
            output[part.outputs] = F.linear(part.patches(maps).flatten(3), taps, bias)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        maps, weight = ctx.saved_tensors
        exact = torch.promote_types(gradient.dtype, torch.float32)
        # Of overlapping patches and of parts: summed in float32, rounded once.
        to_maps = torch.zeros_like(maps, dtype=exact, memory_format=torch.contiguous_format)
        to_weight = torch.zeros_like(weight, dtype=exact, memory_format=torch.contiguous_format)
        for part in _parts(maps, weight, *ctx.geometry):
            outputs = gradient[part.outputs].flatten(0, 2)  # (B positions, O)
            patches, taps = part.patches(maps), weight[part.taps]
            to_weight[part.taps] += (outputs.t() @ patches.flatten(0, 2).flatten(1)).view_as(taps)
            to_patches = (outputs @ taps.flatten(1)).view_as(patches)
            sums = part.patches(to_maps)
            for tap in product(range(patches.shape[3]), range(patches.shape[4])):
                sums[:, :, :, *tap] += to_patches[:, :, :, *tap]
        to_bias = gradient.sum((0, 1, 2)) if ctx.needs_input_grad[2] else None
        return to_maps.to(maps.dtype), to_weight.to(weight.dtype), to_bias, None


class _Part(NamedTuple):
    """Output positions in a rectangle whose patches meet the same taps."""

    outputs: tuple[slice, ...]  # of (B, h, w, O)
    inputs: tuple[slice, ...]  # of (B, H, W, C)
    taps: tuple[slice, ...]  # of (O, kh, kw, C)
    stride: Pair

    def patches(self, maps: Tensor) -> Tensor:
        """A view (B, rows, columns, taps, taps, C) of maps (B, H, W, C)."""
        windows = maps[self.inputs]
        for axis in (1, 2):
            taps = self.taps[axis]
            windows = windows.unfold(axis, taps.stop - taps.start, self.stride[axis - 1])
        return windows.permute(0, 1, 2, 4, 5, 3)


def _parts(maps: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Iterator[_Part]:
    axes = (
        list(_spans(*lengths))
        for lengths in zip(maps.shape[1:3], weight.shape[1:3], stride, padding, strict=True)
    )
    for rows, columns in product(*axes):
        yield _Part(*((slice(None), *pair) for pair in zip(rows, columns, strict=True)), stride)


def _spans(length: int, kernel: int, stride: int, padding: int) -> Iterator[tuple[slice, ...]]:
    """Along one axis: runs of outputs that meet the same taps, with their inputs and those taps."""

    def taps(output: int) -> tuple[int, int]:
        start = output * stride - padding
        return max(0, -start), min(kernel, length - start)

    for (first, stop), run in groupby(range((length + 2 * padding - kernel) // stride + 1), taps):
        outputs = list(run)
        start, end = (output * stride - padding for output in (outputs[0], outputs[-1]))
        inputs = slice(start + first, end + stop)
        yield slice(outputs[0], outputs[-1] + 1), inputs, slice(first, stop)


def _output_size(size: Any, kernel: Any, stride: Pair, padding: Pair) -> list[int]:
    return [
        (length + 2 * p - k) // s + 1
        for length, k, s, p in zip(size, kernel, stride, padding, strict=True)
    ]


def _type_in_convolutions(images: Tensor) -> torch.dtype:
    """The type that a convolution computes in, which autocast may choose; not for float64."""
    if torch.is_autocast_enabled("cpu") and images.dtype != torch.float64:
        return torch.get_autocast_dtype("cpu")
    return images.dtype
