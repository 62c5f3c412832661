"""The faces of a photo from Python, in one call."""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from torch import nn

from common.errors import InputError
from datasets.alignment import Detector
from datasets.reading import open_rgb, to_rgb
from results.trained import framing_of

from .faces import PredictedFace, frame_faces, probabilities, whole


def predict_faces(
    model: nn.Module, image: Image.Image | str | Path, detector: Detector | None
) -> list[PredictedFace]:
    """The faces of a picture with their expressions, from left to right.

    model: of `networks.load_model`, on any device. image: a picture of any PIL mode, or a file.
    detector: of `datasets.detectors.make_detector`; None where the picture is an aligned face.

    Raises InputError where the file is no picture or the model was not loaded so.
    """
    if not hasattr(model, "class_names"):
        raise InputError(
            f"this {type(model).__name__} does not say its classes and how its images show a face; "
            "load it with networks.load_model(PATH)"
        )
    picture = to_rgb(image) if isinstance(image, Image.Image) else open_rgb(Path(image))
    faces = [whole(picture)] if detector is None else detector(picture)
    framing = None if detector is None else framing_of(model.dataset, model.framing)
    framed = frame_faces(picture, faces, framing)
    shares = probabilities(
        model,
        [one.crop for one in framed],
        model.image_size,
        next(model.parameters()).device,
        temperature=model.temperature,
    )
    return [
        PredictedFace(one.face, one.crop, share, model.class_names)
        for one, share in zip(framed, shares.numpy(), strict=True)
    ]
