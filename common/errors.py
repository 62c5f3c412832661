"""The one exception that means "the input is at fault, not the program"."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable


class InputError(ValueError):
    """Bad input from outside: its message is one line with what was found, expected and to do.

    Scripts print it without a traceback and exit with status 2; library users can catch it as
    a ValueError.
    """

    def __init__(self, message: str):
        super().__init__(" ".join(message.split()))


def call_main(main: Callable[[], int | None]) -> None:
    """Run a script's `main` and end the process with an exit status a batch system understands.

    0 (or what `main` returns) on success, 2 with one line on stderr for bad input, 130 after
    Ctrl-C. Any other exception is a bug of ours and keeps its traceback.
    """
    try:
        status = main() or 0
        sys.stdout.flush()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("stopped by Ctrl-C", file=sys.stderr)
        status = 130
    except BrokenPipeError:
        # The reader (head, less) has gone; point stdout elsewhere so that exit does not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141
    sys.exit(status)
