"""What a trained network costs: parameters and multiply-adds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from common.flags import flags_from
from networks import Method


def cost_of(settings: Mapping[str, Any], num_classes: int) -> tuple[int, int]:
    """Parameters in training, and multiply-adds of one image at test, of a run's network.

    settings: a run's; the network is built from them without data, so nothing is computed.

    Raises InputError for a setting that its flag does not take.
    """
    method = dataclasses.replace(flags_from(Method(), settings), pretrained="none")
    size = settings["image_size"]
    with torch.device("meta"):
        network = method.network(num_classes, size).eval()
        return cost_of_network(network, torch.empty(1, 3, size, size))


def cost_of_network(network: nn.Module, images: Tensor) -> tuple[int, int]:
    """Parameters of a network, and multiply-adds of its forward pass on images (B, 3, H, W)."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(images)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return parameters, counter.get_total_flops() // 2
