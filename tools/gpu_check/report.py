"""The report of a check: report.json, and the same numbers as tables in report.md."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common.files import write_json, write_text

from .running import Result


class Report:
    """Results as they come; both files are whole after every one."""

    def __init__(self, folder: Path, heading: Mapping[str, Any]):
        self.folder = folder
        self.heading = heading
        self.results: list[Result] = []
        self._started = time.perf_counter()

    def add(self, result: Result) -> None:
        """Take a result and write both files."""
        self.results.append(result)
        about = {**self.heading, "seconds": time.perf_counter() - self._started}
        parts = [asdict(result) for result in self.results]
        write_json(self.folder / "report.json", {**about, "parts": parts})
        write_text(self.folder / "report.md", as_markdown(about, self.results))


def as_markdown(about: Mapping[str, Any], results: Sequence[Result]) -> str:
    """Tables, a section a part."""
    columns = ("name", "outcome", "seconds", "limit", "reason")
    blocks = ["# GPU check", *numbers_blocks(about), "## Parts"]
    blocks.append(table([{name: getattr(one, name) for name in columns} for one in results]))
    for result in results:
        blocks += [f"## {result.name}", f"`{result.command}`", *numbers_blocks(result.numbers)]
        if result.tail:
            blocks.append(f"````\n{result.tail}\n````")
    return "\n\n".join(blocks) + "\n"


def numbers_blocks(numbers: Mapping[str, Any]) -> Iterator[str]:
    """A table of the single values, and one for each list of rows."""
    single = {name: value for name, value in numbers.items() if not isinstance(value, list)}
    if single:
        yield table([{"": name, "value": value} for name, value in single.items()])
    for rows in numbers.values():
        if isinstance(rows, list) and rows:
            yield table(rows)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of the same names as GitHub's markdown."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([cell(v) for v in r.values()] for r in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(value: Any) -> str:
    """A value to four digits; what would end the cell is written otherwise."""
    if isinstance(value, Mapping):
        return "; ".join(f"{name} {cell(one)}" for name, one in value.items())
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return "" if value is None else str(value).replace("|", "\\|").replace("\n", " ")
