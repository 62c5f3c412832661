"""Face detectors behind one call: RGB pictures -> the faces in them with five landmarks.

All come from optional packages, imported when a detector is asked for.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.ops import nms

from common.devices import find_device
from common.download import cached_download
from common.errors import InputError
from common.files import load_tensors

from .alignment import Face, warp

#: The quickest first.
DETECTORS = ("yunet", "retinaface", "mtcnn")
#: The requirements file that brings the package of a detector.
INSTALL = {
    "yunet": "pip install -r requirements-predict.txt",
    "retinaface": "pip install -r requirements-align.txt",
    "mtcnn": "pip install -r requirements-align.txt",
}
#: Its weights come with the package.
INSTALL_OFFLINE = "pip install facenet-pytorch==2.5.3"
YUNET_URL = (
    "https://github.com/opencv/opencv_zoo/raw/main/models/face_detection_yunet/"
    "face_detection_yunet_2023mar.onnx"
)
YUNET_SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"
# YuNet finds faces of about 10 to 300 pixels; larger ones are found in a smaller copy.
YUNET_MAX_FACE = 300
YUNET_SMALL_SIDE = 640
# Its landmarks are exact in faces of this size in an upright window; one pass is not enough.
YUNET_REFINED_FACE, YUNET_REFINED_WINDOW, YUNET_REFINEMENTS = 192, 320, 2
YUNET_SAME_FACE = 0.3  # intersection over union from which two boxes are one face
# Larger pictures are scaled down for detection; 48 megapixels would take minutes.
MAX_SIDE = 1600
# MTCNN fails on pictures in which no face of its smallest size, 20 pixels, would fit.
MTCNN_MIN_SIDE = 20
YUNET_MIN_SIDE = 8

#: Pictures of one size -> the faces of each.
Find = Callable[[Sequence[Image.Image]], list[list[Face]]]


class FaceDetector:
    """Finds the faces with at least `min_score`: of one picture by a call, of several by `batch`.

    name: that of the network, for instance "yunet" where "auto" was asked for.
    """

    def __init__(self, name: str, find: Find, min_score: float):
        self.name = name
        self._find, self._min_score = find, min_score

    def __call__(self, image: Image.Image) -> list[Face]:
        return self.batch([image])[0]

    def batch(self, images: Sequence[Image.Image]) -> list[list[Face]]:
        """The faces of each RGB picture, in the pictures' own pixels; sizes may differ."""
        found: list[list[Face]] = [[] for _ in images]
        by_size: dict[tuple[int, int], list[int]] = {}
        for index, image in enumerate(images):
            by_size.setdefault(image.size, []).append(index)
        for size, indices in by_size.items():
            small = [_at_most(images[index], MAX_SIDE) for index in indices]
            # Sides are rounded, so the two scales differ a little.
            scale = np.array(size) / small[0].size
            for index, faces in zip(indices, self._find(small), strict=True):
                scaled = (_scaled(face, scale) for face in faces)
                found[index] = [face for face in scaled if face.score >= self._min_score]
        return found


def make_detector(
    name: str = "retinaface",
    *,
    weights: str | Path | None = None,
    device: str = "cpu",
    min_score: float = 0.5,
) -> FaceDetector:
    """The detector of that name; see `FaceDetector` for what it is asked and answers.

    name: "yunet" (OpenCV's, CPU only), "retinaface" (the paper's; package batch-face), "mtcnn"
        (facenet-pytorch, which brings its weights), or "auto" for the first of these that works.
    weights: YuNet's or RetinaFace's file; None downloads it.
    device: "cpu", "cuda", "cuda:N", or "auto" for a GPU if there is one.

    min_score: 0 to 1; faces with a lower score are left out.

    Raises InputError where the package, the weights or the device is not available.
    """
    if name not in (*DETECTORS, "auto"):
        raise InputError(f"detector {name!r} is unknown; expected one of {', '.join(DETECTORS)}")
    if not 0 <= min_score <= 1:
        raise InputError(f"the lowest score of a face is {min_score}; expected 0 to 1")
    # The packages themselves would end with a traceback.
    place = find_device(device)
    if place.type not in ("cpu", "cuda"):
        raise InputError(f"the detectors do not run on {device}; expected cpu, cuda or cuda:N")
    if name == "auto" and weights is None:
        return _first_that_works(device, min_score)
    if name == "auto":
        name = "yunet" if Path(weights).suffix.lower() == ".onnx" else "retinaface"
    if name == "yunet":
        find = _yunet(weights, min_score)
    elif name == "retinaface":
        find = _retinaface(weights, -1 if place.type == "cpu" else place.index or 0)
    elif weights is not None:
        raise InputError("mtcnn includes its weights; leave --weights out, or use retinaface")
    else:
        find = _mtcnn(str(place))
    return FaceDetector(name, find, min_score)


def device_for_detectors(device: torch.device) -> str:
    """The device of that name for `make_detector` where it can use it, otherwise "cpu"."""
    return str(device) if device.type == "cuda" else "cpu"


def _first_that_works(device: str, min_score: float) -> FaceDetector:
    reasons = []
    for name in DETECTORS:
        try:
            return make_detector(name, device=device, min_score=min_score)
        except InputError as error:
            reasons.append(str(error))
    raise InputError(
        f"there is no face detector; {INSTALL['yunet']} installs the quickest (its weights are "
        f"downloaded once), {INSTALL_OFFLINE} one that includes its weights; tried: "
        f"{'; '.join(reasons)}"
    )


def _at_most(image: Image.Image, side: int) -> Image.Image:
    """An RGB copy whose longer side has at most `side` pixels."""
    shrink = min(1.0, side / max(image.size))
    if shrink < 1:
        image = image.resize([max(1, round(length * shrink)) for length in image.size])
    return image.convert("RGB")


def _scaled(face: Face, scale: np.ndarray) -> Face:
    box = tuple((np.array(face.box).reshape(2, 2) * scale).ravel().tolist())
    return Face(box, face.score, face.landmarks * scale)


def _package(name: str, module: str, distribution: str) -> Any:
    """The module that a detector comes from."""
    if importlib.util.find_spec(module) is None:
        raise InputError(
            f"the detector {name} needs the package {distribution}, which is not installed; "
            f"{INSTALL[name]}"
        )
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"the package {distribution} is installed but cannot be loaded ({error}); "
            f"{INSTALL[name]}"
        ) from error


def _yunet(weights: str | Path | None, min_score: float) -> Find:
    cv2 = _package("yunet", "cv2", "opencv-python-headless")
    path = Path(weights) if weights is not None else cached_download(YUNET_URL, YUNET_SHA256)
    if not path.is_file():
        raise InputError(f"detector weights {path} do not exist or are not a file")
    # Version 5 warns of a setting that nobody made.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
    try:
        network = cv2.FaceDetectorYN_create(str(path), "", (YUNET_SMALL_SIDE,) * 2, min_score)
        network.detect(np.zeros((YUNET_SMALL_SIDE, YUNET_SMALL_SIDE, 3), np.uint8))
    except cv2.error as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"detector weights {path} are not YuNet's ({reason}); expected "
            f"{YUNET_URL.rpartition('/')[2]}"
        ) from error

    def find_at(image: Image.Image) -> list[Face]:
        network.setInputSize(image.size)
        # OpenCV's pictures are blue, green, red.
        _, rows = network.detect(np.asarray(image)[:, :, ::-1].copy())
        # Its landmarks begin at the side with the smaller x, as ours.
        return [
            _face((left, top, left + width, top + height), score, np.reshape(points, (5, 2)))
            for left, top, width, height, *points, score in ([] if rows is None else rows)
        ]

    def find_one(image: Image.Image) -> list[Face]:
        if min(image.size) < YUNET_MIN_SIDE:
            return []
        faces = find_at(image)
        if max(image.size) <= YUNET_SMALL_SIDE:
            return [_refined(face, image, find_at) for face in faces]
        small = _at_most(image, YUNET_SMALL_SIDE)
        scale = np.array(image.size) / small.size
        faces = [face for face in faces if face.height <= YUNET_MAX_FACE]
        faces += [_scaled(face, scale) for face in find_at(small)]
        return [
            _refined(face, image, find_at)
            if face.height <= YUNET_MAX_FACE
            else _scaled(_refined(_scaled(face, 1 / scale), small, find_at), scale)
            for face in _distinct(faces)
        ]

    return lambda images: [find_one(image) for image in images]


def _refined(face: Face, image: Image.Image, find_at: Callable[[Image.Image], list[Face]]) -> Face:
    """A face with the landmarks that are found in an enlarged copy of it, turned upright.

    Of a turned face of 90 pixels YuNet sees an eighth of the turn, of 190 pixels three quarters.
    """
    landmarks, side = face.landmarks, YUNET_REFINED_WINDOW
    left, top, right, bottom = face.box
    center = np.array([left + right, top + bottom]) / 2
    scale = YUNET_REFINED_FACE / max(right - left, bottom - top, 1.0)
    for _ in range(YUNET_REFINEMENTS):
        across = landmarks[1] - landmarks[0]
        cos, sin = scale * across / max(np.hypot(*across), 1e-6)
        turn = np.array([[cos, sin], [-sin, cos]])
        forward = np.column_stack([turn, side / 2 - turn @ center])
        found = find_at(warp(image, forward, (side, side)))
        if not found:
            break
        nearest = min(found, key=lambda one: np.hypot(*(one.landmarks.mean(axis=0) - side / 2)))
        landmarks = (nearest.landmarks - forward[:, 2]) @ np.linalg.inv(turn).T
    return replace(face, landmarks=landmarks)


def _distinct(faces: Sequence[Face]) -> list[Face]:
    """One of the faces whose boxes overlap: that of the highest score."""
    if not faces:
        return []
    boxes = torch.tensor([face.box for face in faces])
    scores = torch.tensor([face.score for face in faces])
    return [faces[index] for index in nms(boxes, scores, YUNET_SAME_FACE).tolist()]


def _mtcnn(device: str) -> Find:
    package = _package("mtcnn", "facenet_pytorch", "facenet-pytorch")
    network = package.MTCNN(keep_all=True, device=device)

    def find(images: Sequence[Image.Image]) -> list[list[Face]]:
        if min(images[0].size) < MTCNN_MIN_SIDE:
            return [[] for _ in images]
        results = zip(*network.detect(list(images), landmarks=True), strict=True)
        return [
            [] if boxes is None else [_face(*found) for found in zip(boxes, *rest, strict=True)]
            for boxes, *rest in results
        ]

    return find


def _retinaface(weights: str | Path | None, gpu: int) -> Find:
    package = _package("retinaface", "batch_face", "batch-face")
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

    def find(images: Sequence[Image.Image]) -> list[list[Face]]:
        results = network([np.array(image) for image in images], return_dict=True)
        return [
            [_face(face["box"], face["score"], face["kps"]) for face in faces] for faces in results
        ]

    return find


def _face(box: Any, score: Any, landmarks: Any) -> Face:
    sides = tuple(float(value) for value in box)
    return Face(sides, float(score), np.asarray(landmarks, dtype=np.float64))
