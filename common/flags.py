"""Dataclass fields that are command-line flags: declaring them, reading them, writing them down."""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, get_type_hints

from .cli import Parser
from .errors import InputError


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
    check, expected: a test of the parsed value and, in words, what passes it; the words of the
        checks below are known.
    affects_result: False for what may change between a run and its `--resume` (device, workers).
    """
    metadata = {
        "help": help,
        "choices": choices,
        "check": check,
        "expected": expected or EXPECTED.get(check, ""),
        "affects_result": affects_result,
    }
    return dataclasses.field(default=default, metadata=metadata)


def positive(value: float) -> bool:
    """For `check`: a number above zero (infinity and nan are not)."""
    return 0 < value < float("inf")


def not_negative(value: float) -> bool:
    """For `check`: a finite number from zero up."""
    return 0 <= value < float("inf")


def fraction(value: float) -> bool:
    """For `check`: a number from zero up and below one."""
    return 0 <= value < 1


def seed_number(value: int) -> bool:
    """For `check`: a seed that Python, numpy and torch all take."""
    return 0 <= value < 2**32


EXPECTED = {
    positive: "above 0",
    not_negative: "at least 0",
    fraction: "0 up to, not including, 1",
    seed_number: "0 to 4294967295",
}


def flag_fields(recipe: Any) -> Iterator[tuple[Any, dataclasses.Field]]:
    """(owner, field) of every flag of a recipe, nested dataclasses included, in order."""
    for field in dataclasses.fields(recipe):
        value = getattr(recipe, field.name)
        if "help" in field.metadata:
            yield recipe, field
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            yield from flag_fields(value)


def settings(recipe: Any, *, result_only: bool = False) -> dict[str, Any]:
    """The flags' values as plain types, by name; callables as text.

    result_only leaves out what may change between a run and its `--resume`.
    """
    return {
        field.name: plain_value(getattr(owner, field.name))
        for owner, field in flag_fields(recipe)
        if field.metadata["affects_result"] or not result_only
    }


def plain_value(value: Any) -> Any:
    """A flag's value as a plain type; a callable becomes its name and arguments, as text."""
    if isinstance(value, partial):
        arguments = ", ".join(f"{key}={item!r}" for key, item in value.keywords.items())
        return f"{value.func.__name__}({arguments})"
    return value.__name__ if callable(value) else value


def parse_flags(recipe: Any, description: str, arguments: Sequence[str] | None = None) -> Any:
    """The recipe with the flags of the command line; `--help` shows the recipe's values.

    Raises InputError for an unknown flag and for a value of the wrong type or out of range.
    """
    parser = Parser(description)
    for owner, field in flag_fields(recipe):
        _add_flag(parser, owner, field)
    given = vars(parser.parse_args(arguments))
    return _replace(recipe, given)


def _add_flag(parser: argparse.ArgumentParser, owner: Any, field: dataclasses.Field) -> None:
    name = "--" + field.name.replace("_", "-")
    current = getattr(owner, field.name)
    default = f" [{plain_value(current)}]" if current != "" else ""
    shown = (field.metadata["help"] + default).replace("%", "%%")
    if isinstance(current, bool):
        parser.add_argument(
            name,
            action="store_true",
            default=argparse.SUPPRESS,
            help=field.metadata["help"],
        )
        return
    choices = field.metadata["choices"]
    kind = str if choices else get_type_hints(type(owner))[field.name]
    parser.add_argument(
        name,
        type=kind,
        choices=choices and list(choices),
        default=argparse.SUPPRESS,
        help=shown,
        metavar=None if choices else {int: "N", float: "X"}.get(kind, "VALUE"),
    )


def _replace(owner: Any, given: Mapping[str, Any]) -> Any:
    """A copy of a dataclass, and of those nested in it, with the given flags."""
    changes = {}
    for field in dataclasses.fields(owner):
        value = getattr(owner, field.name)
        if "help" in field.metadata:
            if field.name in given:
                changes[field.name] = _checked(field, given[field.name])
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            changes[field.name] = _replace(value, given)
    return dataclasses.replace(owner, **changes)


def flags_from(owner: Any, values: Mapping[str, Any]) -> Any:
    """A copy of a dataclass with those of its flags that are in a file's `settings`.

    For fields of plain types. Raises InputError for a value that its flag does not take.
    """
    given = {}
    for _, field in flag_fields(owner):
        value = values.get(field.name, field.default)
        choices = field.metadata["choices"]
        if type(value) is not type(field.default) or (choices and value not in choices):
            raise InputError(f"the setting {field.name} is {value!r}, which its flag does not take")
        given[field.name] = value
    return _replace(owner, given)


def _checked(field: dataclasses.Field, value: Any) -> Any:
    check, choices = field.metadata["check"], field.metadata["choices"]
    not_a_number = isinstance(value, float) and math.isnan(value)
    if not_a_number or (check is not None and not check(value)):
        raise InputError(
            f"--{field.name.replace('_', '-')} is {value}; expected {field.metadata['expected']}"
        )
    return choices[value] if isinstance(choices, Mapping) else value
