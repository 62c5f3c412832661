"""Evaluate checkpoints across data sets, and print the table of all pairs.

    python -m tools.cross runs/fer2013-seed0/last.pth runs/rafdb-seed0/last.pth
    python -m tools.cross a.pth b.pth --on fer2013:public=data/fer2013 rafdb --markdown

Classes are paired by meaning (happy = happiness). Without --on, every checkpoint is evaluated on
the data sets of all of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from common.cli import Parser, call_main
from common.devices import find_device
from common.errors import InputError
from common.files import write_json
from common.machine import use_threads
from results.class_map import UNSHARED
from results.cross import Pair, Result, Target, cross_table, remarks
from results.text import columns, markdown_table
from results.trained import Trained, read_trained


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluate all pairs; raises InputError for files, data or flags that do not go."""
    args = parse_arguments(arguments)
    device = find_device(args.device)
    use_threads(args.threads, device)
    networks = [read_trained(path) for path in args.checkpoints]
    targets = [Target.of(text) for text in args.on] or own_targets(networks)
    # All are opened before the first is evaluated: what is missing is said at once.
    pairs = [[Pair.of(t, target, args.unshared) for target in targets] for t in networks]
    options = {"batch_size": args.batch_size, "workers": args.workers}
    results = [[Result.of(pair, device, **options) for pair in row] for row in pairs]
    make = markdown_table if args.markdown else columns
    print("\n".join([*make(cross_table(results)), "", *remarks(results)]))
    if args.json:
        write_json(args.json, [result.json() for row in results for result in row])
        print(f"\nwrote {args.json}")


def own_targets(networks: Sequence[Trained]) -> list[Target]:
    """The data sets of the checkpoints, where they were trained; raises InputError for unknown."""
    unknown = [str(trained.path) for trained in networks if trained.dataset is None]
    if unknown:
        raise InputError(f"{unknown[0]} does not say its data set; give the data sets with --on")
    found = {}
    for trained in networks:
        folder = trained.settings.get("data")
        target = Target(str(trained.dataset), None, Path(folder) if folder else None)
        found[target] = None
    return list(found)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("checkpoints", type=Path, nargs="+", metavar="CHECKPOINT", help="trained networks")
    add(
        "--on",
        nargs="+",
        default=[],
        metavar="NAME[:SPLIT][=DIR]",
        help="data sets [those of the checkpoints, where they were trained]",
    )
    add(
        "--unshared",
        choices=list(UNSHARED),
        default="both",
        help="what leaves out the classes that one side lacks, as in eval.py [both]",
    )
    add("--json", type=Path, metavar="FILE", help="write every number there")
    add("--markdown", action="store_true", help="print the table as markdown")
    add("--batch-size", type=int, default=64, metavar="N", help="images at a time [64]")
    add("--workers", type=int, default=-1, metavar="N", help="DataLoader workers [as in eval.py]")
    add("--threads", type=int, default=0, metavar="N", help="threads on a CPU [one per core]")
    add("--device", default="auto", metavar="D", help="auto, cpu, cuda, cuda:1, mps [auto]")
    args = parser.parse_args(arguments)
    for name, least in (("batch_size", 1), ("workers", -1), ("threads", 0)):
        if getattr(args, name) < least:
            flag = f"--{name.replace('_', '-')}"
            raise InputError(f"{flag} is {getattr(args, name)}; expected at least {least}")
    if args.json and (args.json.is_dir() or not args.json.parent.is_dir()):
        raise InputError(f"--json {args.json}: expected a file in a folder that exists")
    return args


if __name__ == "__main__":
    call_main(main)
