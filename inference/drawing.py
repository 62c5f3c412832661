"""Boxes and names on pictures, legible at every size."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageColor, ImageDraw, ImageFont

from results.pictures import COLORS, enlarged
from results.text import printable

from .faces import PredictedFace

SMALLEST_SIDE = 320  # pixels; smaller pictures are enlarged
SMALLEST_TEXT = 11  # pixels
#: Height of the text as a fraction of the picture's longer side, and of the face's height.
TEXT_OF_PICTURE, TEXT_OF_FACE = 1 / 60, 1 / 9


def annotated(
    picture: Image.Image, faces: Sequence[PredictedFace], numbers: Sequence[int] = ()
) -> Image.Image:
    """A copy of an RGB picture with a box, the expression and its percent at every face.

    numbers: of the persons, shown before the expression. A picture of fewer than SMALLEST_SIDE
    pixels is enlarged.
    """
    copy = enlarged(picture, SMALLEST_SIDE)
    copy = copy.copy() if copy is picture else copy
    scale = copy.width / picture.width
    draw = ImageDraw.Draw(copy)
    for place, face in enumerate(faces):
        text = f"{printable(face.expression)} {100 * face.probability:.0f} %"
        if numbers:
            text = f"{numbers[place]}: {text}"
        index = list(face.class_names).index(face.expression)
        box = [scale * side for side in face.face.box]
        _draw_face(draw, copy.size, box, text, COLORS[index % len(COLORS)])
    return copy


def _draw_face(
    draw: ImageDraw.ImageDraw,
    size: tuple[int, int],
    box: Sequence[float],
    text: str,
    color: str,
) -> None:
    width, height = size
    line = max(2, round(max(size) / 500))
    # A face may lie partly outside; its box is drawn as far as the picture goes.
    left, top = max(0, box[0]), max(0, box[1])
    right, bottom = min(width - 1, box[2]), min(height - 1, box[3])
    draw.rectangle((left, top, max(left, right), max(top, bottom)), outline=color, width=line)
    font = _font_that_fits(text, width, max(size) * TEXT_OF_PICTURE, (bottom - top) * TEXT_OF_FACE)
    # From the top of the capitals to the foot of the letters, whatever the text.
    ascent, descent = font.getmetrics()
    wide, high = draw.textlength(text, font) + 2 * line, ascent + descent
    x = min(max(0, left), max(0, width - wide))
    # Above the box; where there is no room, below it; else inside.
    y = top - high if top >= high else bottom if bottom + high <= height else top
    draw.rectangle((x, y, x + wide, y + high), fill=color)
    draw.text((x + line, y), text, font=font, fill=_readable_on(color))


def _font_that_fits(
    text: str, width: int, of_picture: float, of_face: float
) -> ImageFont.FreeTypeFont:
    height = max(SMALLEST_TEXT, of_picture, min(of_face, 3 * of_picture))
    font = ImageFont.load_default(height)
    wide = font.getlength(text) * 1.05
    return font if wide <= width else ImageFont.load_default(max(6, height * width / wide))


def _readable_on(color: str) -> str:
    red, green, blue = ImageColor.getrgb(color)
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 128 else "white"
