"""Helper of the tests: networks whose predictions vary, without training."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from datasets import RAFDB, transforms
from tests.support.scripts import SIZE


def varied(network: nn.Module, root: Path) -> nn.Module:
    """Give a random network the statistics of the images, so that its predictions vary."""
    dataset = RAFDB(root, "test", transforms.evaluation(SIZE))
    images = torch.stack([dataset[i].image for i in range(len(dataset))])
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches
    network.train()
    with torch.no_grad():
        network(images)
        network.fc.weight.mul_(30)
    return network.eval()
