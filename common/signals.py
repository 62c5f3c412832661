"""Ctrl-C, and the signals with which batch systems and closed terminals end a process.

The first signal raises `Stopped` wherever the program is, so what it was doing ends within a step
and files are left whole. A second one while that is under way ends the process on the spot.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

# `timeout` and batch systems send several signals at once: repeats within so many seconds count
# as the first.
PATIENCE = 5.0
NAMES = {"SIGINT": "Ctrl-C", "SIGTERM": "SIGTERM", "SIGHUP": "SIGHUP (the terminal was closed)"}

_first: list[tuple[int, float]] = []  # the first signal and when it came


class Stopped(KeyboardInterrupt):
    """A signal asked the process to end; whoever can go on later adds `advice` on how to."""

    def __init__(self, number: int):
        super().__init__()
        self.number = number
        self.advice = ""

    def __str__(self) -> str:
        name = NAMES.get(signal.Signals(self.number).name, f"signal {self.number}")
        return f"stopped by {name}" + (f"; {self.advice}" if self.advice else "")

    @property
    def status(self) -> int:
        """The exit status that shells give a process ended by this signal."""
        return 128 + self.number


def watch_signals() -> None:
    """From now on a signal to end raises `Stopped` in the main thread of this process."""
    if threading.current_thread() is not threading.main_thread():
        return
    _first.clear()
    for name in NAMES:
        # Signals that were ignored when the process started (nohup, &) stay so.
        if signal.getsignal(signal.Signals[name]) != signal.SIG_IGN:
            signal.signal(signal.Signals[name], _stop)


def _stop(number: int, _frame: Any) -> None:
    if _first:
        if time.monotonic() - _first[0][1] > PATIENCE:
            os._exit(128 + number)
        return
    _first.append((number, time.monotonic()))
    # The same signal may end our DataLoader workers; that is not an error then.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    raise Stopped(number)


def stop_asked() -> Stopped | None:
    """The stop that a signal asked for, if one did; also where something swallowed it.

    Python only prints an exception that is raised inside a destructor, so a loop looks here.
    """
    return Stopped(_first[0][0]) if _first else None
