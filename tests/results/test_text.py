"""Texts from files: what UTF-8, HTML and matplotlib's formulas would trip over."""

from __future__ import annotations

from matplotlib.figure import Figure

from results.text import printable, without_math


def test_what_utf8_and_html_cannot_hold_is_written_out():
    assert printable("f\udce4ce\x07\u202e.png") == "f\\udce4ce\\x07\\u202e.png"
    assert printable("Grüße, 日本\n\xa0") == "Grüße, 日本\n\xa0"


def test_dollar_signs_are_drawn_as_they_stand():
    name = "a$\\frac{b}$\udce4.pth"
    figure = Figure()
    drawn = figure.text(0, 0, without_math(name))
    assert drawn._preprocess_math(drawn.get_text()) == ("a$\\frac{b}$\\udce4.pth", False)
    figure.canvas.draw()
