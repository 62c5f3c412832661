"""Devices by name, whether they support bfloat16, and whether their results are repeatable."""

from __future__ import annotations

import os

import torch

from .errors import InputError


def find_device(name: str) -> torch.device:
    """The device of that name; "auto" takes a GPU if there is one.

    A GPU becomes torch's current device, to which events and synchronisation refer.

    Raises InputError where there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise InputError(f"--device is {name!r}; expected auto, cpu, cuda, cuda:N or mps")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise InputError("--device mps is not available on this machine; use --device cpu")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise InputError(
                f"--device {name} is not available: torch sees {count} CUDA GPUs; use --device cpu"
            )
        if device.index is not None:
            torch.cuda.set_device(device)
    return device


def wants_bf16(amp: str, device: torch.device) -> bool:
    """Whether to autocast to bfloat16; "auto": if the hardware natively supports it."""
    if amp != "auto":
        return amp == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and cpu_supports_bf16()


def cpu_supports_bf16() -> bool:
    """Whether this CPU natively supports bfloat16 (AVX-512 BF16 or AMX)."""
    try:
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    except AttributeError:  # private names, which another torch may not have
        return False


def set_determinism(*, deterministic: bool) -> None:
    """Restrict torch to deterministic algorithms, or let cuDNN search for its fastest kernels.

    Call this before the first work on a GPU: cuBLAS reads its environment variable once.
    """
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    # All images have one size, so one search pays off.
    torch.backends.cudnn.benchmark = not deterministic
