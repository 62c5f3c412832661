"""`--compile`: what torch's compiler says where it cannot compile, as one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from common.errors import InputError


@contextmanager
def compiler_told() -> Iterator[None]:
    """Turns an error of torch.compile, which comes with the first step, into an InputError.

    Most often there is no C++ compiler, which torch needs on a CPU.
    """
    try:
        yield
    except RuntimeError as error:
        # By its place, as importing the compiler takes seconds.
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"--compile: torch cannot compile the network here ({reason}); leave --compile out (a "
            "training run goes on with --resume)"
        ) from error
