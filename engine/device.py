"""In which number type a run computes; where is `common.devices`."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager

import torch


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


def memory_format(plain: bool = False) -> torch.memory_format:
    """How images and weights are laid out: channels last, which convolutions are fastest in."""
    return torch.contiguous_format if plain else torch.channels_last


def use_deterministic_algorithms() -> None:
    """Let torch take only algorithms that give the same bits every time, or raise.

    To be called before the first work on a GPU: its library of matrix products looks at the
    environment once.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True)
