"""Videos: every frame at its time; what is damaged is read as far as it goes."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

from common.errors import InputError
from inference.video import Frame, Video, VideoWriter, camera_frames

av = pytest.importorskip("av", reason="av (requirements-predict.txt) is not installed")
TIMES = [0.0, 0.04, 0.1, 0.5, 0.52, 1.0]


def frame(time: float, level: int, size: tuple[int, int] = (64, 48)) -> Frame:
    return Frame(time, Image.new("RGB", size, (level, level, level)))


def write(path, frames) -> None:
    writer = VideoWriter(path)
    for one in frames:
        writer.write(one)
    assert not path.exists()
    writer.close()


def test_frames_come_back_at_their_times(tmp_path):
    path = tmp_path / "ein Vídeo.mp4"
    write(path, [frame(time, 30 * i) for i, time in enumerate(TIMES)])
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    video = Video(path)
    found = list(video)
    assert video.total == len(found) == len(TIMES)
    assert [one.time for one in found] == pytest.approx(TIMES, abs=1e-3)
    levels = [np.asarray(one.image).mean() for one in found]
    assert levels == pytest.approx([30 * i for i in range(6)], abs=4)
    assert video.problem == ""


def test_odd_and_changing_sizes_and_times_that_stand_still(tmp_path):
    path = tmp_path / "x.mp4"
    sizes = [(63, 47), (63, 47), (200, 100)]
    write(path, [frame(0.0, 100, size) for size in sizes])
    found = list(Video(path))
    assert [one.image.size for one in found] == [(62, 46)] * 3
    assert found[0].time < found[1].time < found[2].time


def test_a_video_whose_frames_change_their_size_is_read(tmp_path):
    """Two streams of frames of different sizes, one after the other, as some cameras write."""
    path = tmp_path / "x.ts"
    parts = []
    for number, size in enumerate([(64, 48), (96, 80)]):
        part = tmp_path / f"{number}.ts"
        with av.open(str(part), "w", format="mpegts") as container:
            stream = container.add_stream("mpeg2video", rate=25)
            stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
            for _ in range(5):
                container.mux(stream.encode(av.VideoFrame.from_image(Image.new("RGB", size))))
            container.mux(stream.encode())
        parts.append(part.read_bytes())
    path.write_bytes(b"".join(parts))
    assert {one.image.size for one in Video(path)} == {(64, 48), (96, 80)}


def test_a_video_that_is_cut_off_gives_what_is_there(tmp_path):
    whole, path = tmp_path / "whole.mkv", tmp_path / "cut.mkv"
    with av.open(str(whole), "w", format="matroska") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        rng = np.random.default_rng(0)
        for _ in range(50):
            noise = rng.integers(0, 255, (48, 64, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, "rgb24")))
        container.mux(stream.encode())
    content = whole.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    video = Video(path)
    assert video.total == 50
    assert 10 < len(list(video)) < 45
    assert re.fullmatch(r"the file ends at (0|1)\.\d of 2\.0 seconds", video.problem)


def test_damaged_frames_are_left_out_and_said(tmp_path):
    path = tmp_path / "x.mp4"
    rng = np.random.default_rng(0)
    noise = [Image.fromarray(rng.integers(0, 255, (48, 64, 3), np.uint8)) for _ in range(50)]
    write(path, [Frame(i / 25, image) for i, image in enumerate(noise)])
    content = bytearray(path.read_bytes())
    start = len(content) // 3
    content[start : start + 2000] = rng.bytes(2000)
    path.write_bytes(content)
    video = Video(path)
    found = list(video)
    assert 20 < len(found) <= 50
    assert found[-1].time == pytest.approx(49 / 25, abs=0.01)
    assert video.problem.startswith("some are damaged")


@pytest.mark.parametrize("content", [b"", b"no video at all", b"\0" * 4096])
def test_what_is_no_video_is_one_line(content, tmp_path):
    path = tmp_path / "x.mp4"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"^video .*x.mp4 cannot be read .*convert it"):
        Video(path)


def test_an_unknown_codec_is_one_line(tmp_path):
    path = tmp_path / "x.mp4"
    write(path, [frame(0.0, 10), frame(0.1, 20)])
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))
    with pytest.raises(InputError, match="cannot be read"):
        Video(path)


def test_sound_alone_is_no_video(tmp_path):
    path = tmp_path / "x.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        sound.sample_rate = 44100
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with pytest.raises(InputError, match="no video in it"):
        Video(path)


def test_a_writer_that_saw_no_frame_writes_nothing(tmp_path):
    VideoWriter(tmp_path / "x.mp4").close()
    assert list(tmp_path.iterdir()) == []


def test_a_video_that_cannot_be_written_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    writer = VideoWriter(tmp_path / "nowhere/x.mp4")
    writer.write(frame(0.0, 100))
    with pytest.raises(InputError, match=r"cannot write .*nowhere/x.mp4: No such file"):
        writer.close()
    writer = VideoWriter(tmp_path / "x.mp4")
    writer.write(frame(0.0, 100))

    class Full:
        def mux(self, _packets):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer, "_container", Full())
    with pytest.raises(InputError, match=r"cannot write .*x.mp4: No space left"):
        writer.write(frame(0.1, 100))
    writer.close()
    assert list(tmp_path.iterdir()) == []


def test_no_camera_is_one_line():
    pytest.importorskip("cv2", reason="OpenCV (requirements-predict.txt) is not installed")
    with pytest.raises(InputError, match="camera 97 gives no picture"):
        next(camera_frames(97))
