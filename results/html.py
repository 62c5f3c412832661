"""Building an HTML page as a tree, so that every text in it is escaped; and pictures inside it."""

from __future__ import annotations

import base64
import io
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from PIL import Image

Child = Element | str


def element(tag: str, *children: Child, **attributes: str) -> Element:
    """<tag attributes>children</tag>; texts may hold anything and are escaped on writing.

    A name that Python reserves ends in an underscore (class_), other underscores are hyphens
    (aria_label).
    """
    names = {name.rstrip("_").replace("_", "-"): text(value) for name, value in attributes.items()}
    node = Element(tag, names)
    for child in children:
        if isinstance(child, Element):
            node.append(child)
        elif len(node):
            node[-1].tail = (node[-1].tail or "") + text(child)
        else:
            node.text = (node.text or "") + text(child)
    return node


def text(value: str) -> str:
    """A text with what UTF-8 and HTML cannot hold written out (\\udce4, \\x00): file names may."""
    return "".join(
        character if character.isprintable() or character in " \n\xa0" else repr(character)[1:-1]
        for character in value
    )


def document(language: str, head: list[Element], body: list[Element]) -> str:
    """A whole page."""
    page = element("html", element("head", *head), element("body", *body), lang=language)
    return f"<!DOCTYPE html>\n{ElementTree.tostring(page, encoding='unicode', method='html')}\n"


def picture(image: Image.Image, *, alt: str, side: int) -> Element:
    """An image as part of the page, at most `side` pixels wide and high."""
    small = image.convert("RGB")
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=88)
    data = base64.b64encode(buffer.getvalue()).decode()
    return element(
        "img",
        src=f"data:image/jpeg;base64,{data}",
        alt=alt,
        width=str(small.width),
        height=str(small.height),
    )
