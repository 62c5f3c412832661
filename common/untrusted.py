"""Torch files from strangers: what is looked at before torch reads one, and at what it gave."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .errors import InputError

PLAIN = (str, bytes, int, float, bool, type(None), torch.dtype, torch.device)
DTYPES = {
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool),
}
MAX_DEPTH = 50
#: Tensors of a file may share memory (tied weights), but not claim many times what it holds.
MAX_SHARING = 2


# --------------------------------------------------------------------------------------------
# Before


def check_archive(path: Path) -> None:
    """Refuse a zip file that would grow in memory: torch packs nothing and stores nothing twice.

    Raises InputError; says nothing of what is no zip file (the format before torch 1.6).
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return
    end = 0
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise InputError(
                f"{path} holds {entry.filename!r} compressed, {entry.file_size:,} bytes when "
                "unpacked; torch compresses nothing, so this is not what torch.save wrote"
            )
        if entry.header_offset < end:
            raise InputError(
                f"{path} holds {entry.filename!r} overlapping another entry; not what torch.save "
                "wrote"
            )
        end = entry.header_offset + 30 + entry.compress_size


class _PlainType:
    """In the place of `numpy.dtype`: the types of single numbers, and nothing else."""

    def __init__(self, code: str, _align: bool = False, _copy: bool = True):
        if not isinstance(code, str) or code not in _NUMBERS:
            raise ValueError(f"the numpy type {code!r} is no number's")
        self.code, self.order = code, "<"

    def __setstate__(self, state: tuple) -> None:
        # (version, byte order, ...): of single numbers the rest says nothing.
        if state[1] not in ("<", ">", "|", "="):
            raise ValueError(f"the byte order {state[1]!r}")
        self.order = state[1]


_NUMBERS = {"f8": "d", "f4": "f", "i8": "q", "i4": "i", "i2": "h", "i1": "b", "b1": "?"} | {
    "u8": "Q",
    "u4": "I",
    "u2": "H",
    "u1": "B",
}


def _plain_number(kind: _PlainType, content: bytes) -> float:
    """In the place of numpy's scalar: the Python number that its bytes stand for."""
    import struct

    if not isinstance(kind, _PlainType) or not isinstance(content, bytes):
        raise ValueError("a numpy number that is none")
    order = kind.order if kind.order in "<>" else "<"
    return struct.unpack(order + _NUMBERS[kind.code], content)[0]


#: Old files hold accuracies as numpy numbers. They are read as Python's, without numpy's own code.
SAFE_GLOBALS = [
    (_plain_number, "numpy.core.multiarray.scalar"),
    (_plain_number, "numpy._core.multiarray.scalar"),
    (_PlainType, "numpy.dtype"),
]


# --------------------------------------------------------------------------------------------
# After


def check_content(content: dict, path: Path) -> None:
    """Refuse what no training writes and what would harm whoever goes on with it.

    That is: other things than containers, plain values and dense tensors of real numbers on the
    CPU; tensors that claim more than the file holds; numbers that are not finite; containers
    within themselves, which grow without end when they are printed or copied.

    Raises InputError that names the place in the file.
    """
    claimed, limit = 0, MAX_SHARING * path.stat().st_size + 2**20
    for where, value in _leaves(content, path):
        if not isinstance(value, Tensor):
            _check_plain(where, value, path)
            continue
        complaint = _complaint(value)
        if complaint:
            raise InputError(f"{path}: {where} {complaint}; fetch or write the file again")
        claimed += value.numel() * value.element_size()
        if claimed > limit:
            raise InputError(
                f"{path}: its tensors claim more than {limit:,} bytes, {where} among them, but the "
                f"file has {path.stat().st_size:,}"
            )


def _leaves(content: dict, path: Path) -> Iterator[tuple[str, Any]]:
    """(place, value) of all that is no container; raises InputError for strange containers."""
    stack: list[tuple[str, Any, int]] = [("", content, 0)]
    seen: set[int] = set()
    while stack:
        where, value, depth = stack.pop()
        if not isinstance(value, dict | list | tuple | set | frozenset):
            yield where, value
            continue
        pairs = list(value.items() if isinstance(value, dict) else enumerate(value))
        nested = any(isinstance(item, dict | list | tuple | set | frozenset) for _, item in pairs)
        if depth > MAX_DEPTH or (nested and id(value) in seen):
            raise InputError(f"{path}: {where[:100]} is nested too deeply or in itself")
        seen.add(id(value))
        for key, item in reversed(pairs):
            _check_plain(where, key, path)
            stack.append((f"{where}/{str(key)[:60]}" if where else str(key)[:60], item, depth + 1))


def _check_plain(where: str, value: Any, path: Path) -> None:
    if not isinstance(value, PLAIN):
        raise InputError(
            f"{path}: {where or 'a key'} is a {type(value).__name__}; expected tensors and plain "
            "values"
        )
    if isinstance(value, int) and abs(value) >= 2**64:
        raise InputError(f"{path}: {where} is a whole number beyond 64 bits")


def _complaint(tensor: Tensor) -> str:
    """What is wrong with a tensor from a file; "" where nothing is."""
    if type(tensor) not in (Tensor, nn.Parameter):
        return f"is a {type(tensor).__name__}; expected a plain tensor"
    if tensor.layout != torch.strided or tensor.is_nested:
        return f"is a tensor of layout {tensor.layout}; expected a dense one"
    if tensor.device.type != "cpu":
        return f"is a tensor without data (device {tensor.device}); expected one with data"
    if tensor.dtype not in DTYPES:
        return f"is a tensor of {tensor.dtype}; expected real numbers"
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return f"claims {tensor.numel():,} numbers, more than the file holds of it"
    if tensor.is_floating_point() and tensor.numel():
        low, high = torch.aminmax(tensor.detach())
        if not (low.isfinite() and high.isfinite()):
            return "holds numbers that are not finite"
    return ""
