"""A contact sheet of synthetic faces, to look at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from common.errors import InputError
from common.files import write_whole

from .action_units import EXPRESSIONS
from .face import draw_face
from .writing import check_seed


def write_sheet(path: Path, *, per_class: int = 10, seed: int = 0, size: int = 100) -> None:
    """Draw a row of faces, `size` pixels each, for each of `EXPRESSIONS`, its name on the left.

    Raises InputError for a file name without a picture's suffix, fewer than one face per class, a
    negative seed or a size below 32.
    """
    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind not in Image.SAVE:
        raise InputError(f"{path} is not the name of a picture; expected one such as faces.png")
    if per_class < 1:
        raise InputError(f"{per_class} faces per class; expected 1 or more")
    check_seed(seed)
    margin = 80
    sheet = Image.new("RGB", (margin + per_class * size, len(EXPRESSIONS) * size), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    for row, expression in enumerate(EXPRESSIONS):
        pen.text((8, (row + 0.5) * size - 6), expression, fill="black", font=font)
        for column in range(per_class):
            rng = np.random.default_rng([seed, row, column])
            face = draw_face(expression, rng, size=size)
            sheet.paste(face.image, (margin + column * size, row * size))
    write_whole(path, lambda stream: sheet.save(stream, kind))
