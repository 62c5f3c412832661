"""Texts from files, such as names, as a page and matplotlib can show them; tables as text."""

from __future__ import annotations

from collections.abc import Sequence


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


def columns(rows: Sequence[Sequence[str]], *, numbers: bool = False) -> list[str]:
    """Rows of cells, as many in each, as lines of plain text.

    numbers: all but the first column are numbers, which are aligned to the right.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = ["<", *(">" if numbers else "<") * (len(widths) - 1)]
    return [
        "  ".join(
            f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)
        ).rstrip()
        for row in rows
    ]


def markdown_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells, the first their head, as lines of GitHub's markdown."""
    head, *body = (
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows
    )
    return [head, "|" + " --- |" * len(rows[0]), *body]
