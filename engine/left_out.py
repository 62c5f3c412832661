"""Images that cannot be used: left out of an epoch, and never without being told."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from common.files import write_text

FILE = "left_out.txt"
SHOWN = 10


@dataclass
class LeftOut:
    """What is said of the images of an epoch that could not be used."""

    training: list[str] = field(default_factory=list)
    evaluation: list[str] = field(default_factory=list)

    def report(self, folder: Path, epoch: int) -> None:
        """Print them, and write them into the run folder; nothing where there are none."""
        lines = [
            f"left out of {part} in epoch {epoch}: {message}"
            for part, messages in (("training", self.training), ("evaluation", self.evaluation))
            for message in messages
        ]
        if not lines:
            return
        write_text(folder / FILE, "\n".join(lines) + "\n")
        for line in lines[:SHOWN]:
            print(f"  {line}")
        more = f"; all of them are in {folder / FILE}" if len(lines) > SHOWN else ""
        print(
            f"  {len(self.training)} training and {len(self.evaluation)} evaluated images were "
            f"left out of epoch {epoch}{more}",
            flush=True,
        )
