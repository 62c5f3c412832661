"""Videos and cameras as frames with their times, and frames as a video.

PyAV rather than OpenCV: it gives the time of every frame, also where the frame rate changes, says
what is wrong with a file, and writes H.264, which browsers play.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from common.errors import InputError

INSTALL = "pip install -r requirements-predict.txt"
CLOCK = Fraction(1, 90_000)  # seconds, of the times in the videos that are written
#: A video of which a larger share is missing was cut off. Sound may be longer than the pictures.
MAY_BE_MISSING = 0.1


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

    problem: after the last frame, what could not be read; empty where all was.
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
            known = {IndexError: "no video in it"}
            raise InputError(
                f"video {path} cannot be read ({known.get(type(error)) or _reason(error)}); "
                "convert it, for instance with ffmpeg, to H.264 in mp4"
            ) from error
        self._stream.thread_type = "AUTO"
        self.duration = self._duration()

    @property
    def total(self) -> int | None:
        """How many frames the file says that it has; None where it does not say."""
        rate = self._stream.average_rate
        return self._stream.frames or (round(self.duration * rate) if rate else 0) or None

    def __iter__(self) -> Iterator[Frame]:
        count, first, last = 0, 0.0, 0.0
        with self._container:
            for frame in self._frames():
                # Without a time, as in damaged files, a frame follows the one before.
                last = last + 1 / 25 if frame.time is None else frame.time
                first = first if count else last
                count += 1
                yield Frame(last, _upright(frame))
        # The last frame is taken to last as long as the others.
        read = (last - first) * count / max(1, count - 1)
        if 0 < read < (1 - MAY_BE_MISSING) * self.duration and not self.problem:
            self.problem = f"the file ends at {read:.1f} of {self.duration:.1f} seconds"

    def _duration(self) -> float:
        """Seconds, as the file says; 0 where it does not say."""
        stream, container = self._stream, self._container
        if stream.duration:
            return float(stream.duration * stream.time_base)
        return (container.duration or 0) / self._av.time_base

    def _frames(self) -> Iterator[Any]:
        """Decoded frames; those that are damaged are left out."""
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
                frames = [] if packet is None else packet.decode()
            except (OSError, ValueError, self._av.FFmpegError) as error:
                self.problem = f"some are damaged: {_reason(error)}"
                continue
            yield from frames
            if packet is None:
                return


def _reason(error: Exception) -> str:
    """Why, without the numbers and the log that PyAV adds."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


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
        """Add a frame; one of another size than the first is scaled to that.

        Raises InputError where it cannot be written; then nothing is left of the video.
        """
        with self._or_nothing():
            self._write(frame)

    def close(self) -> None:
        """Finish the file, where a frame was written, and give it its name; raises as `write`."""
        if self._container is None:
            return
        with self._or_nothing():
            self._container.mux(self._stream.encode())
            self._container.close()
            self._temporary.replace(self.path)
        self._container = None

    @contextmanager
    def _or_nothing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, self._av.FFmpegError) as error:
            self._container = None
            self._temporary.unlink(missing_ok=True)
            raise InputError(f"cannot write {self.path}: {_reason(error)}") from error

    def _write(self, frame: Frame) -> None:
        if self._container is None:
            self._open(frame.image)
        size = (self._stream.width, self._stream.height)
        image = frame.image if frame.image.size == size else frame.image.resize(size)
        picture = self._av.VideoFrame.from_image(image)
        # Times must increase.
        self._last = max(self._last + 1, round(frame.time / CLOCK))
        picture.pts, picture.time_base = self._last, CLOCK
        self._container.mux(self._stream.encode(picture))

    def _open(self, image: Image.Image) -> None:
        self._container = self._av.open(str(self._temporary), "w", format="mp4")
        self._stream = self._container.add_stream("libx264", rate=25)
        # The rate is only a hint: every frame keeps its time.
        self._stream.codec_context.time_base = CLOCK
        self._stream.pix_fmt = "yuv420p"
        # Colours are stored for two by two pixels.
        self._stream.width, self._stream.height = (side - side % 2 or 2 for side in image.size)
        self._stream.options = {"crf": "20", "preset": "veryfast"}
