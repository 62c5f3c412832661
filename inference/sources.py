"""What is on the command line -> pictures, decoded a few at a time, and videos."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from common.errors import InputError
from datasets.reading import PICTURE_SUFFIXES, open_rgb

VIDEO_SUFFIXES = frozenset(
    (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".ts")
)
#: Decoded at a time: at most this many pictures, and at most one that exceeds these pixels.
PICTURES_AT_ONCE = 64
PIXELS_AT_ONCE = 24_000_000


@dataclass(frozen=True)
class Source:
    """A picture or a video. name: its path below what all have in common."""

    path: Path
    name: Path

    @property
    def is_video(self) -> bool:
        """Judged by the file's ending."""
        return self.path.suffix.lower() in VIDEO_SUFFIXES


def find_sources(paths: Sequence[Path], leave_out: Path | None = None) -> list[Source]:
    """Every picture and video: files as given, folders with all that is below them, sorted.

    leave_out: a folder whose files are not taken from other folders: that of the results.

    Raises InputError where a path does not exist, or there is nothing to read.
    """
    found: dict[Path, None] = {}  # each file once, in order
    for path in paths:
        if path.is_dir():
            found |= dict.fromkeys(sorted(_below(path, leave_out)))
        elif path.exists():
            found[path] = None
        else:
            raise InputError(f"{path} does not exist; expected pictures, videos or folders")
    if not found:
        raise InputError(
            f"{', '.join(map(str, paths))}: no pictures or videos there; files in folders are "
            f"recognised by {', '.join(sorted(PICTURE_SUFFIXES | VIDEO_SUFFIXES))}"
        )
    # Not resolved: a link keeps its own name.
    absolute = {path: Path(os.path.abspath(path)) for path in found}  # noqa: PTH100
    common = Path(os.path.commonpath([path.parent for path in absolute.values()]))
    return [Source(path, whole.relative_to(common)) for path, whole in absolute.items()]


def _below(folder: Path, leave_out: Path | None) -> Iterator[Path]:
    outside = leave_out.resolve() if leave_out else None
    for path in folder.rglob("*"):
        wanted = path.suffix.lower() in PICTURE_SUFFIXES | VIDEO_SUFFIXES
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        ours = outside and outside in path.resolve().parents
        if wanted and not hidden and not ours and path.is_file():
            yield path


class Picture(NamedTuple):
    """A decoded picture."""

    source: Source
    image: Image.Image  # RGB


def read_pictures(sources: Sequence[Source], unreadable: list[str]) -> Iterator[list[Picture]]:
    """Decoded pictures in batches that fit into memory.

    unreadable: gets a line for each file that is no picture.
    """
    batch: list[Picture] = []
    pixels = 0
    for source in sources:
        try:
            image = open_rgb(source.path)
        except InputError as error:
            unreadable.append(str(error))
            continue
        if batch and pixels + image.width * image.height > PIXELS_AT_ONCE:
            yield batch
            batch, pixels = [], 0
        batch.append(Picture(source, image))
        pixels += image.width * image.height
        if len(batch) == PICTURES_AT_ONCE:
            yield batch
            batch, pixels = [], 0
    if batch:
        yield batch
