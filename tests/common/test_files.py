"""Files are whole or old, messages are one line, and a checkpoint cannot run code."""

from __future__ import annotations

import collections
import io
import json
import math
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from common.errors import InputError
from common.files import load_tensors, make_folder, write_json, write_text, write_whole
from engine.checkpoint import load_checkpoint, save_checkpoint
from tests.support.scripts import differences, snapshot

# --------------------------------------------------------------------------------------------
# Writing


def test_a_file_is_written_and_replaced(tmp_path):
    path = tmp_path / "numbers.txt"
    write_text(path, "één\n")
    assert path.read_bytes() == "één\n".encode()
    write_text(path, "two\n")
    assert snapshot(tmp_path) == {"numbers.txt": b"two\n"}


def fail_with(error: BaseException):
    """A writer that fails half way."""

    def write(stream):
        stream.write(b"half of the new")
        raise error

    return write


FULL_DISK = OSError(28, "No space left on device")


@pytest.mark.parametrize("error", [FULL_DISK, KeyboardInterrupt(), ZeroDivisionError()])
def test_the_old_content_survives_a_write_that_fails(tmp_path, error):
    path = tmp_path / "last.pth"
    path.write_bytes(b"old")
    expected = InputError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected):
        write_whole(path, fail_with(error))
    assert snapshot(tmp_path) == {"last.pth": b"old"}


def test_no_file_appears_where_the_first_write_fails(tmp_path):
    with pytest.raises(InputError, match="No space left on device"):
        write_whole(tmp_path / "new", fail_with(FULL_DISK))
    assert snapshot(tmp_path) == {}


def test_a_full_disk_under_torch_is_a_message(tmp_path, monkeypatch):
    path = tmp_path / "last.pth"
    path.write_bytes(b"old")
    save = torch.save

    def save_on_a_full_disk(content, stream):
        class Full(io.RawIOBase):
            def writable(self):
                return True

            def write(self, data):
                raise FULL_DISK

        save(content, Full())

    monkeypatch.setattr(torch, "save", save_on_a_full_disk)
    with pytest.raises(InputError, match="still whole"):
        save_checkpoint(path, {"model_state_dict": {"weight": torch.zeros(1000)}})
    assert snapshot(tmp_path) == {"last.pth": b"old"}


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_the_old_content_survives_a_disk_that_fails_at_the_end(tmp_path, monkeypatch, step):
    path = tmp_path / "metrics.csv"
    path.write_bytes(b"old")

    def fail(*arguments):
        raise OSError(5, "Input/output error")

    if step == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    else:
        monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(InputError, match="Input/output error") as error:
        write_text(path, "new")
    assert str(path) in str(error.value)
    assert snapshot(tmp_path) == {"metrics.csv": b"old"}


def test_a_folder_that_is_missing_or_no_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "missing/out.json", tmp_path / "file/out.json"):
        with pytest.raises(InputError, match="cannot write") as error:
            write_json(path, {})
        assert str(path) in str(error.value)
    assert snapshot(tmp_path) == {"file": b"mine"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_named(tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(InputError, match="Permission denied"):
        write_text(tmp_path / "out.txt", "new")
    tmp_path.chmod(0o755)


def test_a_folder_in_the_place_of_the_file_stays(tmp_path):
    (tmp_path / "out.json").mkdir()
    with pytest.raises(InputError, match=r"out\.json"):
        write_json(tmp_path / "out.json", {})
    assert (tmp_path / "out.json").is_dir()
    assert len(list(tmp_path.iterdir())) == 1


def test_a_link_is_followed_and_stays_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    target = tmp_path / "disk/last.pth"
    target.write_text("old")
    link = tmp_path / "last.pth"
    link.symlink_to(target)
    write_text(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_a_device_or_pipe_is_not_replaced(tmp_path):
    """`--json /dev/stdout` must not put a file in the place of the device."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe"):
        write_json(tmp_path / "pipe", {})
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_results_are_as_readable_as_the_umask_says(tmp_path, mask):
    old = os.umask(mask)
    try:
        write_text(tmp_path / "out.txt", "new")
        left = os.umask(mask)
    finally:
        os.umask(old)
    assert left == mask
    assert (tmp_path / "out.txt").stat().st_mode & 0o777 == 0o666 & ~mask


def test_json_has_no_nan(tmp_path):
    path = tmp_path / "out.json"
    write_json(path, {"accuracy": 0.5, "class": "é"})
    assert json.loads(path.read_text()) == {"accuracy": 0.5, "class": "é"}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"accuracy": math.nan})
    assert json.loads(path.read_text())["accuracy"] == 0.5


def test_folders_are_made_or_the_reason_is_told(tmp_path):
    make_folder(tmp_path / "a/b")
    make_folder(tmp_path / "a/b")
    assert (tmp_path / "a/b").is_dir()
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(InputError, match="cannot make the folder"):
            make_folder(folder)
    assert snapshot(tmp_path) == {"file": b"mine"}


def test_a_message_is_one_line():
    assert str(InputError("two\n  lines\tof text")) == "two lines of text"
    assert issubclass(InputError, ValueError)


# --------------------------------------------------------------------------------------------
# Reading


def refusal(path: Path) -> str:
    """The message with which a checkpoint is refused; it names the file, in one line."""
    with pytest.raises(InputError) as error:
        load_checkpoint(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


def torch_bytes(content: object, *, as_zip: bool = True) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=as_zip)
    return stream.getvalue()


SMALL = {"iter": 3, "model_state_dict": {"fc.weight": torch.arange(6.0).reshape(2, 3)}}


@pytest.mark.parametrize("as_zip", [True, False])
def test_tensors_come_back_as_they_were(tmp_path, as_zip):
    path = tmp_path / "a.pth"
    path.write_bytes(torch_bytes(SMALL, as_zip=as_zip))
    assert differences(load_tensors(path, "checkpoint"), SMALL) == []


def test_a_file_that_is_missing_or_a_folder_is_refused(tmp_path):
    assert "does not exist" in refusal(tmp_path / "none.pth")
    assert "not a file" in refusal(tmp_path)


@pytest.mark.parametrize("as_zip", [True, False])
def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path, as_zip):
    """The old format too: it is what the MS-Celeb-1M weights came in."""
    whole = torch_bytes(SMALL, as_zip=as_zip)
    for length in range(0, len(whole), 7 if as_zip else 1):
        path = tmp_path / "cut.pth"
        path.write_bytes(whole[:length])
        refusal(path)


def test_random_bytes_are_refused(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "noise.pth"
    for length in (1, 10, 100, 1000) * 50:
        path.write_bytes(rng.bytes(length))
        refusal(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html><body>404 not found</body></html>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n",
        b"PK\x03\x04" + bytes(100),
    ],
    ids=["empty", "web page", "git-lfs pointer", "zip header"],
)
def test_what_a_failed_download_leaves_is_refused(tmp_path, content):
    path = tmp_path / "download.pth"
    path.write_bytes(content)
    refusal(path)


class RunsCode:
    """Unpickled by a careless loader it makes a file."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("kind", ["zip", "old format", "pickle"])
def test_code_in_a_checkpoint_is_not_run(tmp_path, kind):
    mark = tmp_path / "code was run"
    content = {**SMALL, "extra": RunsCode(mark)}
    # The trap works: an unsafe loader springs it.
    pickle.loads(pickle.dumps(content))
    assert mark.exists()
    mark.unlink()

    path = tmp_path / "trap.pth"
    as_torch = torch_bytes(content, as_zip=kind == "zip")
    path.write_bytes(pickle.dumps(content) if kind == "pickle" else as_torch)
    message = refusal(path)
    assert not mark.exists()
    assert "could run code" in message or kind == "pickle"


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3), "text", 7])
def test_a_torch_file_that_holds_no_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    assert f"holds a {type(content).__name__}" in refusal(tmp_path / "a.pth")


@pytest.mark.parametrize("content", [{}, {"fc.weight": torch.zeros(7, 512)}, {"iter": 3}])
def test_a_bare_state_dict_is_refused_with_what_it_holds(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    message = refusal(tmp_path / "a.pth")
    assert "no dict model_state_dict" in message
    assert next(iter(content), "nothing") in message


def test_the_role_of_a_file_is_in_its_message(tmp_path):
    with pytest.raises(InputError, match=r"backbone weights .*none\.pth"):
        load_tensors(tmp_path / "none.pth", "backbone weights")


# --------------------------------------------------------------------------------------------
# What a file may hold


#: name -> (a value in a checkpoint, words of the refusal)
VALUES = {
    "nan": (torch.tensor([1.0, float("nan")]), "not finite"),
    "infinity": (torch.tensor([1.0, -float("inf")], dtype=torch.bfloat16), "not finite"),
    "sparse": (torch.eye(3).to_sparse(), "not a plain, dense tensor"),
    "complex": (torch.zeros(2, dtype=torch.complex64), "real numbers"),
    "meta": (torch.zeros(10**12, device="meta"), "with its data"),
    "a complex number": (1j, "a complex"),
}


@pytest.mark.parametrize(("value", "words"), VALUES.values(), ids=VALUES)
def test_what_no_training_writes_is_refused_with_its_place(value, words, tmp_path):
    content = {"model_state_dict": {"fc.weight": torch.zeros(2)}, "deep": [{"here": value}]}
    torch.save(content, tmp_path / "a.pth")
    message = refusal(tmp_path / "a.pth")
    assert words in message
    assert "deep/0/here" in message


def test_a_file_within_itself_is_refused(tmp_path):
    content: dict = {"model_state_dict": {}}
    content["settings"] = {"again": content}
    torch.save(content, tmp_path / "a.pth")
    refusal(tmp_path / "a.pth")


def test_every_kind_of_usual_value_is_read(tmp_path):
    tied = torch.ones(1000)
    content = {
        "model_state_dict": collections.OrderedDict(w=torch.zeros(2, 3), empty=torch.zeros(0)),
        "parameter": nn.Parameter(torch.ones(2)),
        "plain": [1, -1.5, True, None, "text", b"bytes", (1, 2), {"a": float("nan")}],
        "half": torch.ones(3).half(),
        "counter": torch.tensor(7),
        "tied": [tied, tied.view(10, 100)],
    }
    torch.save(content, tmp_path / "a.pth")
    read = load_tensors(tmp_path / "a.pth", "checkpoint")
    assert differences(read["model_state_dict"], content["model_state_dict"]) == []
    assert read["plain"][:7] == content["plain"][:7]
    assert torch.equal(read["tied"][1], content["tied"][1])


NUMBERS = [np.float64(0.8970), np.float32(0.5), np.int64(-21), np.int32(7), np.bool_(1)]


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: type(number).__name__)
@pytest.mark.parametrize("as_zip", [True, False])
def test_numpy_numbers_of_old_files_are_read_as_python_numbers(number, as_zip, tmp_path):
    path = tmp_path / "old.pth"
    path.write_bytes(torch_bytes({"acc": number}, as_zip=as_zip))
    value = load_tensors(path, "checkpoint")["acc"]
    assert value == number.item()
    assert type(value) is type(number.item())


@pytest.mark.parametrize("value", [np.zeros(3), np.array(["x"], dtype=object), np.str_("x")])
def test_other_numpy_values_are_not(value, tmp_path):
    torch.save({"model_state_dict": {}, "x": value}, tmp_path / "a.pth")
    refusal(tmp_path / "a.pth")
