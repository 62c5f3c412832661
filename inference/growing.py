"""Text files that grow on the disk, not in memory, and have their name when they are whole."""

from __future__ import annotations

import csv
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.files import write_whole


class GrowingFile:
    """A text of which the part so far is a temporary file; `close` writes it to `path`."""

    def __init__(self, path: Path):
        self.path = path
        # Closed by `close`, or with the process.
        self._spool = tempfile.TemporaryFile("w+b")  # noqa: SIM115

    def write(self, text: str) -> None:
        """Add text; file names that are no text keep their bytes."""
        self._spool.write(text.encode("utf-8", "surrogateescape"))

    def close(self) -> None:
        """Write the whole file; raises InputError where the folder is missing or full."""
        self._spool.seek(0)
        write_whole(self.path, lambda stream: shutil.copyfileobj(self._spool, stream))
        self._spool.close()


class JsonList(GrowingFile):
    """A list of objects, one a line."""

    def __init__(self, path: Path):
        super().__init__(path)
        self._before = "[\n"

    def add(self, entry: Mapping[str, Any]) -> None:
        """Add an object."""
        self.write(self._before + json.dumps(entry, allow_nan=False))
        self._before = ",\n"

    def close(self) -> None:
        self.write("\n]\n" if self._before == ",\n" else "[]\n")
        super().close()


class CsvTable(GrowingFile):
    """A csv with a first line of column names."""

    def __init__(self, path: Path, columns: Sequence[str]):
        super().__init__(path)
        self._writer = csv.writer(self, lineterminator="\n")
        self.add(columns)

    def add(self, row: Sequence[Any]) -> None:
        """Add a row."""
        self._writer.writerow(row)
