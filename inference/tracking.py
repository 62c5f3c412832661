"""Faces of one frame -> the same persons in the next, by the overlap of their boxes."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torchvision.ops import box_iou

from .faces import FacePredictor, PredictedFace
from .sources import PIXELS_AT_ONCE
from .video import Frame

Followed = tuple[int, PredictedFace]  # number of a person, and the face
SAME_FACE = 0.3  # intersection over union from which two boxes are the same person's
PATIENCE = 1.0  # seconds for which a face may be lost, or else the time between two frames


@dataclass
class Track:
    """A person: where the face was last, and its smoothed probabilities."""

    number: int
    time: float  # seconds
    box: tuple[float, float, float, float]
    probabilities: np.ndarray


class Tracker:
    """Gives the faces of one person the same number, from 1, and smooths their probabilities.

    Boxes are paired so that the sum of their overlaps is largest; pairs that overlap less than
    SAME_FACE are none.
    """

    def __init__(self, smooth: float = 0.0):
        """smooth: seconds in which what was seen before loses all but 1/e of its weight."""
        self.smooth = smooth
        self.tracks: list[Track] = []
        self.count = 0
        self._before = 0.0  # seconds, of the frame before

    def follow(self, faces: Sequence[PredictedFace], time: float) -> list[Followed]:
        """(number, face) of the faces of the next frame; `time` in seconds."""
        since = min(time - PATIENCE, self._before)
        self.tracks = [track for track in self.tracks if track.time >= since]
        self._before = time
        matched = self._matches(faces)
        return [self._update(matched.get(place), face, time) for place, face in enumerate(faces)]

    def _matches(self, faces: Sequence[PredictedFace]) -> dict[int, Track]:
        """Position of a face -> its track."""
        if not (faces and self.tracks):
            return {}
        before = torch.tensor([track.box for track in self.tracks], dtype=torch.float64)
        now = torch.tensor([face.face.box for face in faces], dtype=torch.float64)
        overlaps = box_iou(now, before).numpy()
        pairs = zip(*linear_sum_assignment(overlaps, maximize=True), strict=True)
        return {int(i): self.tracks[j] for i, j in pairs if overlaps[i, j] >= SAME_FACE}

    def _update(self, track: Track | None, face: PredictedFace, time: float) -> Followed:
        if track is None:
            self.count += 1
            track = Track(self.count, time, face.face.box, face.probabilities)
            self.tracks.append(track)
            return track.number, face
        past = math.exp(-(time - track.time) / self.smooth) if self.smooth > 0 else 0.0
        track.probabilities = past * track.probabilities + (1 - past) * face.probabilities
        track.time, track.box = time, face.face.box
        return track.number, replace(face, probabilities=track.probabilities)


class SeenFrame(NamedTuple):
    """A frame and its faces; where it was not analysed, those of the frame before."""

    frame: Frame
    faces: list[Followed]
    analysed: bool


def follow_faces(
    predictor: FacePredictor,
    frames: Iterable[Frame],
    tracker: Tracker,
    *,
    every: int = 1,
    at_once: int = 16,
) -> Iterator[SeenFrame]:
    """The frames with their faces; every N-th frame is analysed, `at_once` of them at a time."""
    held: list[tuple[Frame, bool]] = []
    shown: list[Followed] = []
    for index, frame in enumerate(frames):
        held.append((frame, index % every == 0))
        pixels = sum(one.image.width * one.image.height for one, _ in held)
        if sum(due for _, due in held) == at_once or pixels > PIXELS_AT_ONCE:
            shown = yield from _analysed(predictor, held, tracker, shown)
            held = []
    yield from _analysed(predictor, held, tracker, shown)


def _analysed(
    predictor: FacePredictor,
    held: Sequence[tuple[Frame, bool]],
    tracker: Tracker,
    shown: list[Followed],
) -> Generator[SeenFrame, None, list[Followed]]:
    """These frames with their faces; returns the faces of the last one."""
    found = iter(predictor([frame.image for frame, due in held if due]))
    for frame, due in held:
        if due:
            shown = tracker.follow(next(found), frame.time)
        yield SeenFrame(frame, shown, due)
    return shown
