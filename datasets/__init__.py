"""Disk -> batch: the data sets of the paper, and synthetic faces in their layouts."""

from .affectnet import AffectNet, AffectNet7, AffectNet8
from .base import FaceDataset
from .fer2013 import FER2013
from .ferplus import FER2013Labels, FERPlus
from .framing import Framing
from .rafdb import RAFDB
from .sfew import SFEW

#: By the name that `eval.py --dataset` takes.
DATASETS: dict[str, type[FaceDataset]] = {
    cls.name: cls for cls in (RAFDB, AffectNet7, AffectNet8, SFEW, FER2013, FERPlus)
}

__all__ = [
    "DATASETS",
    "FER2013",
    "RAFDB",
    "SFEW",
    "AffectNet",
    "AffectNet7",
    "AffectNet8",
    "FER2013Labels",
    "FERPlus",
    "FaceDataset",
    "Framing",
]
