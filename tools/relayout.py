"""Put FER2013's faces into the layout of another data set, to try its script on real faces.

    python -m tools.relayout rafdb datasets/fer2013 build/fer2013-as-rafdb
    python train_rafdb.py --data build/fer2013-as-rafdb --pretrained none --optimizer adamw ...

The copies are FER2013's under another name: no number from them is one of the other data set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from common.cli import Parser, call_main
from common.errors import InputError
from common.files import make_folder, write_text
from datasets import FER2013, RAFDB
from datasets.rafdb import IMAGE_FOLDER, LABEL_FILE

# The same seven expressions under each data set's names.
RAFDB_NAMES = {"Angry": "Anger", "Happy": "Happiness", "Sad": "Sadness"}
RAFDB_SIZE = 100  # pixels, both sides


def as_rafdb(source: Path, target: Path) -> int:
    """Write FER2013 as RAF-DB's aligned faces; returns the number of images.

    The label list is written last, so a copy that was cut short is not taken for a whole one.

    Raises InputError where the source is no FER2013 or a file cannot be written.
    """
    folder = target / IMAGE_FOLDER
    make_folder(folder)
    make_folder((target / LABEL_FILE).parent)
    lines = []
    for split in ("train", "test"):
        faces = FER2013(source, split)
        digits = 5 if split == "train" else 4  # as in the release
        for index, label in enumerate(tqdm(faces.labels, desc=split, unit=" images")):
            name = f"{split}_{index + 1:0{digits}}"
            _save(faces.read_image(index), folder / f"{name}_aligned.jpg")
            lines.append(f"{name}.jpg {rafdb_label(faces.classes[label])}")
    write_text(target / LABEL_FILE, "\n".join(lines) + "\n")
    return len(lines)


def rafdb_label(name: str) -> int:
    """RAF-DB's label, 1 to 7, of an expression under FER2013's name."""
    return RAFDB.classes.index(RAFDB_NAMES.get(name, name)) + 1


def _save(image: Image.Image, path: Path) -> None:
    size = (RAFDB_SIZE, RAFDB_SIZE)
    image.resize(size, Image.Resampling.BILINEAR).save(path, quality=95)


LAYOUTS: dict[str, Callable[[Path, Path], int]] = {"rafdb": as_rafdb}


def main(arguments: Sequence[str] | None = None) -> None:
    """Copy as the command line says; raises InputError."""
    parser = Parser(__doc__)
    parser.add_argument("layout", choices=list(LAYOUTS), help="the layout to write")
    parser.add_argument("source", type=Path, help="FER2013, as class folders or csv")
    parser.add_argument("target", type=Path, help="a folder that does not exist yet")
    args = parser.parse_args(arguments)
    if args.target.exists():
        raise InputError(f"{args.target} exists already; give a folder that does not")
    count = LAYOUTS[args.layout](args.source, args.target)
    print(f"wrote {count:,} images to {args.target}")


if __name__ == "__main__":
    call_main(main)
