"""Where a run computes, and in which type."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

from common.errors import InputError


def find_device(name: str) -> torch.device:
    """The device of that name; "auto" takes a GPU if there is one.

    Raises InputError where there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise InputError(f"--device {name!r} is no device; expected auto, cpu, cuda, cuda:N or mps")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise InputError("--device mps is not available on this machine; use --device cpu")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise InputError(
                f"--device {name} is not available: torch sees {count} CUDA GPUs; use --device cpu"
            )
    return device


def wants_bf16(amp: str, device: torch.device) -> bool:
    """Whether to autocast to bfloat16: always, never, or where the hardware multiplies it."""
    if amp != "auto":
        return amp == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and cpu_multiplies_bf16()


def cpu_multiplies_bf16() -> bool:
    """Whether this CPU has instructions for bfloat16 products (AVX-512 BF16 or AMX)."""
    try:
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    except AttributeError:  # private names, which another torch may not have
        return False


def autocast(device: torch.device, bf16: bool) -> AbstractContextManager:
    """The context in which the network runs forward."""
    return torch.autocast(device.type, torch.bfloat16, enabled=bf16)
