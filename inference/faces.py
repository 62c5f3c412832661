"""RGB pictures -> the faces in them, framed as in training -> probabilities."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from common.devices import wants_bf16
from common.errors import InputError
from datasets import Framing
from datasets.alignment import Face, choose_face
from datasets.transforms import evaluation
from engine.speed import MEMORY_FORMAT, autocast
from networks import fast_network
from results.trained import Trained

#: Pictures, of any sizes -> the faces of each: `datasets.detectors.FaceDetector.batch`.
FindFaces = Callable[[Sequence[Image.Image]], Sequence[Sequence[Face]]]
BATCH_SIZE = 64  # faces


@dataclass(frozen=True)
class FramedFace:
    """A face and its crop, framed as the training images; RGB."""

    face: Face
    crop: Image.Image


@dataclass(frozen=True)
class PredictedFace(FramedFace):
    """A face with its expression."""

    probabilities: np.ndarray  # (C,), adds up to 1
    class_names: Sequence[str]  # (C,)

    @property
    def expression(self) -> str:
        """Name of the most probable class."""
        return self.class_names[int(self.probabilities.argmax())]

    @property
    def probability(self) -> float:
        """That of `expression`."""
        return float(self.probabilities.max())


class FacePredictor:
    """Finds the faces of pictures and predicts their expressions; counts what it did.

    seconds: by stage, "detection", "alignment" and "network". pictures, faces: their numbers.
    """

    def __init__(
        self,
        trained: Trained,
        find: FindFaces | None,
        device: torch.device,
        *,
        choose: str | None = None,
        amp: str = "off",
        batch_size: int = BATCH_SIZE,
    ):
        """find: of a detector, or None where every picture is an aligned face.

        choose: one of `datasets.alignment.CHOICES`, for one face per picture; None: all faces.
        amp: "off", "bf16", or "auto" for bfloat16 where the hardware natively supports it.
        batch_size: faces at a time.
        """
        self.trained, self.class_names = trained, trained.class_names()
        self.device, self.batch_size = device, batch_size
        self._find, self._choose = find, choose
        self._bf16 = wants_bf16(amp, device)
        self._network = fast_network(trained.network, device, bf16=self._bf16)
        self.seconds: Counter[str] = Counter()
        self.pictures = self.faces = 0

    def __call__(self, pictures: Sequence[Image.Image]) -> list[list[PredictedFace]]:
        """The faces of each RGB picture, from left to right.

        Raises InputError where the network's output is not finite.
        """
        with self._timed("detection"):
            found = self._find(pictures) if self._find else [[whole(one)] for one in pictures]
        with self._timed("alignment"):
            framed = [
                frame_faces(picture, faces, self._framing, self._choose)
                for picture, faces in zip(pictures, found, strict=True)
            ]
        with self._timed("network"):
            shares = iter(self._probabilities([one.crop for faces in framed for one in faces]))
        self.pictures += len(pictures)
        self.faces += sum(map(len, framed))
        return [
            [PredictedFace(one.face, one.crop, next(shares), self.class_names) for one in faces]
            for faces in framed
        ]

    @property
    def _framing(self) -> Framing | None:
        return self.trained.framing if self._find else None

    def _probabilities(self, crops: Sequence[Image.Image]) -> list[np.ndarray]:
        found: list[np.ndarray] = []
        for start in range(0, len(crops), self.batch_size):
            shares = probabilities(
                self._network,
                crops[start : start + self.batch_size],
                self.trained.image_size,
                self.device,
                temperature=self.trained.temperature,
                bf16=self._bf16,
            )
            found.extend(shares.numpy())
        return found

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[stage] += time.perf_counter() - started


def whole(picture: Image.Image) -> Face:
    """A picture that is an aligned face itself; its landmarks are unknown."""
    return Face((0.0, 0.0, *map(float, picture.size)), 1.0, np.full((5, 2), np.nan))


def frame_faces(
    picture: Image.Image,
    faces: Sequence[Face],
    framing: Framing | None,
    choose: str | None = None,
) -> list[FramedFace]:
    """The faces of an RGB picture from left to right, framed; all, or the one that is chosen.

    framing: None: a face is the whole picture. A face whose landmarks give no direction or size
    is left out.
    """
    if choose is not None:
        chosen = choose_face(faces, picture, choose)
        faces = [] if chosen is None else [chosen]
    framed = []
    for face in sorted(faces, key=lambda face: face.box):
        try:
            crop = picture if framing is None else framing.crop(picture, face)
        except InputError:
            continue
        framed.append(FramedFace(face, crop))
    return framed


@torch.inference_mode()
def probabilities(
    network: nn.Module,
    crops: Sequence[Image.Image],
    image_size: int,
    device: torch.device,
    *,
    temperature: float = 1.0,
    bf16: bool = False,
) -> Tensor:
    """Probabilities (B, C) of framed faces (RGB, any size) in float32 on the CPU.

    softmax(logits / temperature). The network is in eval mode and on the device.

    Raises InputError where the network's output is not finite.
    """
    if not crops:
        return torch.zeros(0, network.num_classes)
    prepare = evaluation(image_size)
    images = torch.stack([prepare(crop) for crop in crops])
    with autocast(device, bf16):
        logits = network(images.to(device, memory_format=MEMORY_FORMAT)).logits
    logits = logits.float().cpu()
    if not logits.isfinite().all():
        raise InputError("the network's output is not finite: its weights are unusable")
    return torch.softmax(logits / temperature, dim=1)
