"""Images that grow over the epochs: the schedule of the flag --grow."""

from __future__ import annotations

import re

from .errors import InputError

SMALLEST = 32  # pixels


def is_schedule(text: str) -> bool:
    """Whether a text is SIZExEPOCHS,..., such as 64x20,96x5, or empty."""
    return re.fullmatch(r"(\d{1,6}x\d{1,6}(,|$))*", text) is not None


def check_schedule(text: str, last: int, epochs: int) -> None:
    """Raises InputError for sizes that do not grow to the `last` one or take all the epochs."""
    parts = _parts(text)
    sizes = [*(size for size, _ in parts), last]
    if sizes != sorted(sizes) or sizes[0] < SMALLEST or sum(n for _, n in parts) >= epochs:
        raise InputError(
            f"--grow {text} does not fit --image-size {last} and --epochs {epochs}; expected "
            f"sizes from {SMALLEST} up that grow to --image-size, in fewer epochs"
        )


def size_at(text: str, last: int, epoch: int) -> int:
    """The image size of an epoch, counted from 1; the `last` one after the schedule."""
    for size, epochs in _parts(text):
        if epoch <= epochs:
            return size
        epoch -= epochs
    return last


def _parts(text: str) -> list[tuple[int, int]]:
    """(size, epochs) of each part of a schedule."""
    return [(int(size), int(epochs)) for size, epochs in re.findall(r"(\d+)x(\d+)", text)]
