"""The page with every face, one HTML file, written face by face."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import ImageOps

from datasets.transforms import evaluation
from networks import DAN
from networks.attention import spatial_maps
from results.page import PICTURE_SIDE, page_environment
from results.pictures import overlay
from results.trained import Trained

from .faces import BATCH_SIZE, PredictedFace
from .growing import GrowingFile

#: What an expression label is and is not; docs/predicting.md and the app say the same.
MEANING = (
    "An expression label is the name that annotators would most likely give to how a face looks in "
    "one picture, out of the classes that the network was trained on. It is not what the person "
    "feels, thinks or intends, and nothing about a person may be decided by it."
)
FOLDER = Path(__file__).parent
MODEL_CARD = FOLDER.parent / "MODEL_CARD.md"


class Sections:
    """A section of HTML for every face: the crop, bars of all classes, where the heads look."""

    def __init__(self, trained: Trained, device: torch.device):
        self._trained, self._device = trained, device
        self.parts = page_environment(FOLDER).get_template("gallery.html.j2").module

    def of(self, title: str, link: str | None, faces: Sequence[PredictedFace]) -> Iterator[str]:
        """The sections of the faces of a picture; link: an address for the title."""
        for place, (face, maps) in enumerate(zip(faces, self._maps(faces), strict=True), start=1):
            named = f"{title}, face {place}" if len(faces) > 1 else title
            large = ImageOps.contain(face.crop, (PICTURE_SIDE, PICTURE_SIDE))
            yield str(self.parts.face(named, link, face, [overlay(large, heat) for heat in maps]))

    def _maps(self, faces: Sequence[PredictedFace]) -> Iterator[Sequence[np.ndarray]]:
        """The maps of each face's heads, (k, h, w); none for a network without heads."""
        network, prepare = self._trained.network, evaluation(self._trained.image_size)
        if not isinstance(network, DAN):
            yield from [()] * len(faces)
            return
        network.eval().to(self._device)
        for start in range(0, len(faces), BATCH_SIZE):
            some = faces[start : start + BATCH_SIZE]
            images = torch.stack([prepare(face.crop) for face in some])
            yield from spatial_maps(network, images.to(self._device)).cpu().numpy()


class Gallery:
    """index.html in a folder, with a section for every face that is added."""

    def __init__(self, folder: Path, trained: Trained, device: torch.device):
        self._folder, self._sections = folder, Sections(trained, device)
        self._parts = self._sections.parts
        self._file = GrowingFile(folder / "index.html")
        title = f"Expressions by {trained.path.name}"
        self._write(self._parts.head(title, MEANING, _address(MODEL_CARD, folder)))

    def add(self, title: str, link: Path | None, faces: Sequence[PredictedFace]) -> None:
        """A section per face; link: the annotated picture or video."""
        for section in self._sections.of(title, link and _address(link, self._folder), faces):
            self._write(section)

    def add_timeline(self, title: str, video: Path, table: Path, figure: Figure) -> None:
        """The plot of a video."""
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110)
        image = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
        addresses = (_address(path, self._folder) for path in (video, table))
        self._write(self._parts.timeline(title, *addresses, image))

    def close(self, lines: Sequence[str]) -> None:
        """Write the file; lines: what could not be read, and the like."""
        self._write(self._parts.foot(lines))
        self._file.close()

    def _write(self, text: object) -> None:
        self._file.write(str(text))


def _address(path: Path, folder: Path) -> str:
    """A file as a link from a page in `folder`."""
    return quote(Path(os.path.relpath(path, folder)).as_posix())
