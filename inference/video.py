"""Videos and cameras as frames with their times, and frames as a video.

PyAV rather than OpenCV: it gives the time of every frame, also where the frame rate changes, says
what is wrong with a file, and writes H.264, which browsers play.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from common.errors import InputError

INSTALL = "pip install -r requirements-predict.txt"
CLOCK = Fraction(1, 90_000)  # seconds, of the times in the videos that are written


class Frame(NamedTuple):
    """A frame of a video."""

    time: float  # seconds
    image: Image.Image  # RGB, upright


def _package(module: str, distribution: str, what: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(f"{what} need the package {distribution} ({error}); {INSTALL}") from error


class Video:
    """The frames of a video file, in order: `for frame in video`.

    problem: after the last frame, what kept the rest from being read; empty where nothing did.
    """

    def __init__(self, path: Path):
        """Raises InputError where the package is missing or the file is not a readable video."""
        self._av = _package("av", "av", "videos")
        self.path, self.problem = path, ""
        self._av.logging.set_level(self._av.logging.PANIC)  # errors are raised, not printed
        try:
            self._container = self._av.open(str(path))
            self._stream = self._container.streams.video[0]
            if self._stream.codec_context is None:
                raise ValueError("its codec is unknown")
        except (OSError, ValueError, IndexError, self._av.FFmpegError) as error:
            reason = "no video in it" if isinstance(error, IndexError) else error
            raise InputError(
                f"video {path} cannot be read ({reason}); convert it, for instance with ffmpeg, to "
                "H.264 in mp4"
            ) from error
        self._stream.thread_type = "AUTO"

    @property
    def total(self) -> int | None:
        """How many frames the file says that it has; None where it does not say."""
        stream = self._stream
        if stream.frames:
            return stream.frames
        if stream.duration and stream.average_rate:
            return round(stream.duration * stream.time_base * stream.average_rate)
        return None

    def __iter__(self) -> Iterator[Frame]:
        seconds = 0.0
        with self._container:
            try:
                for frame in self._container.decode(self._stream):
                    # Without a time, as in damaged files, a frame follows the one before.
                    seconds = seconds + 1 / 25 if frame.time is None else frame.time
                    yield Frame(seconds, _upright(frame))
            except (OSError, ValueError, self._av.FFmpegError) as error:
                self.problem = str(error) or type(error).__name__


def _upright(frame: Any) -> Image.Image:
    """A decoded frame, turned as the camera that held it was."""
    image = frame.to_image()
    turn = getattr(frame, "rotation", 0)
    return image.rotate(turn, expand=True) if turn else image


def camera_frames(number: int) -> Iterator[Frame]:
    """Frames of a camera as they come, without end; raises InputError where there is none."""
    cv2 = _package("cv2", "opencv-python-headless", "cameras")
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    camera = cv2.VideoCapture(number)
    try:
        started = time.monotonic()
        while True:
            there, pixels = camera.read()
            if not there:
                raise InputError(
                    f"camera {number} gives no picture; --webcam 0 is the first one, and another "
                    "program may be using it"
                )
            # OpenCV's pictures are blue, green, red.
            yield Frame(time.monotonic() - started, Image.fromarray(pixels[:, :, ::-1].copy()))
    finally:
        camera.release()


class VideoWriter:
    """Writes frames as H.264 in mp4, under a temporary name until `close`."""

    def __init__(self, path: Path):
        self._av = _package("av", "av", "videos")
        self.path = path
        self._temporary = path.with_name(f".{path.name}.partial")
        self._container: Any = None
        self._last = -1

    def write(self, frame: Frame) -> None:
        """Add a frame; one of another size than the first is scaled to that."""
        if self._container is None:
            self._open(frame.image)
        size = (self._stream.width, self._stream.height)
        image = frame.image if frame.image.size == size else frame.image.resize(size)
        picture = self._av.VideoFrame.from_image(image)
        # Times must increase.
        self._last = max(self._last + 1, round(frame.time / CLOCK))
        picture.pts, picture.time_base = self._last, CLOCK
        self._container.mux(self._stream.encode(picture))

    def close(self) -> None:
        """Finish the file, where a frame was written, and give it its name."""
        if self._container is None:
            return
        self._container.mux(self._stream.encode())
        self._container.close()
        self._container = None
        self._temporary.replace(self.path)

    def _open(self, image: Image.Image) -> None:
        self._container = self._av.open(str(self._temporary), "w", format="mp4")
        self._stream = self._container.add_stream("libx264", rate=25)
        # The rate is only a hint: every frame keeps its time.
        self._stream.codec_context.time_base = CLOCK
        self._stream.pix_fmt = "yuv420p"
        # Colours are stored for two by two pixels.
        self._stream.width, self._stream.height = (side - side % 2 or 2 for side in image.size)
        self._stream.options = {"crf": "20", "preset": "veryfast"}
