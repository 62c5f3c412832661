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
    """One golden file: "dan_7classes_4heads", or "rivals/scn"."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def golden_stream(name: str, salt: str) -> np.random.RandomState:
    """The random numbers that a tensor of a case is made of."""
    return np.random.RandomState(zlib.crc32((salt + name).encode()))


def rebuilt_weight(name: str, shape: Iterable[int], salt: str) -> np.ndarray:
    """The value of a tensor of the network; the rules in the README's order."""
    shape = tuple(shape)
    stream = golden_stream(name, salt)
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
    images = golden_stream("input", salt).standard_normal((batch, 3, size, size))
    labels = golden_stream("labels", salt).randint(0, case["classes"], batch)
    centers = golden_stream("centers", salt).standard_normal((case["classes"], 512))
    return torch.from_numpy(images), torch.from_numpy(labels).long(), torch.from_numpy(centers)


def assert_agrees(ours: Tensor | float, expected: Any) -> None:
    """1e-9 relative in float64; numbers that cancel to almost 0 relative to the largest one."""
    ours = torch.as_tensor(ours, dtype=torch.float64) if isinstance(ours, float) else ours
    assert ours.dtype == torch.float64
    expected = np.asarray(expected, dtype=np.float64)
    noise = 1e-12 * np.abs(expected).max()
    np.testing.assert_allclose(ours.detach().numpy(), expected, rtol=1e-9, atol=noise)


class RivalsCase:
    """A golden file of the rivals and the tensors it was computed with, float64."""

    def __init__(self, name: str):
        self.values = load_case(f"rivals/{name}")
        self.labels = torch.tensor(self.values["labels"])

    def __getitem__(self, key: str) -> Any:
        return self.values[key]

    def normal(self, name: str, *shape: int, scale: float = 1.0) -> Tensor:
        """A tensor of normal numbers by its name."""
        numbers = golden_stream(name, self["salt"]).standard_normal(shape)
        return torch.from_numpy(scale * numbers).requires_grad_()

    def positive(self, name: str, *shape: int, scale: float = 1.0) -> Tensor:
        """`normal`, with negative numbers as 0."""
        return self.normal(name, *shape, scale=scale).detach().relu().requires_grad_()

    def fill(self, module: torch.nn.Module) -> None:
        """Give the parameters of a float64 module, all but its backbone's, their values."""
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                if not name.startswith("features."):
                    value = rebuilt_weight(name, parameter.shape, self["salt"])
                    parameter.copy_(torch.from_numpy(value))
