"""SFEW 2.0 (Dhall et al., 2011, 2015): film frames, or faces aligned from them."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

from common.errors import InputError

from .alignment import DEFAULT_SIZE
from .base import FaceDataset, class_folder_samples
from .framing import Framing
from .reading import open_image

FRAME_SIZE = (720, 576)


class SFEW(FaceDataset):
    """SFEW 2.0 in its official folders Train/Angry ... and Val/Angry ...

    The labels of its test split are not public, so the paper's number is on Val. The network
    needs faces, not film frames: `python -m tools.align_sfew` crops them.
    """

    name = "sfew"
    classes = ("Angry", "Disgust", "Fear", "Happy", "Neutral", "Sad", "Surprise")
    default_root = Path("datasets/sfew-aligned")
    splits = ("train", "val")
    evaluated_split = "val"
    framing = Framing(size=DEFAULT_SIZE)  # as tools.align_sfew writes them
    published_totals = {"train": 958, "val": 436}

    @classmethod
    def layout_help(cls) -> str:
        return "class folders Train/Angry ... Train/Surprise and Val/Angry ... Val/Surprise"

    def load(self) -> None:
        self.set_samples(class_folder_samples(self._folder(), self.classes))
        self.layout = self._frames_or_crops()
        if self.layout == "film frames" and self.problems is None:
            warnings.warn(
                f"{self.root} holds film frames, not faces; align them first: python -m "
                f"tools.align_sfew {self.root} {self.default_root}",
                stacklevel=4,
            )

    def persons(self) -> list[str] | None:
        """The film of each frame, whose actors are those of no other split.

        Names are film_time_frame.png; None where no name is.
        """
        names = [path.stem for path, _ in self.samples]
        films = [re.sub(r"_\d+_\d+$", "", name) for name in names]
        return None if films == names else films

    def image_folders(self) -> list[Path]:
        return [self._folder()]

    def _folder(self) -> Path:
        """The split's folder, in any case: Train or train."""
        named = {entry.name.lower(): entry for entry in self.root.iterdir() if entry.is_dir()}
        if self.split not in named:
            raise InputError(
                f"{self.root} has no folder {self.split.capitalize()}; {self.name} is read from "
                f"{self.layout_help()}"
            )
        return named[self.split]

    def _frames_or_crops(self) -> str:
        """Judged by the first image: aligned faces are square, film frames are not."""
        try:
            with open_image(self.samples[0][0]) as image:
                return "aligned faces" if image.width == image.height else "film frames"
        except (IndexError, OSError, ValueError, SyntaxError):
            return "unknown"  # reading the images will report what is wrong
