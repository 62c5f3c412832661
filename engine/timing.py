"""How long training takes on this machine."""

from __future__ import annotations

import dataclasses
import time

import torch

from common.devices import find_device

from .device import memory_format, wants_bf16
from .distributed import Step
from .optim import make_optimizer
from .recipe import Recipe


def seconds_per_image(recipe: Recipe, num_classes: int) -> float:
    """Seconds of a training step on random images, by image; the best of three.

    Raises InputError where the recipe's device is not there.
    """
    device = find_device(recipe.device)
    # On a CPU a part of a batch: enough that the optimiser's share is what it will be.
    most = max(2, 8 * 224**2 // recipe.image_size**2)
    size = recipe.batch_size if device.type == "cuda" else min(recipe.batch_size, most)
    method = dataclasses.replace(recipe.method, pretrained="none")
    network = method.network(num_classes).to(device, memory_format=memory_format())
    criterion = method.criterion(num_classes).to(device)
    step = Step(network, criterion, wants_bf16(recipe.amp, device))
    optimizer = make_optimizer(recipe.optimizer, [*step.parameters()], lr=0.0)
    images = torch.randn(size, 3, recipe.image_size, recipe.image_size, device=device)
    images = images.contiguous(memory_format=memory_format())
    labels = torch.arange(size, device=device) % num_classes
    times = []
    for _ in range(4):
        started = time.perf_counter()
        total, _, _ = step(images, labels)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return min(times[1:]) / size
