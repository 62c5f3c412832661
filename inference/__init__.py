"""Pictures and videos -> the faces in them with the probabilities of the expressions."""

from .drawing import annotated
from .faces import FacePredictor, FramedFace, PredictedFace, frame_faces, probabilities
from .photo import predict_faces

__all__ = [
    "FacePredictor",
    "FramedFace",
    "PredictedFace",
    "annotated",
    "frame_faces",
    "predict_faces",
    "probabilities",
]
