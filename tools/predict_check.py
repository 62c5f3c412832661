"""Accuracy of predict.py on faces in pictures, beside that on the same faces as they are.

    python -m tools.predict_check runs/fer2013-seed0/best.pth --faces 1000
    python -m tools.predict_check CHECKPOINT --data DIR --detector mtcnn --turn 20
    python -m tools.predict_check CHECKPOINT --split train     # to choose something

Faces of the data set's evaluated split, or of --split train those that the run evaluated where it
held out some (--holdout), are pasted into pictures of smooth noise: at a random place,
64 to 240 pixels large, turned by up to --turn degrees, some grey levels brighter or darker. The
detector has to find them, and the framing to cut them as the data set does. It prints how many were
found, the accuracy on these, and the accuracy on the same faces as they are.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from common.cli import Parser, call_main
from common.devices import find_device
from common.errors import InputError
from common.files import load_checkpoint
from common.progress import progress_bar
from datasets import DATASETS, FaceDataset
from datasets.detectors import DETECTORS, device_for_detectors, make_detector
from inference.faces import FacePredictor, PredictedFace
from results.trained import Trained, open_dataset, read_trained

from .calibrate import held_out_images

PICTURE = (640, 480)
SIZES = (64, 240)  # pixels, of the pasted square
AT_ONCE = 16


class Pasted(NamedTuple):
    """A picture with a face in it."""

    picture: Image.Image  # RGB
    center: np.ndarray  # (x, y) of the face, pixels
    side: int  # of the pasted square, pixels


def main(arguments: Sequence[str] | None = None) -> None:
    """Check as the command line says; raises InputError."""
    args = parse_arguments(arguments)
    trained, device = read_trained(args.checkpoint), find_device(args.device)
    dataset = open_dataset(trained, name=args.dataset, data=args.data, split=args.split)
    detector = make_detector(
        args.detector, weights=args.weights, device=device_for_detectors(device), min_score=0.6
    )
    as_is = FacePredictor(trained, None, device)
    in_picture = FacePredictor(trained, detector.batch, device)
    counts = np.zeros(5, int)  # faces, found, right as it is, right in the picture, elsewhere
    rng = np.random.default_rng(args.seed)
    chosen = rng.permutation(faces_of(trained, dataset))[: args.faces].tolist()
    with tqdm(**progress_bar(len(chosen), "pasted faces")) as bar:
        for start in range(0, len(chosen), AT_ONCE):
            indices = chosen[start : start + AT_ONCE]
            pasted = [paste(dataset.read_image(index), rng, args.turn) for index in indices]
            counts += check(dataset, indices, as_is, in_picture, pasted)
            bar.update(len(indices))
    report(counts, f"{dataset.name} {dataset.split}, detector {detector.name}")


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("checkpoint", type=Path, metavar="CHECKPOINT", help="last.pth, best.pth or a released file")
    add("--dataset", choices=list(DATASETS), help="data set [the checkpoint's]")
    add("--data", type=Path, metavar="DIR", help="data folder [where it was trained]")
    add("--split", metavar="NAME", help="of the data set [that of the published numbers]")
    add("--detector", choices=("auto", *DETECTORS), default="auto", help="the detector [auto]")
    add("--weights", type=Path, metavar="FILE", help="the detector's [downloaded once]")
    add("--faces", type=int, default=1000, metavar="N", help="how many [1000]")
    add("--turn", type=float, default=30.0, metavar="DEGREES", help="at most, either side [30]")
    add("--seed", type=int, default=0, metavar="N", help="chooses faces and places [0]")
    add("--device", default="auto", metavar="D", help="auto, cpu, cuda, cuda:1, mps [auto]")
    args = parser.parse_args(arguments)
    if args.faces < 1 or not 0 <= args.turn <= 180 or args.seed < 0:
        raise InputError("expected --faces from 1, --turn from 0 to 180 and --seed from 0 up")
    return args


def faces_of(trained: Trained, dataset: FaceDataset) -> np.ndarray:
    """Indices of the faces to take: of the training split those that the run held out, if any."""
    if dataset.split != "train" or not trained.settings.get("holdout"):
        return np.arange(len(dataset))
    training_images = load_checkpoint(trained.path).get("training_images")
    return np.array(held_out_images(trained, dataset, 0.0, training_images))


def check(
    dataset: FaceDataset,
    indices: Sequence[int],
    as_is: FacePredictor,
    in_picture: FacePredictor,
    pasted: Sequence[Pasted],
) -> np.ndarray:
    """Faces, found, right as it is, right in the picture (both of those found), elsewhere."""
    images = [dataset.read_image(index) for index in indices]
    found = in_picture([one.picture for one in pasted])
    counts = np.zeros(5, int)
    for index, (known,), one, faces in zip(indices, as_is(images), pasted, found, strict=True):
        face = face_there(faces, one)
        label = dataset.classes[dataset.labels[index]]
        counts += [1, face is not None, 0, 0, len(faces) - (face is not None)]
        if face is not None:
            counts[2:4] += [known.expression == label, face.expression == label]
    return counts


def paste(face: Image.Image, rng: np.random.Generator, turn: float) -> Pasted:
    """A face somewhere in a picture of smooth noise."""
    noise = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize(PICTURE, Image.Resampling.BICUBIC)
    side = int(rng.integers(*SIZES, endpoint=True))
    light, angle = rng.uniform(0.8, 1.2), rng.uniform(-turn, turn)
    lit = face.resize((side, side), Image.Resampling.BICUBIC).point(lambda value: value * light)
    mask = Image.new("L", lit.size, 255).rotate(angle, Image.Resampling.BICUBIC, expand=True)
    turned = lit.rotate(angle, Image.Resampling.BICUBIC, expand=True)
    corner = [int(rng.integers(0, PICTURE[i] - turned.size[i])) for i in range(2)]
    picture.paste(turned, tuple(corner), mask)
    return Pasted(picture, np.array(corner) + np.array(turned.size) / 2, side)


def face_there(faces: Sequence[PredictedFace], pasted: Pasted) -> PredictedFace | None:
    """The face whose box is nearest to the pasted one, its middle within a quarter of its side."""

    def distance(found: PredictedFace) -> float:
        left, top, right, bottom = found.face.box
        return float(np.hypot(*(np.array([left + right, top + bottom]) / 2 - pasted.center)))

    near = [face for face in faces if distance(face) <= pasted.side / 4]
    return min(near, key=distance, default=None)


def report(counts: np.ndarray, what: str) -> None:
    """Print the numbers; raises InputError where no face was found."""
    faces, found, known, right, elsewhere = counts.tolist()
    print(
        f"{what}: {found:,} of {faces:,} faces found ({found / faces:.1%}), {elsewhere} elsewhere"
    )
    if not found:
        raise InputError("no face was found; try another --detector")
    print(
        f"accuracy on those found: {100 * known / found:.2f} % as they are, "
        f"{100 * right / found:.2f} % in the pictures, {100 * (right - known) / found:+.2f} points"
    )


if __name__ == "__main__":
    call_main(main)
