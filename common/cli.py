"""How scripts talk to the shell: one-line errors, one-line warnings, exit statuses."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

from .errors import InputError
from .signals import Stopped, stop_asked, watch_signals


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, and which takes no abbreviated flags."""

    def __init__(self, description: str | None = None, **options: Any):
        """options: passed on to argparse; subcommands are parsers of this class too."""
        ours = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
        super().__init__(description=description, **{**ours, **options})

    def error(self, message: str) -> NoReturn:
        """Raise InputError instead of printing the usage, which would bury the message."""
        raise InputError(f"{message}; {self.prog} --help lists the flags")


def call_main(main: Callable[[], int | None]) -> NoReturn:
    """Run a script's `main` and end the process with an exit status a batch system understands.

    0 (or what `main` returns) on success, 2 with one line on stderr for bad input, 130 after
    Ctrl-C, 143 after SIGTERM. Any other exception is a bug of ours and keeps its traceback.
    """
    warnings.showwarning = _show_warning
    watch_signals()
    try:
        try:
            status = main() or 0
            sys.stdout.flush()
        except Exception:
            # torch may raise for workers that the same signal ended, anywhere in the program.
            if (stopped := stop_asked()) is None:
                raise
            raise stopped from None
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        status = stopped.status
    except BrokenPipeError:
        # The reader (head, less) has exited; redirect stdout so that exiting raises no error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141
    except OSError as error:
        if error.filename is None:
            raise
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        status = 2
    sys.exit(status)


def _show_warning(message: Warning | str, *_place: object, **_options: object) -> None:
    """One line without the source location; `python -W` filters still apply."""
    print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)
