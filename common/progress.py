"""Progress bars, and durations in words."""

from __future__ import annotations

import sys
from typing import Any


def progress_bar(total: int, description: str) -> dict[str, Any]:
    """Arguments of tqdm for a bar over `total` images, with images/s and time left."""
    # In a log file every refresh adds a line, so refreshes are rare.
    seconds = 0.2 if sys.stderr.isatty() else 30.0
    return {
        "total": total,
        "desc": description,
        "unit": " images",
        "leave": False,
        "mininterval": seconds,
        # A short pass shows no bar, so that a one-line error stays on its own line.
        "delay": 0.0 if sys.stderr.isatty() else seconds,
        "maxinterval": max(seconds, 10.0),
        "dynamic_ncols": True,
    }


def duration(seconds: float) -> str:
    """A time as days, hours or minutes."""
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours / 24:.1f} days"
