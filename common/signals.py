"""Ctrl-C, and the signals with which batch systems and closed terminals end a process.

The first signal raises `Stopped` in the main thread, so the program ends within a step and leaves
no partial files. A second signal during that ends the process at once.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

# `timeout` and batch systems send several signals at once: within this many seconds, repeated
# signals count as the first.
PATIENCE = 5.0
NAMES = {"SIGINT": "Ctrl-C", "SIGTERM": "SIGTERM", "SIGHUP": "SIGHUP (the terminal was closed)"}

_first: list[tuple[int, float]] = []  # the first signal and when it came
_owner = [0]  # the process that watches; forked workers inherit its handlers


class Stopped(KeyboardInterrupt):
    """A signal asked the process to end; a caller that can resume adds `advice` on how to."""

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
    """Make termination signals raise `Stopped` in the main thread of this process."""
    if threading.current_thread() is not threading.main_thread():
        return
    _first.clear()
    _owner[:] = [os.getpid()]
    for name in NAMES:
        # Signals that were ignored when the process started (nohup, &) stay so.
        if signal.getsignal(signal.Signals[name]) != signal.SIG_IGN:
            signal.signal(signal.Signals[name], _stop)


def _stop(number: int, _frame: Any) -> None:
    if os.getpid() != _owner[0]:
        # A forked worker. Ctrl-C and a closed terminal reach it too; its main process ends it.
        if number == signal.SIGTERM:
            os._exit(128 + number)
        return
    if _first:
        if time.monotonic() - _first[0][1] > PATIENCE:
            os._exit(128 + number)
        return
    _first.append((number, time.monotonic()))
    # The same signal may end our DataLoader workers, which is not an error.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    raise Stopped(number)


def stop_asked() -> Stopped | None:
    """`Stopped` if a signal has come, even if something swallowed the exception; else None.

    Python only prints an exception raised inside a destructor, so loops check here too.
    """
    return Stopped(_first[0][0]) if _first else None
