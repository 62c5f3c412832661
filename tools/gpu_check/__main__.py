"""Check and measure on a CUDA GPU what cannot be checked without one: at most 8 minutes.

    python -m tools.gpu_check                    # every part, in order
    python -m tools.gpu_check numbers train      # these alone
    python -m tools.gpu_check --dry-run          # the same parts on the CPU, small

Every part is a process of its own under a time limit; one that fails or is too slow does not end
the check. The report, report.json and report.md in --output, is written anew after every part,
and the output of each part is in logs/ beside it. The exit status is 1 where a part failed.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from common.cli import Parser, call_main
from common.errors import InputError
from common.files import make_folder

from .environment import heading
from .parts import Part, make_parts
from .report import Report
from .running import run_part

DEFAULT_OUTPUT = Path("build/gpu-check")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts; returns 1 where one failed, else 0.

    Raises InputError without a GPU, and for a part that is not there.
    """
    parser = Parser(__doc__, prog="python -m tools.gpu_check")
    names = [part.name for part in make_parts(Path(), Path())]
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(names)} [all]")
    parser.add_argument(
        "--output", type=Path, default=DEFAULT_OUTPUT, metavar="DIR", help=f"[{DEFAULT_OUTPUT}]"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="on the CPU, small: a minute on two cores"
    )
    args = parser.parse_args(arguments)
    if not args.dry_run and not torch.cuda.is_available():
        raise InputError(
            f"no CUDA GPU: torch {torch.__version__} sees none; --dry-run runs the same parts on "
            "the CPU, small"
        )
    output = args.output.resolve()
    make_folder(output / "logs")
    work = Path(tempfile.mkdtemp(prefix="work-", dir=output))
    try:
        gpus = torch.cuda.device_count()
        all_parts = make_parts(output, work, dry_run=args.dry_run, gpus=gpus)
        parts = chosen(all_parts, args.parts)
        return run_all(parts, output, work, dry_run=args.dry_run)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def chosen(parts: Sequence[Part], names: Sequence[str]) -> list[Part]:
    """The parts of these names and what they need, in order; all where there is no name.

    Raises InputError for a name that no part has.
    """
    known = {part.name: part for part in parts}
    if unknown := [name for name in names if name not in known]:
        raise InputError(f"no part is called {unknown[0]!r}; expected some of {', '.join(known)}")
    wanted = {*names, *(need for name in names for need in known[name].needs)}
    return [part for part in parts if not names or part.name in wanted]


def run_all(parts: Sequence[Part], output: Path, work: Path, *, dry_run: bool) -> int:
    """Run parts one after another and write the report; returns 1 where one failed, else 0."""
    flags = ["--dry-run"] * dry_run + [part.name for part in parts]
    command = " ".join(["python -m tools.gpu_check", *flags])
    report = Report(output, {"command": command, **heading()})
    for part in parts:
        print(f"{part.name:<12} ", end="", flush=True)
        result = run_part(part, work / part.name, output / "logs" / f"{part.name}.txt")
        print(f"{result.seconds:6.1f} of {part.limit:.0f} s  {result.outcome}", end="")
        print(f": {result.reason}" if result.reason else "", flush=True)
        report.add(result)
    print(f"\nwrote {output / 'report.json'} and report.md")
    return int(any(result.outcome != "passed" for result in report.results))


if __name__ == "__main__":
    call_main(main)
