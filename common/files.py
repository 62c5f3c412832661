"""Atomic file writes, and loading checkpoints without executing code."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor, nn

from .errors import InputError


def write_whole(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Write a file under a temporary name, flush it to the disk, then rename it to `path`.

    `path` always holds the complete old or the complete new content.

    Raises InputError where the folder is missing, read-only or full.
    """
    # A link is followed, not replaced; a device (/dev/stdout) or a pipe must not become a file.
    if path.exists() and not path.is_file():
        raise InputError(f"cannot write {path}: it exists and is not a regular file")
    path = path.resolve()
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error
    try:
        with os.fdopen(handle, "wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        # mkstemp makes files that only the owner can read; results get the usual permissions.
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(path)
        _flush_folder(path.parent)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        # torch's zip writer (inline_container.cc) turns the disk's error into a RuntimeError.
        writer = any(word in str(error) for word in ("PytorchStreamWriter", "inline_container"))
        full_disk = isinstance(error, RuntimeError) and writer
        if isinstance(error, OSError) or full_disk:
            reason = getattr(error, "strerror", None) or "the disk is full or gone"
            raise InputError(
                f"cannot write {path}: {reason}; the previous file is unchanged"
            ) from error
        raise


def _flush_folder(folder: Path) -> None:
    """Flush the renaming to the disk too, or a power cut could undo it; best effort."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _umask() -> int:
    # The umask can only be read by setting it.
    current = os.umask(0)
    os.umask(current)
    return current


def make_folder(folder: Path) -> None:
    """Make a folder and its parents; raises InputError where that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {folder}: {error.strerror}") from error


def write_text(path: Path, text: str) -> None:
    """`write_whole` for UTF-8 text."""
    write_whole(path, lambda stream: stream.write(text.encode()))


def write_json(path: Path, value: Any) -> None:
    """`write_whole` for JSON; raises ValueError for nan, which JSON does not have."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def load_tensors(path: str | Path, what: str) -> dict[str, Any]:
    """Read a torch file that holds a dict of tensors and basic types, onto the CPU.

    Nothing in the file is executed (`weights_only=True`). Every tensor is dense and finite and has
    its data. `what` names the file's role in messages ("checkpoint", "backbone weights").

    Raises InputError where the file is missing, truncated, unsafe, or not such a file.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{what} {path} does not exist or is not a file")
    try:
        with torch.serialization.safe_globals(SAFE_GLOBALS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's message has the reason after its advice on versions.
        found = " ".join(str(error).rpartition("WeightsUnpickler error:")[2].split())
        reason = found.partition(". ")[0][:200]
        raise InputError(
            f"{what} {path} holds more than tensors and plain values and is not loaded, since "
            f"it could run code ({reason}), or it is not a torch file"
        ) from error
    except Exception as error:  # torch's errors for arbitrary bytes have no common base
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{what} {path} cannot be read as a torch file: it is truncated or another kind of "
            f"file ({reason}); download or write it again"
        ) from error
    if not isinstance(content, dict):
        raise InputError(
            f"{what} {path} holds a {type(content).__name__}; expected a dict of tensors"
        )
    try:
        _check_content("", content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{what} {path}: {error}; download or write the file again") from error
    return content


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint in our layout or the released one, onto the CPU.

    Raises InputError where the file is missing, truncated, unsafe, or not a checkpoint.
    """
    content = load_tensors(Path(path), "checkpoint")
    if not isinstance(content.get("model_state_dict"), dict):
        names = ", ".join(str(name) for name in list(content)[:6]) or "nothing"
        raise InputError(
            f"{path} is not a checkpoint: it has {names}, but no dict model_state_dict; expected "
            "a file written by a train script or a released one"
        )
    return content


def _check_content(where: str, value: Any) -> None:
    """Raises ValueError for what a training run never writes: see `load_tensors`."""
    if isinstance(value, dict | list | tuple):
        for name, item in value.items() if isinstance(value, dict) else enumerate(value):
            _check_content(f"{where}/{name}" if where else str(name), item)
    elif isinstance(value, Tensor):
        if type(value) not in (Tensor, nn.Parameter) or value.layout != torch.strided:
            raise ValueError(f"{where} is not a plain, dense tensor")
        if value.device.type != "cpu" or value.is_quantized or value.is_complex():
            raise ValueError(f"{where} is not a tensor of real numbers with its data")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError(f"{where} claims more numbers than the file holds")
        if value.is_floating_point() and not value.isfinite().all():
            raise ValueError(f"{where} holds numbers that are not finite")
    elif not isinstance(value, str | bytes | int | float | bool | None):
        raise ValueError(f"{where} is a {type(value).__name__}; expected tensors and plain values")


class _NumberType:
    """Stands in for `numpy.dtype` in a file: the types of single numbers, and nothing else."""

    def __init__(self, code: str, *_: Any):
        if code not in ("f8", "f4", "i8", "i4", "b1"):
            raise ValueError(f"the numpy type {code!r} is not that of a number")
        self.code = code

    def __setstate__(self, state: Any) -> None:
        pass  # byte order and the like


def _number(kind: _NumberType, content: bytes) -> float:
    """Stands in for numpy's scalar in a file: the Python number that its bytes hold."""
    return np.frombuffer(content, np.dtype(kind.code))[0].item()


#: Old files hold accuracies as numpy scalars, which are read as Python numbers.
SAFE_GLOBALS = [
    (_number, "numpy.core.multiarray.scalar"),
    (_number, "numpy._core.multiarray.scalar"),
    (_NumberType, "numpy.dtype"),
]
