"""Checkpoints from strangers: refused in one line, without code, in bounded memory."""

from __future__ import annotations

import collections
import io
import os
import pickle
import resource
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import eval as eval_script
from common.errors import InputError
from common.files import load_tensors
from networks import network_for
from networks.dan import DAN, ResNet18
from tests.support.scripts import Forked, differences

GIGABYTE = 2**30


def saved(path: Path, content: object, **options: object) -> Path:
    torch.save(content, path, **options)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as error:
        load_tensors(path, "checkpoint")
    assert str(path) in str(error.value)
    assert len(str(error.value)) < 1000
    return str(error.value)


SPARSE = torch.eye(3).to_sparse()
#: name -> (a value in a checkpoint, words of the refusal)
VALUES = {
    "nan": (torch.tensor([1.0, float("nan")]), "not finite"),
    "infinity": (torch.tensor([1.0, -float("inf")], dtype=torch.bfloat16), "not finite"),
    "sparse": (SPARSE, "expected a dense one"),
    "sparse rows": (torch.eye(3).to_sparse_csr(), "expected a dense one"),
    "complex": (torch.zeros(2, dtype=torch.complex64), "expected real numbers"),
    "meta": (torch.zeros(10**12, device="meta"), "without data"),
    "8-bit float": (torch.zeros(2).to(torch.float8_e4m3fn), "expected real numbers"),
    "expanded": (torch.zeros(1).expand(10**12), "claims 1,000,000,000,000 numbers"),
    "a huge whole number": (2**70, "beyond 64 bits"),
    "a complex number": (1j, "a complex"),
}


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize(("value", "words"), VALUES.values(), ids=VALUES)
def test_what_no_training_writes_is_refused_with_its_place(value, words, tmp_path):
    content = {"model_state_dict": {"fc.weight": torch.zeros(2)}, "deep": [{"here": value}]}
    message = refusal(saved(tmp_path / "a.pth", content))
    assert words in message
    assert "deep/0/here" in message


def test_every_kind_of_usual_value_is_read(tmp_path):
    content = {
        "model_state_dict": collections.OrderedDict(w=torch.zeros(2, 3), empty=torch.zeros(0)),
        "parameter": nn.Parameter(torch.ones(2)),
        "plain": [1, -1.5, True, None, "text", b"bytes", (1, 2), {"a": float("nan")}],
        "types": [torch.float32, torch.device("cpu"), torch.Size([1])],
        "half": torch.ones(3).half(),
        "counter": torch.tensor(7),
    }
    tied = torch.ones(1000)
    content["tied"] = [tied, tied.view(10, 100)]
    read = load_tensors(saved(tmp_path / "a.pth", content), "checkpoint")
    assert differences(read["model_state_dict"], content["model_state_dict"]) == []
    assert read["plain"][:7] == content["plain"][:7]
    assert torch.equal(read["tied"][1], content["tied"][1])


NUMBERS = [
    *(np.float64(0.8970), np.float32(0.5), np.int64(-21), np.int32(7), np.uint8(200), np.bool_(1)),
    *(np.int16(-2), np.uint64(2**64 - 1)),
]


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: type(number).__name__)
@pytest.mark.parametrize("as_zip", [True, False])
def test_numpy_numbers_of_old_files_are_read_as_python_numbers(number, as_zip, tmp_path):
    path = tmp_path / "old.pth"
    saved(path, {"acc": number}, _use_new_zipfile_serialization=as_zip)
    value = load_tensors(path, "checkpoint")["acc"]
    assert value == number.item()
    assert type(value) is type(number.item())


def test_numpy_numbers_under_their_name_before_numpy_2_are_read(tmp_path):
    path = saved(tmp_path / "new.pth", {"acc": np.float64(0.25)})
    rewrite(path, lambda name, data: data.replace(b"numpy._core", b"numpy.core"))
    assert load_tensors(path, "checkpoint")["acc"] == 0.25


@pytest.mark.parametrize("array", [np.zeros(3), np.array(["x"], dtype=object)])
def test_numpy_arrays_are_not(array, tmp_path):
    assert "could run code" in refusal(saved(tmp_path / "a.pth", {"x": array}))


@pytest.mark.parametrize("code", ["O8", "V8", "U2", "M8"])
def test_a_numpy_number_of_another_type_is_not_made(code, tmp_path):
    path = saved(tmp_path / "a.pth", {"acc": np.float64(0.25)})
    rewrite(path, lambda name, data: data.replace(b"f8", code.encode()))
    refusal(path)


class RunsCode:
    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return (os.system, (f"touch '{self.mark}'",))


def test_code_is_not_run_wherever_it_is_hidden(tmp_path):
    mark = tmp_path / "code was run"
    for name, content in {
        "value": {"model_state_dict": {}, "x": RunsCode(mark)},
        "key": {"model_state_dict": {}, ("a", RunsCode(mark)): 1},
        "weight": {"model_state_dict": {"fc.weight": RunsCode(mark)}},
    }.items():
        path = saved(tmp_path / f"{name}.pth", content)
        assert "could run code" in refusal(path)
    assert not mark.exists()
    pickle.loads(pickle.dumps(RunsCode(mark)))
    assert mark.exists(), "the trap does not work"


# --------------------------------------------------------------------------------------------
# Memory


def rewrite(path: Path, change, *, compression: int = zipfile.ZIP_STORED) -> None:
    """Write a zip file again with the data of its entries changed."""
    with zipfile.ZipFile(path) as archive:
        entries = [(info.filename, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries:
            archive.writestr(name, change(name, data))


def bomb(path: Path) -> Path:
    """64 MB of zeros in 100 kB: what torch would unpack without asking."""
    saved(path, {"model_state_dict": {"w": torch.zeros(2**24)}})
    rewrite(path, lambda name, data: data, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000
    return path


def overlapping(path: Path) -> Path:
    """Two entries of the directory that are one in the file."""
    saved(path, {"model_state_dict": {"w": torch.zeros(10)}})
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        archive.getinfo(next(n for n in archive.namelist() if n.endswith("data/0")))
    with zipfile.ZipFile(path) as archive:
        first, second = archive.infolist()[:2]
    old = second.header_offset.to_bytes(4, "little")
    at = data.rindex(old, 0, data.rindex(second.filename.encode()))
    path.write_bytes(data[:at] + first.header_offset.to_bytes(4, "little") + data[at + 4 :])
    return path


def short_storage(path: Path) -> Path:
    """A tensor of 40 kB over 4 bytes of data."""
    saved(path, {"model_state_dict": {"w": torch.arange(10_000.0)}})
    rewrite(path, lambda name, data: data[:4] if name.endswith("data/0") else data)
    return path


def old_and_huge(path: Path) -> Path:
    """The format before torch 1.6 states sizes that are taken from the memory before reading."""
    small = torch.zeros(77777)
    saved(path, {"model_state_dict": {"w": small}}, _use_new_zipfile_serialization=False)
    data = path.read_bytes().replace(
        (77777).to_bytes(4, "little"), (2**31 - 1).to_bytes(4, "little")
    )
    path.write_bytes(data[:2000])
    return path


def many_views(path: Path) -> Path:
    """A thousand tensors over one storage: a gigabyte when each is copied."""
    one = torch.zeros(2**18)
    views = {f"cat_head{i}.w": one.view(2**9, 2**9) for i in range(1000)}
    return saved(path, {"model_state_dict": views})


def laughs(path: Path) -> Path:
    """Thirty lists of two references: a billion values when they are printed."""
    value: list = ["ha"]
    for _ in range(30):
        value = [value, value]
    return saved(path, {"model_state_dict": {}, "settings": value})


def itself(path: Path) -> Path:
    content: dict = {"model_state_dict": {}}
    content["settings"] = {"again": content}
    return saved(path, content)


def deep(path: Path) -> Path:
    value: list = []
    for _ in range(200):
        value = [value]
    return saved(path, {"model_state_dict": {}, "settings": value})


BOMBS = {
    "zip bomb": (bomb, "compressed"),
    "overlapping entries": (overlapping, "overlapping"),
    "less data than declared": (short_storage, "truncated"),
    "a huge size in the old format": (old_and_huge, "checkpoint"),
    "many views": (many_views, "claim more"),
    "billion laughs": (laughs, "in itself"),
    "a file within itself": (itself, "in itself"),
    "too deep": (deep, "too deeply"),
}


@pytest.mark.parametrize(("make", "words"), BOMBS.values(), ids=BOMBS)
def test_a_file_that_would_grow_is_refused_in_little_memory(make, words, tmp_path):
    path = make(tmp_path / "a.pth")

    def main():
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + GIGABYTE // 4
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            load_tensors(path, "checkpoint")
        finally:
            print("took", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, "kB")

    process = Forked(main)
    out, errors = process.communicate()
    process.end()
    assert process.returncode == 2, errors
    assert b"Traceback" not in errors
    assert words in errors.decode()
    assert int(out.split()[1]) < 200_000


def test_names_alone_make_no_large_network(tmp_path):
    """Ten thousand heads would take 26 GB, whatever the file holds of them."""
    weights = {f"cat_head{i}.x": torch.zeros(1) for i in range(10_000)}
    weights |= {"fc.weight": torch.zeros(7, 512)}
    with pytest.raises(InputError, match="10000 heads; expected 100 at most"):
        network_for(weights)
    with pytest.raises(InputError):
        network_for({"cat_head" + "9" * 5000 + ".x": torch.zeros(1), **weights})


@pytest.mark.parametrize("kind", [DAN, ResNet18])
def test_weights_of_another_type_are_refused_and_half_is_read(kind):
    weights = kind(7).state_dict()
    whole = {**weights, "fc.weight": weights["fc.weight"].long()}
    with pytest.raises(InputError, match=r"fc\.weight as torch\.int64"):
        network_for(whole)
    half = {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}
    assert network_for(half).fc.weight.dtype == torch.float32


@pytest.mark.parametrize(
    "extra",
    [{"iter": "one"}, {"class_names": [1, 2]}, {"settings": {"data": 5}}, {"settings": "x"}],
)
def test_eval_refuses_values_of_another_kind(extra, tmp_path):
    content = {"model_state_dict": ResNet18(7).state_dict(), **extra}
    with pytest.raises(InputError, match="so not ours"):
        eval_script.read_trained(saved(tmp_path / "rafdb.pth", content))


def test_what_a_file_says_is_no_command_to_the_terminal(tmp_path):
    content = {"model_state_dict": ResNet18(7).state_dict(), "dataset": "\x1b[2Jrafdb\n\u202e"}
    trained = eval_script.read_trained(saved(tmp_path / "a.pth", content))
    args = eval_script.parse_arguments([str(tmp_path / "a.pth")])
    with pytest.raises(InputError) as error:
        eval_script.open_dataset(trained, args)
    assert str(error.value).isprintable()
    assert "\\x1b[2J" in str(error.value)


def test_a_stream_is_not_what_is_loaded(tmp_path):
    """Only files: their size bounds what they may claim."""
    stream = io.BytesIO()
    torch.save({"a": torch.zeros(1)}, stream)
    (tmp_path / "a.pth").write_bytes(stream.getvalue())
    assert load_tensors(tmp_path / "a.pth", "checkpoint")["a"].item() == 0
