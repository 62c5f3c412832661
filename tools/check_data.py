"""Check a data set on disk before training on it.

    python -m tools.check_data rafdb datasets/raf-basic
    python -m tools.check_data affectnet datasets/affectnet --json report.json

It says which layout it found, images per class beside the published counts, image sizes and
modes, and lists unreadable files, files that are listed but missing or present but not listed,
labels out of range, and exact duplicates (equal pixels) within and across splits.

Exit status: 0 nothing that changes results, 1 something does, 2 no such data set there.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from common.cli import Parser, call_main
from common.errors import InputError
from common.files import write_json
from datasets import FER2013, RAFDB, SFEW, AffectNet7, AffectNet8, FERPlus
from datasets.affectnet import LAYOUTS
from datasets.check import check, report_text

KINDS = {
    "rafdb": RAFDB,
    "affectnet": AffectNet8,
    "affectnet7": AffectNet7,  # for copies without contempt
    "sfew": SFEW,
    "fer2013": FER2013,
    "ferplus": FERPlus,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Check as the command line says; returns the exit status; raises InputError."""
    parser = Parser(__doc__)
    parser.add_argument("dataset", choices=list(KINDS), help="which data set it is")
    parser.add_argument("root", type=Path, metavar="DIR", help="its folder")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything found there")
    parser.add_argument(
        "--layout",
        choices=("auto", *LAYOUTS),
        default="auto",
        help="which of AffectNet's layouts [auto]",
    )
    parser.add_argument(
        "--examples", type=int, default=3, metavar="N", help="of each finding to print [3]"
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="processes that open images [one per core]",
    )
    args = parser.parse_args(arguments)
    if args.workers < 1:
        raise InputError(f"--workers is {args.workers}; expected at least 1")
    if args.examples < 0:
        raise InputError(f"--examples is {args.examples}; expected at least 0")
    kind = KINDS[args.dataset]
    if args.layout != "auto" and "layout" not in kind.option_names:
        raise InputError(f"--layout is given, but {kind.name} has no layouts to choose from")
    options = {"layout": args.layout} if "layout" in kind.option_names else {}
    report = check(kind, args.root, workers=args.workers, **options)
    print(report_text(report, examples=args.examples))
    if args.json:
        write_json(args.json, report.as_json())
        print(f"wrote {args.json}")
    return 1 if report.serious else 0


if __name__ == "__main__":
    call_main(main)
