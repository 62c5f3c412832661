"""The golden cases, and the weights they were computed with (recipe in golden/README.md)."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from math import prod, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(__file__).parents[1] / "golden"
CASES = ("dan_7classes_4heads", "dan_8classes_1head")
STATE_DICT_TABLE = FOLDER / "state_dict_7classes_4heads.csv"


def load_case(name: str) -> dict[str, Any]:
    """One golden file."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def _stream(name: str, salt: str) -> np.random.RandomState:
    return np.random.RandomState(zlib.crc32((salt + name).encode()))


def rebuilt_weight(name: str, shape: Iterable[int], salt: str) -> np.ndarray:
    """The value of a tensor of the network; the rules in the README's order."""
    shape = tuple(shape)
    stream = _stream(name, salt)
    branch_norm = 0.01 if ".sa.conv_" in name and ".1." in name else 1.0
    if name.endswith(".num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if name.endswith(".running_var"):
        return stream.uniform(0.5, 1.5, shape)
    if name.endswith(".running_mean"):
        return 0.1 * stream.standard_normal(shape)
    if name.endswith(".weight") and len(shape) == 1:
        residual_norm = 0.2 if branch_norm == 1 and name.endswith("bn2.weight") else 1.0
        return stream.uniform(0.5, 1.5, shape) * branch_norm * residual_norm
    if name.endswith(".bias"):
        return 0.1 * stream.standard_normal(shape) * branch_norm
    return stream.standard_normal(shape) * sqrt(2 / prod(shape[1:]))


def rebuilt_state_dict(expected: Mapping[str, Tensor], salt: str) -> dict[str, Tensor]:
    """Values for every name of a state dict, float64."""
    return {
        name: torch.from_numpy(np.asarray(rebuilt_weight(name, tensor.shape, salt)))
        for name, tensor in expected.items()
    }


def rebuilt_batch(case: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Images (B, 3, S, S), labels (B,) and centers (C, 512) of a case, float64."""
    salt, batch, size = case["salt"], case["batch"], case["image_size"]
    images = _stream("input", salt).standard_normal((batch, 3, size, size))
    labels = _stream("labels", salt).randint(0, case["classes"], batch)
    centers = _stream("centers", salt).standard_normal((case["classes"], 512))
    return torch.from_numpy(images), torch.from_numpy(labels).long(), torch.from_numpy(centers)
