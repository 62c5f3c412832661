"""The methods that DAN is measured against: one file each, chosen by `--arch`."""

from .base import Rival
from .scn import SCNFlags

#: Name of the `--arch` -> its flags, which build network and criterion.
RIVALS: dict[str, type[Rival]] = {"scn": SCNFlags}

__all__ = ["RIVALS", "Rival"]
