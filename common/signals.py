"""Ctrl-C, and the signals with which batch systems and closed terminals end a process.

The first signal raises `Stopped` wherever the program is, so what it was doing ends within a step
and files are left whole. Workers forked meanwhile leave the decision to the main process.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

# How long signals that repeat the first one are overlooked, seconds: `timeout` and batch systems
# send several at once. After that the next one ends the process on the spot.
PATIENCE = 5.0
NAMES = {"SIGINT": "Ctrl-C", "SIGTERM": "SIGTERM", "SIGHUP": "SIGHUP (the terminal was closed)"}


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


class _Watch:
    """The handler of this process and what it has seen."""

    def __init__(self) -> None:
        self.owner = 0
        self.number = 0  # of the first signal
        self.ending = False  # without a signal
        self.since = 0.0

    def __call__(self, number: int, _frame: Any) -> None:
        if os.getpid() != self.owner:
            # A forked worker. Ctrl-C reaches it as well, but its main process will end it.
            if number != signal.SIGINT:
                os._exit(128 + number)
            return
        if self.number or self.ending:
            if time.monotonic() - self.since > PATIENCE:
                os._exit(128 + number)
            return
        self.number, self.since = number, time.monotonic()
        # The same signal may end our workers; their death is no error then.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        raise Stopped(number)


_watch = _Watch()


def watch_signals() -> None:
    """From now on a signal to end raises `Stopped` in the main thread of this process."""
    if threading.current_thread() is not threading.main_thread():
        return
    _watch.owner, _watch.number, _watch.ending = os.getpid(), 0, False
    for name in NAMES:
        # Signals that were ignored when the process started (nohup, &) stay so.
        if signal.getsignal(signal.Signals[name]) != signal.SIG_IGN:
            signal.signal(signal.Signals[name], _watch)


def overlook_signals() -> None:
    """This process ends, so for a while a signal to end adds nothing; an earlier one may be raised.

    torchrun signals all processes where one has failed, and would cut short what they say of it.
    """
    if not _watch.number and _watch.owner == os.getpid():
        _watch.ending, _watch.since = True, time.monotonic()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # as in the handler


def stop_asked() -> Stopped | None:
    """The stop that a signal asked for, if one did; also where something swallowed it.

    Python only prints an exception that is raised inside a destructor, so a loop looks here.
    """
    return Stopped(_watch.number) if _watch.number else None
