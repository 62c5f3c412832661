"""Texts that come from files, such as names, as a page and as matplotlib can show them."""

from __future__ import annotations


def printable(text: str) -> str:
    """A text with what UTF-8 and HTML cannot hold written out (\\udce4, \\x00): file names may."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character in "\n\xa0" else repr(character)[1:-1]
        for character in text
    )


def without_math(text: str) -> str:
    """A printable text that matplotlib draws as it stands: two dollar signs make no formula."""
    return printable(text).replace("$", r"\$")
