"""Synthetic faces, so that anyone can train and evaluate without a licence.

A face is drawn from facial action units (FACS, intensities 0..1): `PROTOTYPES` lists the usual
combinations of each expression, and a random person, view, light and camera do the rest. The
writers put such faces on disk in the exact layout of a real data set, so that the loaders, the
train scripts and the evaluation cannot tell the difference.

    python -m datasets.demo rafdb build/demo/raf-basic       # RAF-DB's layout, 3000 + 1000 faces
    python -m datasets.demo affectnet build/demo/affectnet   # AffectNet's
    python -m datasets.demo sfew build/demo/sfew-frames      # SFEW's
    python -m datasets.demo rafdb build/demo/poses --turn 75  # with turned heads and their poses
    python -m datasets.demo feratt build/demo/feratt         # in pictures, with masks, for FERAtt
    python -m datasets.demo sheet build/demo/faces.png       # look at some

The faces are a test bench for the code. Accuracies on them say nothing about real faces.
"""

from .action_units import ACTION_UNITS, EXPRESSIONS, PROTOTYPES
from .affectnet import write_affectnet
from .command import main
from .face import VERSION, SyntheticFace, draw_face
from .feratt import write_feratt
from .rafdb import TEST_FACES, TRAIN_FACES, write_rafdb
from .sfew import face_in_frame, write_sfew
from .sheet import write_sheet

__all__ = [
    "ACTION_UNITS",
    "EXPRESSIONS",
    "PROTOTYPES",
    "TEST_FACES",
    "TRAIN_FACES",
    "VERSION",
    "SyntheticFace",
    "draw_face",
    "face_in_frame",
    "main",
    "write_affectnet",
    "write_feratt",
    "write_rafdb",
    "write_sfew",
    "write_sheet",
]
