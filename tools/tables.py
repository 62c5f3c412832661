"""Write the tables of the docs from results/runs.csv, our runs on open data.

python -m tools.tables --check          # do they agree? exit status 1 where not
python -m tools.tables                  # write them
python -m tools.tables --runs runs      # add the finished runs below runs/ to the csv first
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from common.cli import Parser, call_main
from common.errors import InputError
from common.files import write_text
from results.comparisons import comparison_tables
from results.render import as_markdown
from results.runs import FinishedRun, read_runs, write_runs
from results.tables import in_no_table

ROOT = Path(__file__).resolve().parents[1]
#: The page of each comparison of ours.
PAGES = {"ablations": ROOT / "docs/reproducing.md", "rivals": ROOT / "docs/rivals.md"}
RUNS = ROOT / "results/runs.csv"
OPEN_DATA = ("fer2013", "ferplus")
START, END = "<!-- tables: written by tools.tables -->", "<!-- end of tables -->"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check; raises InputError where a page has no place for its tables."""
    parser = Parser(__doc__)
    parser.add_argument("--runs", type=Path, metavar="DIR", help="run folders to add first")
    parser.add_argument("--check", action="store_true", help="write nothing")
    args = parser.parse_args(arguments)
    if args.runs and args.check:
        raise InputError("--check writes nothing, so it cannot add --runs")
    if args.runs:
        add_runs(args.runs)
    runs, _ = read_runs(RUNS)
    before = {page: page.read_text(encoding="utf-8") for page in PAGES.values()}
    after = {page: updated(before[page], runs, name, page) for name, page in PAGES.items()}
    for page, text in after.items():
        agrees = text == before[page]
        if args.check:
            print(f"{page.name} {'agrees' if agrees else 'does not agree'} with {RUNS.name}")
        else:
            write_text(page, text)
            print(f"wrote the tables into {page.name}")
    return int(args.check and before != after)


def add_runs(folder: Path) -> None:
    """Add the runs on open data that fill a table to results/runs.csv.

    A run replaces the one of the same folder. Raises InputError where none fills a table.
    """
    there = read_runs(RUNS)[0] if RUNS.is_file() else []
    new = [run for run in read_runs(folder)[0] if run.dataset in OPEN_DATA]
    joined = list({run.folder: run for run in (*there, *new)}.values())
    unused = in_no_table(joined, comparison_tables(joined, PAGES))
    kept = [run for run in joined if run not in unused]
    if not any(run in kept for run in new):
        raise InputError(f"none of the {len(new)} runs on open data below {folder} fills a table")
    write_runs(RUNS, sorted(kept, key=lambda run: run.folder))


def updated(text: str, runs: Sequence[FinishedRun], name: str, page: Path) -> str:
    """A page with the tables of a comparison between its two marker lines.

    Raises InputError where it does not have each of them once, in order.
    """
    head, start, rest = text.partition(START)
    _, end, tail = rest.partition(END)
    if not start or not end or START in rest or END in tail:
        raise InputError(f"{page.name} needs the lines {START} and {END}, once each")
    tables = comparison_tables(runs, [name])
    shown = as_markdown(tables) if tables else "Not run yet."
    return f"{head}{START}\n\n{shown}\n\n{END}{tail}"


if __name__ == "__main__":
    call_main(main)
