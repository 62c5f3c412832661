"""Accuracy by pose: how well a network recognises expressions of faces that look to the side."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import InputError
from datasets import FaceDataset
from datasets.targets import known_yaws
from engine.evaluate import Predictions
from networks.rivals.phanet import POSE_EDGES, pose_bins


@contextmanager
def pose_logits_of(network: nn.Module) -> Iterator[list[Tensor]]:
    """A list of the `pose_logits` (B, bins) of the network's outputs; empty if it has none."""
    found: list[Tensor] = []

    def keep(module: nn.Module, images: tuple, output: Any) -> None:
        if hasattr(output, "pose_logits"):
            found.append(output.pose_logits)

    hook = network.register_forward_hook(keep)
    try:
        yield found
    finally:
        hook.remove()


def yaws_for(network: nn.Module, dataset: FaceDataset) -> Tensor | None:
    """The yaw (N,) of every image of the split, degrees; None where the data set has none.

    Yaws that do not fit are left out with a line that says so, unless the network predicts poses.
    Then they raise InputError.
    """
    try:
        return known_yaws(dataset)
    except InputError as error:
        if hasattr(network, "pose_edges"):
            raise
        print(f"no accuracy by pose: {error}", flush=True)
        return None


def pose_metrics(
    network: nn.Module, yaws: Tensor | None, predictions: Predictions, pose_logits: list[Tensor]
) -> dict[str, Any] | None:
    """Images and accuracy of each bin of the yaw, and the accuracy of the pose if it is predicted.

    The bins are the network's, else `POSE_EDGES`; yaws are those of `yaws_for`, None without any.
    Fractions, None for a bin without images.
    """
    if yaws is None:
        return None
    edges = getattr(network, "pose_edges", torch.tensor(POSE_EDGES)).cpu()
    bins = pose_bins(yaws[predictions.indices], edges)
    right = (predictions.logits.argmax(dim=1) == predictions.labels).double()
    borders = [-90.0, *edges.tolist(), 90.0]
    rows = []
    for number in range(len(borders) - 1):
        inside = right[bins == number]
        rows.append(
            {
                "degrees": borders[number : number + 2],
                "images": len(inside),
                "accuracy": inside.mean().item() if len(inside) else None,
            }
        )
    content: dict[str, Any] = {"bins": rows}
    if pose_logits:
        predicted = torch.cat(pose_logits).argmax(dim=1).cpu()
        content["pose_accuracy"] = (predicted == bins).double().mean().item()
    return content


def pose_text(content: dict[str, Any]) -> str:
    """The same as lines of text."""
    lines = []
    if "pose_accuracy" in content:
        lines.append(f"pose accuracy        {100 * content['pose_accuracy']:5.2f} %")
    lines.append("yaw, degrees  images  accuracy")
    for row in content["bins"]:
        low, high = row["degrees"]
        share = "    -" if row["accuracy"] is None else f"{100 * row['accuracy']:5.2f} %"
        lines.append(f"{low:4g} to {high:<4g} {row['images']:7}   {share}")
    return "\n".join(["", *lines])
