"""The command line: one sub-command per layout, and the contact sheet."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.cli import Parser

from ..affectnet import LAYOUTS
from .affectnet import write_affectnet
from .feratt import write_feratt
from .rafdb import write_rafdb
from .sfew import write_sfew
from .sheet import write_sheet

#: Sub-command -> what it is, what it writes to, and the function whose keywords are its flags.
COMMANDS = {
    "rafdb": ("RAF-DB's layout", "DIR", write_rafdb),
    "feratt": ("faces somewhere in pictures, with masks and clean pictures", "DIR", write_feratt),
    "affectnet": ("AffectNet's layouts", "DIR", write_affectnet),
    "sfew": ("SFEW's layout", "DIR", write_sfew),
    "sheet": ("a contact sheet", "OUT.png", write_sheet),
}
PATHS = {"DIR": "new or empty folder", "OUT.png": "picture to write"}
FLAGS: dict[str, dict[str, Any]] = {
    "layout": {"choices": list(LAYOUTS), "help": "which of its layouts"},
    "train": {"type": int, "help": "training images"},
    "test": {"type": int, "help": "test images"},
    "val": {"type": int, "help": "validation images"},
    "per_class": {"type": int, "help": "faces per expression"},
    "seed": {"type": int, "help": "seed of all that is random"},
    "size": {"type": int, "help": "side of an image in pixels"},
    "move": {"type": float, "help": "part of the authors' scale, turn and shift, 0 to 1"},
    "turn": {"type": float, "help": "degrees by which heads are turned at most; adds poses.csv"},
    "workers": {"type": int, "help": "processes; None is one per core"},
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw as the command line says; raises InputError."""
    parser = Parser(
        "Draws faces with known expressions in the layouts of real data sets.",
        prog="python -m datasets.demo",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (title, path, write) in COMMANDS.items():
        defaults = argparse.ArgumentDefaultsHelpFormatter
        command = commands.add_parser(name, help=title, formatter_class=defaults)
        command.add_argument("path", type=Path, metavar=path, help=PATHS[path])
        for keyword, default in write.__kwdefaults__.items():
            flag = f"--{keyword.replace('_', '-')}"
            command.add_argument(flag, default=default, **FLAGS[keyword])
        command.set_defaults(write=write)
    options = vars(parser.parse_args(arguments))
    options.pop("write")(options.pop("path"), **options)
