"""Declaring a dataclass field as a command-line flag; `engine.recipe` turns them into argparse."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def flag(
    default: Any = dataclasses.MISSING,
    *,
    help: str,
    choices: Sequence[str] | Mapping[str, Any] | None = None,
    check: Callable[[Any], bool] | None = None,
    expected: str = "",
    affects_result: bool = True,
) -> Any:
    """A dataclass field that is also the flag `--field-name`.

    default: the recipe's value where a train script gives none.
    choices: the values allowed; a mapping gives the object that each name stands for, which is
        how a field that holds a callable can be chosen on the command line.
    check, expected: a test of the parsed value and, in words, what passes it.
    affects_result: False for what may differ between a run and its `--resume` (device, workers).
    """
    metadata = {
        "help": help,
        "choices": choices,
        "check": check,
        "expected": expected,
        "affects_result": affects_result,
    }
    return dataclasses.field(default=default, metadata=metadata)


def positive(value: float) -> bool:
    """For `check`: a number above zero (infinity and nan are not)."""
    return 0 < value < float("inf")


def not_negative(value: float) -> bool:
    """For `check`: a finite number from zero up."""
    return 0 <= value < float("inf")
