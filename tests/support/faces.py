"""Synthetic faces in photos, as a detector gives them, and checkpoints that look at them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from datasets import RAFDB
from datasets.alignment import Face
from datasets.demo import draw_face, face_in_frame


def photo(expression: str, seed: int = 0) -> tuple[Image.Image, Face]:
    """A 720x576 picture with one synthetic face, and the face as a detector gives it."""
    rng = np.random.default_rng(seed)
    picture, landmarks = face_in_frame(draw_face(expression, rng, size=64), rng)
    return picture, face_at(landmarks)


def face_at(landmarks: np.ndarray) -> Face:
    """The face with these landmarks (5, 2): a square about their middle."""
    middle, reach = landmarks.mean(axis=0), 1.6 * np.ptp(landmarks, axis=0).max()
    return Face((*(middle - reach / 2).tolist(), *(middle + reach / 2).tolist()), 0.9, landmarks)


def save_checkpoint(path: Path, network: nn.Module, classes: Sequence[str] = RAFDB.classes) -> Path:
    """A checkpoint of ours for RAF-DB at 64 pixels."""
    content = {
        "iter": 1,
        "model_state_dict": network.state_dict(),
        "dataset": "rafdb",
        "class_names": list(classes),
        "settings": {"image_size": 64},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path
