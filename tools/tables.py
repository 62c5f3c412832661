"""Write the tables of docs/reproducing.md from results/fer2013.csv, our runs on open data.

python -m tools.tables --check          # do they agree? exit status 1 where not
python -m tools.tables                  # write them
python -m tools.tables --runs runs      # take the finished runs below runs/ first
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from common.cli import Parser, call_main
from common.errors import InputError
from common.files import write_text
from results.render import as_markdown
from results.runs import read_runs, write_runs
from results.tables import in_no_table, make_tables

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/reproducing.md"
RUNS = ROOT / "results/fer2013.csv"
START, END = "<!-- tables: written by tools.tables -->", "<!-- end of tables -->"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check; raises InputError where the page has no place for the tables."""
    parser = Parser(__doc__)
    parser.add_argument("--runs", type=Path, metavar="DIR", help="run folders to take over first")
    parser.add_argument("--check", action="store_true", help="write nothing")
    args = parser.parse_args(arguments)
    if args.runs and args.check:
        raise InputError("--check writes nothing, so it cannot take over --runs")
    if args.runs:
        take_over(args.runs)
    before = PAGE.read_text(encoding="utf-8")
    after = with_tables(before, tables_text(RUNS))
    if args.check:
        print(f"{PAGE.name} {'agrees' if before == after else 'does not agree'} with {RUNS.name}")
        return int(before != after)
    write_text(PAGE, after)
    print(f"wrote the tables into {PAGE.name}")
    return 0


def take_over(folder: Path) -> None:
    """Keep the runs on open data that stand in a table as results/fer2013.csv."""
    finished, _ = read_runs(folder)
    ours = [run for run in finished if run.dataset == "fer2013"]
    unused = in_no_table(ours, make_tables(ours, folder))
    kept = [run for run in ours if run not in unused]
    if not kept:
        raise InputError(f"no table can be made of the {len(ours)} FER2013 runs below {folder}")
    write_runs(RUNS, kept)


def tables_text(runs: Path) -> str:
    """The tables of our own data as markdown."""
    finished, _ = read_runs(runs)
    tables = make_tables(finished, Path("runs"))
    return as_markdown([table for table in tables if not table.is_papers])


def with_tables(text: str, tables: str) -> str:
    """A page with what stands between its two marker lines replaced.

    Raises InputError where it does not have each of them once, in order.
    """
    head, start, rest = text.partition(START)
    _, end, tail = rest.partition(END)
    if not start or not end or START in rest or END in tail:
        raise InputError(f"{PAGE.name} needs the lines {START} and {END}, once each")
    return f"{head}{START}\n\n{tables}\n\n{END}{tail}"


if __name__ == "__main__":
    call_main(main)
