"""Pictures and videos -> the faces in them with the probabilities of the expressions."""

from .faces import FacePredictor, FramedFace, PredictedFace, frame_faces, probabilities

__all__ = ["FacePredictor", "FramedFace", "PredictedFace", "frame_faces", "probabilities"]
