"""The exception for bad input, as opposed to a bug in the program."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input: the message is one line that says what was found, expected, and what to do.

    Scripts print it without a traceback and exit with status 2; library users can catch it as
    a ValueError.
    """

    def __init__(self, message: str):
        # Text from a file must not reach the terminal as control characters.
        line = " ".join(message.split())
        super().__init__("".join(c if c.isprintable() else ascii(c)[1:-1] for c in line))
