"""RAF-DB, the seven basic expressions: official layout and label order."""

from __future__ import annotations

from pathlib import Path

from common.errors import InputError

from .base import FaceDataset

LABEL_FILE = Path("EmoLabel/list_patition_label.txt")  # spelled so in the release
IMAGE_FOLDER = Path("Image/aligned")


class RAFDB(FaceDataset):
    """RAF-DB basic, aligned 100x100 faces (Li, Deng and Du, CVPR 2017).

    Labels 1..7 in the files become 0..6 in the order of `classes`.
    """

    name = "rafdb"
    classes = ("Surprise", "Fear", "Disgust", "Happiness", "Sadness", "Anger", "Neutral")
    default_root = Path("datasets/raf-basic")
    listed = True
    published_size = (100, 100)
    published_counts = {
        "train": ((1290, 281, 717, 4772, 1982, 705, 2524),),
        "test": ((329, 74, 160, 1185, 478, 162, 680),),
    }

    @classmethod
    def layout_help(cls) -> str:
        return (
            f"{LABEL_FILE} (lines 'train_00001.jpg 5') and {IMAGE_FOLDER}/train_00001_aligned.jpg"
        )

    def load(self) -> None:
        self.folder = self._find_folder()
        label_file, folder = self.folder / LABEL_FILE, self.folder / IMAGE_FOLDER
        if not folder.is_dir():
            raise InputError(
                f"{folder} does not exist; {self.name} needs the aligned faces (unpack "
                f"aligned.zip): {self.layout_help()}"
            )
        # One listing instead of a question per file: the list names 15,339 of them.
        present = {path.name for path in folder.iterdir()}
        samples = []
        for number, line in enumerate(_lines(label_file), start=1):
            if not line.strip():
                continue
            name, label = self._parse(line, label_file, number)
            if not name.startswith(self.split):
                continue
            if name not in present:
                self.reject(
                    "missing",
                    f"image {folder / name} does not exist, but line {number} of {label_file} "
                    "lists it; unpack aligned.zip again",
                )
            elif label is not None:
                samples.append((folder / name, label))
        self.set_samples(samples)

    def _find_folder(self) -> Path:
        """The official archive unpacks to basic/; the release's readers call it raf-basic/."""
        for folder in (self.root, self.root / "raf-basic", self.root / "basic"):
            if (folder / LABEL_FILE).is_file():
                return folder
        raise InputError(
            f"{self.root / LABEL_FILE} not found (nor below raf-basic/ or basic/); {self.name} "
            f"is read from {self.layout_help()}"
        )

    def image_folders(self) -> list[Path]:
        return [self.folder / IMAGE_FOLDER]

    def _parse(self, line: str, path: Path, number: int) -> tuple[str, int | None]:
        """A line of the label file -> (name of the aligned image, label from 0 or None)."""
        fields = line.split()
        if len(fields) != 2 or not fields[0].startswith(self.splits):
            raise InputError(
                f"line {number} of {path} is {line.strip()!r}; expected 'train_00001.jpg 5' or "
                "'test_0001.jpg 5'"
            )
        image = Path(fields[0])
        if image.name != fields[0]:
            raise InputError(f"line {number} of {path} names {fields[0]!r}; expected a file name")
        aligned = f"{image.stem}_aligned{image.suffix}"
        if not fields[1].isdecimal() or not 1 <= int(fields[1]) <= len(self.classes):
            if fields[0].startswith(self.split):
                self.reject(
                    "label",
                    f"label {fields[1]!r} on line {number} of {path} is out of range; expected 1 "
                    f"to {len(self.classes)} ({', '.join(self.classes)})",
                )
            return aligned, None
        return aligned, int(fields[1]) - 1


def image_name(split: str, number: int) -> str:
    """The release's name, without suffix, of an image; numbers start at 1."""
    return f"{split}_{number:0{5 if split == 'train' else 4}}"


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not a text file ({error.reason} at byte {error.start})"
        ) from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
