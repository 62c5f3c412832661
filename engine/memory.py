"""How much memory there is, and whether images fit into it."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from datasets.cache import lazily_shared

from .loading import SeededImages

#: How much of the free memory decoded images may take; the rest is for the work.
SHARE = 0.5


def keep_in_memory(parts: Sequence[SeededImages], *, processes: int = 1) -> str:
    """Keep the decoded images of some splits in memory where all of them fit.

    processes: how many training processes of this machine do so, each for itself.
    Returns a line that says what was done; memory is taken as images are first read.
    """
    needed = [part.dataset.memory_needed(len(part)) for part in parts]
    if None in needed:
        return "images are read from their files every time: their transform resizes too late"
    images, total, free = sum(map(len, parts)), processes * sum(needed), free_memory()
    if not free:
        return "images are read from their files every time: how much memory is free is not known"
    if total > SHARE * free:
        return (
            f"images are read from their files every time: {images:,} would take "
            f"{_gigabytes(total)} of memory, more than {SHARE:.0%} of the {_gigabytes(free)} free"
        )
    for part in parts:
        part.dataset.keep_in_memory(part.indices)
    return f"{images:,} images are kept in memory: {_gigabytes(total)} of {_gigabytes(free)} free"


def free_memory() -> int:
    """Bytes that new data may take before the system swaps or kills; 0 where unknown."""
    try:
        text = Path("/proc/meminfo").read_text()
        free = 1024 * int(re.search(r"MemAvailable:\s+(\d+) kB", text)[1])
    except (OSError, TypeError):
        try:
            free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
        except (AttributeError, ValueError, OSError):
            return 0
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())
        free = min(free, limit - int((group / "memory.current").read_text()))
    except (OSError, ValueError):  # no such group, or no limit: "max"
        pass
    if not lazily_shared():
        free = min(free, _room_for_shared_files())
    return max(0, free)


def _room_for_shared_files() -> int:
    """Free bytes where multiprocessing puts what processes share."""
    memory = Path("/dev/shm")
    return shutil.disk_usage(memory if memory.is_dir() else tempfile.gettempdir()).free


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
