"""What a run folder holds, and whether a run may go on from it."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from common.errors import InputError

from .checkpoint import (
    BEST,
    LAST,
    load_checkpoint,
    restore_random_states,
    save_checkpoint,
)
from .recipe import Recipe, flag_fields, plain, settings

FILES = ("config.json", "metrics.csv", LAST, BEST)


def claim(folder: Path, recipe: Recipe) -> dict[str, Any] | None:
    """The checkpoint from which a run goes on in a folder; None where it starts.

    To be called by the process that holds the folder (`run_lock`).

    Raises InputError where the folder holds a run that is not to be resumed, one with other
    settings, or a checkpoint that cannot be read.
    """
    held = [name for name in FILES if (folder / name).exists()]
    if held and not recipe.resume:
        raise InputError(
            f"{folder} already holds a run ({', '.join(held)}); use --resume to go on with it, "
            "or another --output or --seed"
        )
    for name in FILES:
        # A run that was killed while it wrote leaves the part that it had written.
        for part in folder.glob(f".{name}.*"):
            part.unlink(missing_ok=True)
    path = newest(folder)
    if path is None:
        return None
    checkpoint = load_checkpoint(path)
    if not isinstance(checkpoint.get("settings"), dict):
        raise InputError(f"{path} cannot be resumed: it is not a checkpoint of ours")
    differing = differences(checkpoint, recipe)
    if differing:
        raise InputError(f"{folder} was run with other settings: {'; '.join(differing)}")
    try:
        _check(checkpoint)
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} cannot be resumed: {_reason(error)}") from error
    if path.name == BEST:
        save_checkpoint(folder / LAST, checkpoint)
    return checkpoint


def newest(folder: Path) -> Path | None:
    """Of last.pth and best.pth the one with more epochs, last.pth of equals.

    best.pth is written first, and holds as much: a run may have ended between the two.
    """
    epochs = {}
    for name in (LAST, BEST):
        if not (folder / name).exists():
            continue
        try:
            epochs[folder / name] = load_checkpoint(folder / name).get("iter")
        except InputError as error:
            other = BEST if name == LAST else LAST
            hint = f"; to go on from {other}, delete it" if (folder / other).exists() else ""
            raise InputError(f"{error}{hint}") from error
    # What has no number of epochs comes first, to be complained about.
    return max(
        epochs,
        key=lambda path: epochs[path] if type(epochs[path]) is int else math.inf,
        default=None,
    )


def differences(checkpoint: dict[str, Any], recipe: Recipe) -> list[str]:
    """The settings that decide the result and are not those of a checkpoint, in words.

    A setting that is younger than the checkpoint had the default of its flag.
    """
    theirs, ours = checkpoint["settings"], settings(recipe, result_only=True)
    fields = {field.name: field for _, field in flag_fields(recipe)}
    found = []
    if checkpoint.get("recipe") != recipe.name:
        found.append(f"the recipe was {checkpoint.get('recipe')}, is now {recipe.name}")
    for name, value in ours.items():
        flag, default = f"--{name.replace('_', '-')}", fields[name].default
        if name not in theirs and default is dataclasses.MISSING:
            found.append(f"{flag} was not noted, is now {value}")
            continue
        before = theirs.get(name, plain(default))
        # A tensor cannot be asked; 1 and True are equal, and so are 1 and 1.0.
        known = isinstance(before, str | int | float | None)
        if not known or before != value or isinstance(before, bool) != isinstance(value, bool):
            found.append(f"{flag} was {before}, is now {value}")
    found += [
        f"--{str(name).replace('_', '-')} was {value}, and is no flag of this version"
        for name, value in theirs.items()
        if name not in fields
    ]
    return found


def restore_states(run: Any, content: dict[str, Any]) -> None:
    """Put network, centres, optimiser, scheduler and random generators of a run back.

    Raises InputError where a state is not one that this run could have written.
    """
    try:
        run.network.load_state_dict(content["model_state_dict"])
        run.criterion.load_state_dict(content["criterion_state_dict"])
        _restore_optimizer(run.optimizer, run.recipe, content["optimizer_state_dict"])
        _restore_scheduler(run.scheduler, content)
        _restore_generators(content["random_states"])
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise InputError(
            f"the checkpoint in {run.folder} does not fit the run: {_reason(error)}; it was "
            "changed or damaged; start another run with --output"
        ) from error


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__} {text}" if isinstance(error, KeyError) else text[:300]


def _check(content: dict[str, Any]) -> None:
    """Raises where the parts of a checkpoint are not of the kinds that `Run.content` writes."""
    states = ("optimizer", "criterion", "scheduler")
    kinds = {"iter": int, "metrics": list, "random_states": dict}
    kinds |= {f"{name}_state_dict": dict for name in states}
    for name, kind in kinds.items():
        value = content.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise TypeError(f"its {name} is no {kind.__name__}")
    rows, epochs = content["metrics"], content["iter"]
    if epochs < 1 or len(rows) != epochs:
        raise ValueError(f"it is from epoch {epochs}, but has the metrics of {len(rows)}")
    for number, row in enumerate(rows, start=1):
        names = list(row) if isinstance(row, dict) else None
        if names is None or names != list(rows[0]) or not all(map(_is_name, names)):
            raise ValueError(f"its metrics of epoch {number} are not like those of the first")
        if not all(type(value) in (int, float) for value in row.values()):
            raise TypeError(f"its metrics of epoch {number} are not numbers alone")
        if row["epoch"] != number or not math.isfinite(row["accuracy"]):
            raise ValueError(f"its metrics of epoch {number} are of epoch {row['epoch']}")


def _is_name(value: Any) -> bool:
    return str(value).isidentifier()


def _restore_optimizer(optimizer: Optimizer, recipe: Recipe, state: dict[str, Any]) -> None:
    """`load_state_dict`, which itself takes anything, with a look at what came out of it."""
    before = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict(state)
    for old, new in zip(before, optimizer.param_groups, strict=True):
        for name in old:
            if name != "params" and not _alike(old[name], new[name]):
                raise ValueError(f"the optimiser's {name} is {new[name]!r}")
    names = _state_names(recipe)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            values = optimizer.state.get(parameter) or {}
            fits = all(
                isinstance(value, Tensor)
                and value.is_floating_point()
                and value.shape in (parameter.shape, ())
                for value in values.values()
            )
            if values and (set(values) != names or not fits):
                raise ValueError("the optimiser's state is not that of its parameters")


def _state_names(recipe: Recipe) -> set[str]:
    """What the recipe's optimiser keeps of a parameter, told by a step on one."""
    parameter = nn.Parameter(torch.zeros(2))
    probe = recipe.optimizer([parameter], lr=recipe.lr)
    parameter.grad = torch.ones(2)
    probe.step()
    return set(probe.state[parameter])


def _restore_scheduler(scheduler: LRScheduler, content: dict[str, Any]) -> None:
    """`load_state_dict`, which itself would replace methods, of values like those it has."""
    state, own = content["scheduler_state_dict"], scheduler.state_dict()
    for name, value in state.items():
        # Another release of torch may keep more, or less.
        known = name in own
        if (known and not _alike(own[name], value)) or (not known and hasattr(scheduler, name)):
            raise ValueError(f"the scheduler's {name} is {value!r}")
    if state["last_epoch"] != content["iter"]:
        raise ValueError(f"the scheduler is at epoch {state['last_epoch']}")
    scheduler.load_state_dict(state)


def _restore_generators(states: dict[str, Any]) -> None:
    name, keys, position, _, _ = states["numpy"]
    # numpy would read beyond its keys.
    if name != "MT19937" or keys.shape != (624,) or not 0 <= position <= 624:
        raise ValueError("numpy's random state is not one")
    restore_random_states(states)


def _alike(own: Any, given: Any) -> bool:
    """Whether a value is of the kind of another: a truth, a finite number, a list of as many."""
    if isinstance(own, list | tuple):
        same = isinstance(given, list | tuple) and len(given) == len(own)
        return same and all(map(_alike, own, given))
    if own is None or isinstance(own, bool | str) or isinstance(given, bool):
        return type(own) is type(given)
    return isinstance(given, int | float) and math.isfinite(given)
