"""Disk -> batch: the data sets of the paper, and faces that the project draws itself."""

from .base import FaceDataset
from .fer2013 import FER2013
from .rafdb import RAFDB

#: By the name that `eval.py --dataset` takes.
DATASETS: dict[str, type[FaceDataset]] = {cls.name: cls for cls in (RAFDB, FER2013)}

__all__ = ["DATASETS", "FER2013", "RAFDB", "FaceDataset"]
