"""Files of data sets: images of any kind as RGB, and csv tables."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageOps, UnidentifiedImageError

from common.errors import InputError

#: Decoders to try, by content and not by file name. Pillow has more, but one of them (EPS) starts
#: another program and some (TGA) accept noise as an image.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "AVIF", "JPEG2000")
#: Endings of the files that are taken for pictures where a folder is searched.
PICTURE_SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".avif", ".jp2")
)
#: Larger images are mistakes or decompression bombs; Pillow warns above this size.
MAX_PIXELS = 89_478_485
ALPHA_MODES = ("RGBA", "RGBa", "LA", "PA")


def open_rgb(path: Path) -> Image.Image:
    """Decode an image file of any PIL mode as 8-bit RGB, upright.

    Camera rotation (EXIF) is applied, 16-bit grayscale is scaled to 8 bits, transparency is
    composited on white, an animation gives its first frame.

    Raises InputError with the file's name where it is missing, truncated, not an image or has
    more than MAX_PIXELS.
    """
    try:
        with open_image(path) as image:
            image.load()
            # Damaged EXIF data can raise any exception, while the pixels are fine.
            upright = image
            with contextlib.suppress(Exception):
                upright = ImageOps.exif_transpose(image)
            return to_rgb(upright)
    except FileNotFoundError as error:
        raise InputError(f"image {path} does not exist") from error
    except (
        OSError,
        RuntimeError,  # of the AVIF decoder
        SyntaxError,
        ValueError,
        UnidentifiedImageError,
        Image.DecompressionBombError,
    ) as error:
        raise InputError(
            f"image {path} cannot be decoded ({error}); replace it or remove it"
        ) from error


def open_image(path: Path) -> Image.Image:
    """Image.open for the accepted formats and sizes; pixels are not decoded yet.

    Raises ValueError for a larger image, and whatever Pillow raises.
    """
    image = Image.open(path, formats=_formats())
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise ValueError(
            f"{image.width} x {image.height} pixels; expected at most {MAX_PIXELS:,} in all"
        )
    return image


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any PIL mode to 8-bit RGB; see `open_rgb`."""
    if image.mode.startswith("I") or image.mode == "F":
        # PIL would clip at 255; 16-bit samples, which is what these modes hold, reach 65,535.
        wide = np.nan_to_num(np.asarray(image, dtype=np.float64))
        grey = np.clip(wide / 257 if image.mode != "F" else wide, 0, 255).round()
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.mode in ALPHA_MODES or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def read_csv(table: Path, columns: Sequence[str], **options: Any) -> pd.DataFrame:
    """A csv as a data frame; blank lines count, so index + 2 is the row that an editor shows.

    options: further ones of pandas.

    Raises InputError where it cannot be read or lacks one of the columns.
    """
    # No index: pandas takes the first fields of a row that is too long for one.
    options = {"skipinitialspace": True, "skip_blank_lines": False, "index_col": False, **options}
    try:
        rows = pd.read_csv(table, **options)
    except (ValueError, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{table} cannot be read as csv ({error})") from error
    rows.columns = [str(column).strip() for column in rows.columns]
    missing = [name for name in columns if name not in rows.columns]
    if missing:
        raise InputError(
            f"{table} has no column {', '.join(missing)}; expected a first line with "
            f"{', '.join(columns)}"
        )
    return rows


def read_lines(path: Path) -> list[str]:
    """The lines of a text file; raises InputError where it is none or cannot be read."""
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not a text file ({error.reason} at byte {error.start})"
        ) from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
