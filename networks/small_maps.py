"""Convolutions on small maps as matrix products: what torch computes, faster on a CPU in bfloat16.

Below 128 pixels the last feature maps have few positions (2x2 at 64 pixels), and most of a 3x3
kernel's taps there meet padding. oneDNN's convolutions compute those as well; the products leave
them out.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

#: Channels in times channels out, per output position, from which the products were measured to be
#: faster.
MIN_PAIRS_PER_POSITION = 8192

Pair = tuple[int, int]


def products_on_small_maps(network: nn.Module) -> nn.Module:
    """Let the convolutions of a network choose matrix products on small maps; returns the network.

    The network is changed in place: its weights and their names stay, and so do its numbers, up
    to the rounding of bfloat16. Kernels of one position gain nothing and are left out.
    """
    for layer in network.modules():
        if type(layer) is nn.Conv2d and layer.kernel_size != (1, 1) and _is_supported(layer):
            layer.__class__ = SmallMapConv2d
    return network


def _is_supported(layer: nn.Conv2d) -> bool:
    zeros = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return zeros and layer.groups == 1 and layer.dilation == (1, 1)


class SmallMapConv2d(nn.Conv2d):
    """A convolution that is computed by matrix products on small maps, on a CPU, in bfloat16.

    Everywhere else, and wherever torch records the network as a graph, it is torch's own.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not self._products_are_faster(input):
            return super()._conv_forward(input, weight, bias)
        return convolution_by_products(input.bfloat16(), weight, bias, self.stride, self.padding)

    def _products_are_faster(self, images: Tensor) -> bool:
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return False
        # torch.fx traces with proxies, which are no tensors.
        if not isinstance(images, Tensor) or images.device.type != "cpu" or images.dim() != 4:
            return False
        if _type_in_convolutions(images) != torch.bfloat16:
            return False
        height, width = _output_size(images.shape[2:], self.kernel_size, self.stride, self.padding)
        pairs = self.in_channels * self.out_channels
        return 0 < height * width <= pairs / MIN_PAIRS_PER_POSITION


def convolution_by_products(
    images: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair
) -> Tensor:
    """`F.conv2d` of images (B, C, H, W) and weight (O, C, kh, kw): (B, O, h, w), channels last.

    The sum over the taps of the kernel of inputs (B positions, C) times weights (C, O), each over
    the positions at which that tap meets the map. bfloat16 products are summed in float32. The
    gradient of a float32 weight is float32 where images are bfloat16, too.
    """
    last = (images.permute(0, 2, 3, 1), weight.permute(0, 2, 3, 1))
    return _ConvolutionByProducts.apply(*last, bias, (stride, padding)).permute(0, 3, 1, 2)


class _ConvolutionByProducts(torch.autograd.Function):
    """Maps (B, H, W, C) and weight (O, kh, kw, C) to (B, h, w, O)."""

    @staticmethod
    def forward(
        ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor | None, geometry: tuple[Pair, Pair]
    ) -> Tensor:
        ctx.geometry, ctx.weight_type = geometry, weight.dtype
        weight = weight.to(maps.dtype)
        ctx.save_for_backward(maps, weight)
        size = _output_size(maps.shape[1:3], weight.shape[1:3], *geometry)
        output = _zeros(maps, len(maps), *size, len(weight))
        for tap, inputs, outputs in _taps(maps, weight, *geometry):
            # Flat, since torch would make a product of its own for every row of maps.
            found = maps[inputs].flatten(0, 2) @ weight[tap].t()
            output[outputs] += found.view_as(output[outputs])
        return (output if bias is None else output.add_(bias)).to(maps.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        maps, weight = ctx.saved_tensors
        to_maps = _zeros(maps, *maps.shape)
        # At once in the parameter's type: a cast afterwards would go through all of it again.
        to_weight = torch.zeros_like(weight, dtype=ctx.weight_type)
        for tap, inputs, outputs in _taps(maps, weight, *ctx.geometry):
            part = gradient[outputs].flatten(0, 2)
            to_maps[inputs] += (part @ weight[tap]).view_as(to_maps[inputs])
            to_weight[tap] = part.t() @ maps[inputs].flatten(0, 2)
        biased = ctx.needs_input_grad[2]
        to_bias = gradient.sum((0, 1, 2), dtype=ctx.weight_type) if biased else None
        return to_maps.to(maps.dtype), to_weight, to_bias, None


def _zeros(like: Tensor, *shape: int) -> Tensor:
    return like.new_zeros(shape, dtype=torch.promote_types(like.dtype, torch.float32))


def _taps(
    maps: Tensor, weight: Tensor, stride: Pair, padding: Pair
) -> Iterator[tuple[tuple[Any, ...], ...]]:
    """The taps (O, C) that meet maps, with the inputs and the outputs at which they do: indices."""
    every = slice(None)
    axes = zip(maps.shape[1:3], weight.shape[1:3], stride, padding, strict=True)
    for row, column in product(*(_spans(*axis) for axis in axes)):
        tap, inputs, outputs = zip(row, column, strict=True)
        yield (every, *tap), (every, *inputs), (every, *outputs)


def _spans(
    length: int, kernel: int, stride: int, padding: int
) -> Iterator[tuple[int, slice, slice]]:
    """Along one axis: each tap with the inputs and the outputs between which it has a weight."""
    size = (length + 2 * padding - kernel) // stride + 1
    for tap in range(kernel):
        shift = tap - padding  # output o meets input stride * o + shift
        first = max(0, -(shift // stride))
        stop = min(size, (length - 1 - shift) // stride + 1)
        if first < stop:
            inputs = slice(stride * first + shift, stride * (stop - 1) + shift + 1, stride)
            yield tap, inputs, slice(first, stop)


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
