"""The methods that DAN is measured against: one file each, chosen by `--arch`."""

from .base import Rival
from .center import CenterFlags
from .dacl import DACLFlags
from .dda import DDAFlags
from .eac import EACFlags
from .feratt import FERAttFlags
from .island import IslandFlags
from .phanet import PhaNetFlags
from .ran import RANFlags
from .scn import SCNFlags

#: Name of the `--arch` -> its flags, which build network and criterion. A mark that another
#: network has as well comes later.
RIVALS: dict[str, type[Rival]] = {
    "dacl": DACLFlags,
    "feratt": FERAttFlags,
    "phanet": PhaNetFlags,
    "ran": RANFlags,
    "scn": SCNFlags,
    "eac": EACFlags,
    "center": CenterFlags,
    "island": IslandFlags,
    "dda": DDAFlags,
}

__all__ = ["RIVALS", "Rival"]
