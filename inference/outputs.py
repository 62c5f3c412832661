"""What is found -> table, json, csv, annotated pictures and videos, and a page."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from common.errors import InputError
from common.files import make_folder, write_whole
from results.pictures import save_figure
from results.trained import Trained

from .drawing import annotated
from .faces import PredictedFace
from .gallery import Gallery
from .growing import CsvTable, JsonList
from .sources import Source
from .timeline import Timeline
from .tracking import Followed
from .video import Frame, VideoWriter

ANNOTATED = "annotated"  # folder below --output
COLUMNS = ("file", "time", "person", "left", "top", "right", "bottom", "score", "expression")


def columns(class_names: Sequence[str]) -> list[str]:
    """The columns of a csv."""
    return [*COLUMNS, "probability", *class_names]


def face_dict(face: PredictedFace, person: int | None = None) -> dict[str, Any]:
    """A face as the json has it; box in pixels."""
    content: dict[str, Any] = {
        "box": [round(side, 1) for side in face.face.box],
        "score": round(face.face.score, 4),
        "expression": face.expression,
        "probability": round(face.probability, 6),
        "probabilities": {
            name: round(float(value), 6)
            for name, value in zip(face.class_names, face.probabilities, strict=True)
        },
    }
    return content if person is None else {**content, "person": person}


def face_row(
    source: Path | str, face: PredictedFace, time: float | None = None, person: int | None = None
) -> list[Any]:
    """A face as a row of the csv."""
    content = face_dict(face)
    return [
        str(source),
        "" if time is None else f"{time:.3f}",
        "" if person is None else person,
        *content["box"],
        content["score"],
        content["expression"],
        content["probability"],
        *content["probabilities"].values(),
    ]


class Outputs:
    """The files that the command line asks for; `close` completes them."""

    def __init__(
        self,
        trained: Trained,
        device: torch.device,
        *,
        json: Path | None = None,
        csv: Path | None = None,
        folder: Path | None = None,
    ):
        """Raises InputError where a file cannot be written."""
        for path in (json, csv):
            if path and (path.is_dir() or not path.parent.is_dir()):
                raise InputError(f"cannot write {path}: expected a file in a folder that exists")
        if folder:
            make_folder(folder)
        self.class_names = trained.class_names()
        self.folder = folder
        self._json = JsonList(json) if json else None
        self._csv = CsvTable(csv, columns(self.class_names)) if csv else None
        self._gallery = Gallery(folder, trained, device) if folder else None
        self._video: VideoOutputs | None = None  # from its first frame on

    def add_picture(
        self, source: Source, image: Image.Image, faces: Sequence[PredictedFace]
    ) -> None:
        """A picture and its faces."""
        self._add_entry(source.path, [(None, face) for face in faces], None)
        if self._gallery and faces:
            path = self._place(source, (".jpg", ".jpeg", ".png"), ".png")
            picture, jpeg = annotated(image, faces), path.suffix.lower() != ".png"
            kind = {"format": "JPEG", "quality": 92} if jpeg else {"format": "PNG"}
            # Not into the file: Pillow takes no notice of a disk that is full.
            buffer = io.BytesIO()
            picture.save(buffer, **kind)
            write_whole(path, lambda stream: stream.write(buffer.getbuffer()))
            self._gallery.add(str(source.name), path, faces)

    def add_frame(
        self, source: Source, frame: Frame, faces: Sequence[Followed], *, analysed: bool = True
    ) -> None:
        """A frame of a video and its faces; where it was not analysed, those of the one before."""
        if analysed:
            self._add_entry(source.path, faces, frame.time)
        if self._gallery:
            if self._video is None:
                path = self._place(source, (".mp4",), ".mp4")
                self._video = VideoOutputs(path, source, self._gallery, self.class_names)
            self._video.add(frame, faces, analysed=analysed)

    def close_video(self) -> None:
        """The video has ended."""
        if self._video:
            video, self._video = self._video, None
            video.close()

    def close(self, lines: Sequence[str] = ()) -> None:
        """Complete the files, also after an interruption; lines: said at the end of the page."""
        self.close_video()
        for file in (self._json, self._csv):
            if file:
                file.close()
        if self._gallery:
            self._gallery.close(lines)

    def _add_entry(
        self, path: Path, faces: Sequence[tuple[int | None, PredictedFace]], time: float | None
    ) -> None:
        if self._json:
            found = [face_dict(face, person) for person, face in faces]
            when = {} if time is None else {"time": round(time, 3)}
            self._json.add({"file": str(path), **when, "faces": found})
        if self._csv:
            for person, face in faces:
                self._csv.add(face_row(path, face, time, person))

    def _place(self, source: Source, kept: Sequence[str], otherwise: str) -> Path:
        """Where the annotated copy goes: its ending is kept, or another one is added."""
        name = source.name
        if name.suffix.lower() not in kept:
            name = name.with_name(name.name + otherwise)
        path = self.folder / ANNOTATED / name
        if path.resolve() == source.path.resolve():
            raise InputError(
                f"{path} would be overwritten by its own annotated copy; give another --output"
            )
        make_folder(path.parent)
        return path


class VideoOutputs:
    """The annotated video, its csv and, where there was a face, its plot."""

    def __init__(self, path: Path, source: Source, gallery: Gallery, class_names: Sequence[str]):
        self.path, self.title = path, str(source.name)
        self._source, self._gallery = source, gallery
        self._writer = VideoWriter(path)
        self._csv = CsvTable(path.with_suffix(".faces.csv"), columns(class_names))
        self._timeline = Timeline(class_names)

    def add(self, frame: Frame, faces: Sequence[Followed], *, analysed: bool) -> None:
        """A frame, with the faces that are drawn."""
        found = [face for _, face in faces]
        image = annotated(frame.image, found, [number for number, _ in faces])
        self._writer.write(Frame(frame.time, image))
        if not analysed:
            return
        for number, face in faces:
            self._csv.add(face_row(self._source.path, face, frame.time, number))
            if number not in self._timeline.persons:
                title = f"{self.title}, person {number}, first seen at {frame.time:.1f} s"
                self._gallery.add(title, self.path, [face])
        self._timeline.add(frame.time, faces)

    def close(self) -> None:
        """Complete the files of this video."""
        self._writer.close()
        self._csv.close()
        if self._timeline.persons:
            figure = self._timeline.figure(self.title)
            save_figure(figure, self.path.with_suffix(".timeline"), kinds=("png",))
            self._gallery.add_timeline(self.title, self.path, self._csv.path, figure)
