"""What makes a run fast; what changes its numbers is off unless a flag or the recipe asks for it.

Always on: channels last, and images kept in memory (common/image_cache.py). By flag: `--amp`,
`--compile`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

from common.errors import InputError

#: Of images and weights: the fastest for convolutions, on CPUs and on GPUs.
MEMORY_FORMAT = torch.channels_last


def autocast(device: torch.device, bf16: bool) -> AbstractContextManager:
    """The context in which the network runs forward."""
    return torch.autocast(device.type, torch.bfloat16, enabled=bf16)


@contextmanager
def reporting_compiler_errors() -> Iterator[None]:
    """Turns an error of torch.compile, which appears at the first step, into an InputError.

    The usual cause is a missing C++ compiler, which torch needs on a CPU.
    """
    try:
        yield
    except RuntimeError as error:
        # Recognised by its module's name, since importing the compiler takes seconds.
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"--compile: torch cannot compile the network here ({reason}); leave --compile out (a "
            "training run goes on with --resume)"
        ) from error
