"""Checkpoints: the released layout, and beside it what is needed to resume and to evaluate.

A checkpoint holds tensors and basic types alone, so it loads with `weights_only=True`:

    iter                    finished epochs (as released)
    model_state_dict        the network (as released); with --ema, its moving average
    raw_state_dict          with --ema, the network that training continues with
    optimizer_state_dict    the network's parameters, then the centers (as released); with
                            --backbone-lr, the backbone's in a group of their own
    criterion_state_dict    the centers
    scheduler_state_dict
    recipe, settings        the recipe's name, and the value of every flag
    dataset, class_names    the data set's name, its classes in label order,
    framing                 and how its images are cut
    training_images         their number, so that a run is not resumed with other data
    training_labels         and a checksum (CRC-32) of their labels, for the same reason
    fold_checksum           with --fold, of the images that were held out
    metrics                 one dict per epoch, the rows of metrics.csv
    random_states           of Python, numpy, torch and each GPU
    temperature             what divides the logits of calibrated probabilities (tools.calibrate)
"""

from __future__ import annotations

import dataclasses
import math
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.errors import InputError
from common.files import load_checkpoint, write_whole
from common.flags import flag_fields, plain_value, settings
from common.random_states import random_states, restore_random_states

from .evaluate import Predictions
from .folds import fold_checksum
from .optim import KERNELS
from .recipe import Recipe
from .run_folder import BEST, LAST, add_speed, write_metrics, write_predictions

#: The entries of a checkpoint that resuming needs, with their types.
PARTS = {
    "iter": int,
    "training_images": int,
    "metrics": list,
    "settings": dict,
    "random_states": dict,
    "optimizer_state_dict": dict,
    "criterion_state_dict": dict,
    "scheduler_state_dict": dict,
}


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint atomically: `path` always holds the complete old or new one."""
    write_whole(path, lambda stream: torch.save(content, stream))


def save_run(run: Any, found: Predictions, images_per_second: float) -> None:
    """Write an epoch's csv files, last.pth, and best.pth if it is the best so far."""
    write_metrics(run.folder, run.rows)
    write_predictions(run.folder, found)
    add_speed(run.folder, run.epoch, images_per_second)
    content = content_of(run)
    if run.best_row() is run.rows[-1]:
        save_checkpoint(run.folder / BEST, content)
    # Written last, since --resume reads it: a run killed before this repeats the epoch.
    save_checkpoint(run.folder / LAST, content)


def content_of(run: Any) -> dict[str, Any]:
    """The checkpoint of a run, taken between two epochs."""
    return {
        "iter": run.epoch,
        "model_state_dict": run.result.state_dict(),
        **({"raw_state_dict": run.network.state_dict()} if run.average is not None else {}),
        "optimizer_state_dict": run.optimizer.state_dict(),
        "criterion_state_dict": run.criterion.state_dict(),
        "scheduler_state_dict": run.scheduler.state_dict(),
        "recipe": run.recipe.name,
        "settings": settings(run.recipe),
        **run.dataset.description(),
        "training_images": len(run.training.dataset),
        "training_labels": zlib.crc32(repr(run.training.dataset.labels).encode()),
        **fold_entry(run),
        "metrics": run.rows,
        "random_states": random_states(),
    }


def fold_entry(run: Any) -> dict[str, int]:
    """What a checkpoint holds of the fold that was held out; nothing without --fold."""
    images = run.evaluation.dataset
    if not run.recipe.fold:
        return {}
    return {"fold_checksum": fold_checksum(images.dataset, images.indices)}


def checkpoint_to_resume(folder: Path, recipe: Recipe) -> dict[str, Any] | None:
    """The checkpoint from which to resume the run in a folder; None if there is none.

    This is last.pth or best.pth, whichever has more epochs: best.pth is written first, has the
    same content, and a run may have been killed between the two.

    Raises InputError where the checkpoint cannot be read or its run had other settings.
    """
    found = {}
    for path in (folder / LAST, folder / BEST):
        if path.exists():
            found[path] = load_checkpoint(path)
            for name, kind in PARTS.items():
                value = found[path].get(name)
                if not isinstance(value, kind) or isinstance(value, bool):
                    raise InputError(f"{path} cannot be resumed: {name} should be {kind.__name__}")
    if not found:
        return None
    path = max(found, key=lambda path: found[path]["iter"])
    checkpoint, rows = found[path], found[path]["metrics"]
    if differing := differences(checkpoint, recipe):
        raise InputError(f"{folder} was run with other settings: {'; '.join(differing)}")
    if not (1 <= checkpoint["iter"] == len(rows) and all(_is_row(row, rows[0]) for row in rows)):
        raise InputError(f"{path} cannot be resumed: its metrics are not one row per epoch")
    if path.name == BEST:
        save_checkpoint(folder / LAST, checkpoint)
    return checkpoint


def _is_row(row: Any, first: Any) -> bool:
    """Whether a row of metrics has the first row's names and only finite numbers."""
    same = isinstance(row, dict) and list(row) == list(first) and {"epoch", "accuracy"} <= set(row)
    return same and all(type(v) in (int, float) and math.isfinite(v) for v in row.values())


def differences(checkpoint: dict[str, Any], recipe: Recipe) -> list[str]:
    """The settings that affect the result and differ from a checkpoint's, in words.

    A setting that was added after the checkpoint was written counts as its flag's default.
    """
    theirs, ours = checkpoint["settings"], settings(recipe, result_only=True)
    fields = {field.name: field for _, field in flag_fields(recipe)}
    found = []
    if checkpoint.get("recipe") != recipe.name:
        found.append(f"the recipe was {checkpoint.get('recipe')}, is now {recipe.name}")
    for name, value in ours.items():
        default = fields[name].default
        missing = None if default is dataclasses.MISSING else plain_value(default)
        before = theirs.get(name, missing)
        # 1 and True are equal, and a tensor cannot be compared.
        if type(before) is not type(value) or before != value:
            found.append(f"--{name.replace('_', '-')} was {before}, is now {value}")
    # A flag that is gone and was off has changed nothing.
    unknown = [str(k) for k, value in theirs.items() if k not in fields and value is not False]
    return found + [f"--{name.replace('_', '-')} is not a flag of this version" for name in unknown]


def restore(run: Any, checkpoint: dict[str, Any]) -> None:
    """Restore network, centers, optimiser, scheduler and random generators of a run.

    Raises InputError where a name, a shape or a type differs from what this run would write.
    """
    own, images = content_of(run), checkpoint["training_images"]
    if images != own["training_images"]:
        raise InputError(
            f"{run.folder} was trained on {images} images, {run.dataset.root} now gives "
            f"{own['training_images']}; restore the data, or start another run with --output"
        )
    # Checkpoints of older versions have none.
    if checkpoint.get("training_labels", own["training_labels"]) != own["training_labels"]:
        raise InputError(
            f"{run.folder} was trained with other labels of the same {images} images; restore the "
            "data or the file of --noisy-labels, or start another run with --output"
        )
    try:
        for part in ("model", "raw", "criterion", "scheduler"):
            name = f"{part}_state_dict"
            _check_like(name, own.get(name), checkpoint.get(name))
        _check_optimizer(own["optimizer_state_dict"], checkpoint["optimizer_state_dict"], run)
        for name in ("python", "numpy", "torch"):  # the number of GPUs may differ
            theirs = checkpoint["random_states"].get(name)
            _check_like(f"random_states {name}", own["random_states"][name], theirs)
        run.result.load_state_dict(checkpoint["model_state_dict"])
        run.network.load_state_dict(
            checkpoint.get("raw_state_dict", checkpoint["model_state_dict"])
        )
        run.criterion.load_state_dict(checkpoint["criterion_state_dict"])
        run.optimizer.load_state_dict(checkpoint["optimizer_state_dict"])
        run.scheduler.load_state_dict(checkpoint["scheduler_state_dict"])
        restore_random_states(checkpoint["random_states"])
        run.epoch = run.saved = checkpoint["iter"]
        run.rows = checkpoint["metrics"]
        if run.average is not None:
            run.average.n_averaged += run.epoch * len(run.training)
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise InputError(
            f"the checkpoint in {run.folder} does not fit the run: {' '.join(str(error).split())}; "
            "the file was modified or damaged; start another run with --output"
        ) from error


def _check_like(where: str, own: Any, given: Any) -> None:
    """Raises ValueError where `given` differs from `own` in names, shapes or types."""
    if isinstance(own, Tensor):
        fits = isinstance(given, Tensor) and (given.shape, given.dtype) == (own.shape, own.dtype)
    elif isinstance(own, dict):
        fits = isinstance(given, dict) and list(given) == list(own)
    elif isinstance(own, list | tuple):
        fits = isinstance(given, list | tuple) and len(given) == len(own)
    else:
        numbers = isinstance(own, int | float) and not isinstance(own, bool)
        fits = type(given) in ((int, float) if numbers else (type(own),))
    if not fits:
        raise ValueError(f"{where} is not what this version writes")
    if isinstance(own, dict | list | tuple):
        for name in own if isinstance(own, dict) else range(len(own)):
            _check_like(f"{where} {name}", own[name], given[name])


def _check_optimizer(own: dict[str, Any], given: dict[str, Any], run: Any) -> None:
    """`_check_like` for an optimiser, which has no state before its first step."""
    # Which kernels it uses depends on the machine (engine/optim.py).
    groups, saved = (
        [{name: v for name, v in group.items() if name not in KERNELS} for group in side]
        for side in (own["param_groups"], given["param_groups"])
    )
    _check_like("param_groups", groups, saved)
    parameters = [p for group in run.optimizer.param_groups for p in group["params"]]
    states = given["state"]
    if states and list(states) != list(range(len(parameters))):
        raise ValueError("the optimiser's state belongs to other parameters")
    for number, state in states.items():
        shapes = (parameters[number].shape, ())
        tensors = all(isinstance(v, Tensor) and v.shape in shapes for v in state.values())
        if not tensors or list(state) != list(states[0]):
            raise ValueError(f"the optimiser's state of parameter {number} has another layout")
