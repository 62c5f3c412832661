"""The one exception that means "the input is at fault, not the program"."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input from outside: its message is one line with what was found, expected and to do.

    Scripts print it without a traceback and exit with status 2; library users can catch it as
    a ValueError.
    """

    def __init__(self, message: str):
        # Text from a file must not reach the terminal as control characters.
        line = " ".join(message.split())
        super().__init__("".join(c if c.isprintable() else ascii(c)[1:-1] for c in line))
