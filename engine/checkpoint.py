"""Checkpoints: the released layout, and beside it what is needed to go on and to evaluate.

A checkpoint holds tensors and basic types alone, so it loads with `weights_only=True`:

    iter                    epochs done (as released)
    model_state_dict        the network (as released)
    optimizer_state_dict    one group: the network's parameters, then the centres (as released)
    criterion_state_dict    the centres
    scheduler_state_dict
    recipe, settings        the recipe's name, and the value of every flag
    dataset, class_names    the data set's name, and its classes in label order
    training_images         how many, so that a run does not go on with other data
    metrics                 one dict an epoch, the rows of metrics.csv
    random_states           of Python, numpy, torch and each GPU
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.errors import InputError
from common.files import load_tensors, write_whole

from .recipe import BEST, LAST

__all__ = [
    "BEST",
    "LAST",
    "load_checkpoint",
    "random_states",
    "restore_random_states",
    "save_checkpoint",
    "seed_everything",
]


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint; `path` holds the old one or the new one, whole, at any moment."""
    write_whole(path, lambda stream: torch.save(content, stream))


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint in our layout or the released one, onto the CPU.

    Raises InputError where the file is missing, truncated, unsafe, or no checkpoint.
    """
    content = load_tensors(Path(path), "checkpoint")
    if not isinstance(content.get("model_state_dict"), dict):
        names = ", ".join(str(name) for name in list(content)[:6]) or "nothing"
        raise InputError(
            f"{path} is no checkpoint: it has no dict model_state_dict, but {names}; expected "
            "a file that a train script wrote or one of the release"
        )
    return content


def random_states() -> dict[str, Any]:
    """The state of every random generator of this process, as tensors and basic types."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "python": [version, list(internal), gauss],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_states(states: dict[str, Any]) -> None:
    """Put every generator back; GPU states only where as many GPUs are there."""
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(states["torch"])
    if torch.cuda.is_available() and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])


def seed_everything(seed: int) -> None:
    """Seed Python's, numpy's and torch's generators."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
