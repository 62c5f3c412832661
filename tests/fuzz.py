"""Random inputs to everything that reads files or flags: only InputError may come out.

    python -m tests.fuzz --examples 2000

runs a longer campaign than the tests do (tests/scripts/test_fuzz.py) and prints how many inputs
each target took, and how many of them were refused. `make fuzz` is the same.
"""

from __future__ import annotations

import copy
import io
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from PIL import Image

import eval as eval_script
from common.cli import Parser, call_main
from common.errors import InputError
from common.files import load_tensors
from common.flags import flag_fields, parse_flags
from datasets import FER2013, RAFDB, AffectNet8, FERPlus
from datasets.reading import open_rgb
from datasets.subsets import read_subset
from engine.checkpoint import checkpoint_to_resume, content_of, restore
from engine.train import build
from networks import network_for
from tests.support.scripts import LABEL_FILE, TINY, small_recipe, write_rafdb
from train_affectnet import RECIPE as AFFECTNET

Target = tuple[st.SearchStrategy, Callable[[Any], None]]

WORDS = st.sampled_from(
    ["train_00001.jpg 5", "test_0001.jpg 1", "train_", "../../etc/passwd", "/etc/passwd", "1", "8"]
)
LINES = st.lists(WORDS | st.text(max_size=30), max_size=6).map("\n".join)
NUMBERS = st.integers() | st.floats() | st.booleans() | st.none()
VALUES = st.recursive(
    NUMBERS
    | st.text(max_size=8)
    | st.sampled_from([torch.zeros(2), torch.zeros(7, 512), torch.tensor(float("nan"))]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


def refused(function: Callable[[], Any]) -> bool:
    """Whether the input was refused; anything but InputError is a finding and goes through."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            function()
        except InputError as error:
            message = str(error)
        else:
            return False
    assert message.isprintable()
    return True


def changed(parts: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Valid files with bytes replaced, left out or added; and noise."""

    def change(content: bytes, places: list[tuple[float, int, bytes]]) -> bytes:
        for where, length, new in places:
            start = int(where * len(content))
            content = content[:start] + new + content[start + length :]
        return content

    places = st.lists(
        st.tuples(st.floats(0, 1), st.integers(0, 40), st.binary(max_size=8)), max_size=4
    )
    return st.builds(change, st.sampled_from(list(parts)), places) | st.binary(max_size=200)


def labels(root: Path) -> Target:
    """RAF-DB's list of labels."""
    write_rafdb(root, train=7, test=7)

    def read(text: str) -> None:
        (root / LABEL_FILE).write_bytes(text.encode(errors="surrogatepass"))
        data = RAFDB(root, "train")
        assert all(path.parent == root / "Image/aligned" for path, _ in data.samples)
        assert all(0 <= label < 7 for label in data.labels)

    return LINES, read


def subsets(root: Path) -> Target:
    """Lists of test images."""
    data, path = RAFDB(write_rafdb(root / "data", train=7, test=7), "test"), root / "list.txt"
    names = st.sampled_from(["test_0001.jpg", "3/test_0004_aligned.jpg", "x.jpg", "7 7", "3/", "/"])
    line = st.builds("{}{}{}".format, names, st.sampled_from([" ", ",", ""]), WORDS | st.text())

    def read(lines: list[str]) -> None:
        path.write_bytes("\n".join(lines).encode(errors="surrogatepass"))
        subset = read_subset(path, data)
        told = subset.unmatched + subset.duplicates
        assert len(subset.indices) + len(told) == subset.lines
        assert set(subset.indices) <= set(range(7))

    return st.lists(line, max_size=5), read


def tables(root: Path) -> Target:
    """The csv files of FER2013, FER+ and AffectNet."""
    pixels = " ".join(["7"] * 2304)
    fer = f"emotion,pixels,Usage\n0,{pixels},Training\n3,{pixels},PublicTest\n".encode()
    votes = (
        b"image,usage,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF\n"
        b"train/a.jpg,Training,9,1,0,0,0,0,0,0,0,0\n../b.jpg,Training,9,1,0,0,0,0,0,0,0,0\n"
    )
    affect = (
        b"subDirectory_filePath,face_x,face_y,face_width,face_height,expression\n"
        b"1/a.jpg,0,0,5,5,1\n../a.jpg,1,2,3,4,5\n/etc/passwd,0,0,1,1,0\n"
    )
    places = {
        0: (root / "fer/fer2013.csv", lambda: FER2013(root / "fer", "train")),
        1: (root / "plus/ferplus_votes.csv", lambda: FERPlus(root / "plus", "train")),
        2: (root / "affect/training.csv", lambda: AffectNet8(root / "affect", "train")),
    }
    for folder in ("fer", "plus/train", "affect/Manually_Annotated_Images/1"):
        (root / folder).mkdir(parents=True)
    image = Image.new("RGB", (8, 8))
    image.save(root / "plus/train/a.jpg")
    image.save(root / "affect/Manually_Annotated_Images/1/a.jpg")

    def read(case: tuple[int, bytes]) -> None:
        path, load = places[case[0]]
        path.write_bytes(case[1])
        for sample, _ in load().samples:
            assert ".." not in sample.parts
            assert root in sample.parents

    each = [st.tuples(st.just(i), changed([file])) for i, file in enumerate((fer, votes, affect))]
    return st.one_of(each), read


def images(root: Path) -> Target:
    """Image files of six formats."""
    rng = np.random.default_rng(0)
    files = []
    for name in ("png", "jpeg", "gif", "bmp", "tiff", "webp"):
        stream = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (9, 7, 3), np.uint8)).save(stream, name)
        files.append(stream.getvalue())

    def read(content: bytes) -> None:
        (root / "face.jpg").write_bytes(content)
        image = open_rgb(root / "face.jpg")
        assert image.mode == "RGB"

    return changed(files), read


def flags(_root: Path) -> Target:
    """Command lines of two train scripts and of eval.py."""
    names = st.sampled_from(
        [f"--{field.name.replace('_', '-')}" for _, field in flag_fields(AFFECTNET)]
        + ["--split", "--json", "--nonsense", "--"]
    )
    words = st.lists(names | NUMBERS.map(str) | st.text(max_size=6), max_size=6)

    def read(case: tuple[int, list[str]]) -> None:
        try:
            if case[0] < 2:
                parse_flags((TINY, AFFECTNET)[case[0]], "", case[1])
            else:
                eval_script.parse_arguments(case[1])
        except SystemExit as end:
            assert end.code == 0  # --help  # noqa: PT017

    quiet = words.filter(lambda words: not any(word in ("-h", "--help") for word in words))
    return st.tuples(st.integers(0, 2), quiet), read


def checkpoints(root: Path) -> Target:
    """Checkpoints of a run with values changed, taken out or added anywhere."""
    flags = ("--cache", "off", "--resume")
    run = build(small_recipe(write_rafdb(root / "data"), root / "run", *flags))
    run.folder.mkdir()
    for _ in range(2):  # with a state in the optimiser, as after a step
        run.optimizer.zero_grad()
        sum(p.sum() for p in [*run.network.parameters(), *run.criterion.parameters()]).backward()
        run.optimizer.step()
    run.epoch = 1
    run.rows.append({"epoch": 1, "lr": 0.001, "accuracy": 0.5})
    run.scheduler.step()
    good = copy.deepcopy(content_of(run))

    def read(case: tuple[list[int], Any, bool]) -> None:
        content = copy.deepcopy(good)
        where, value, remove = case
        place: Any = content
        for number in where[:-1]:
            keys = list(place) if isinstance(place, dict) else range(len(place))
            below = place[keys[number % len(keys)]] if len(keys) else None
            if not isinstance(below, dict | list) or not below:
                break
            place = below
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = keys[where[-1] % len(keys)]
        if remove and isinstance(place, dict):
            del place[key]
        else:
            place[key] = value
        torch.save(content, run.folder / "last.pth")
        checkpoint = checkpoint_to_resume(run.folder, run.recipe)
        restore(run, checkpoint)

    places = st.lists(st.integers(0, 30), min_size=1, max_size=4)
    return st.tuples(places, VALUES, st.booleans()), read


def torch_files(root: Path) -> Target:
    """Torch files, of both formats, with bytes changed."""
    parts = []
    for as_zip in (True, False):
        stream = io.BytesIO()
        content = {
            "iter": 1,
            "acc": np.float64(0.5),
            "model_state_dict": {"fc.weight": torch.ones(3)},
        }
        torch.save(content, stream, _use_new_zipfile_serialization=as_zip)
        parts.append(stream.getvalue())

    def read(content: bytes) -> None:
        (root / "a.pth").write_bytes(content)
        loaded = load_tensors(root / "a.pth", "checkpoint")
        weights = loaded.get("model_state_dict")
        if isinstance(weights, dict):
            network_for(weights)

    return changed(parts), read


TARGETS = {
    target.__name__: target
    for target in (labels, subsets, tables, images, flags, checkpoints, torch_files)
}


def campaign(name: str, examples: int, root: Path, *, seed: int | None = None) -> tuple[int, int]:
    """Give a target so many inputs; returns (inputs, refused); raises what it found.

    seed: None takes the same inputs every time.
    """
    strategy, read = TARGETS[name](root)
    counts = [0, 0]

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=seed is None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def attempt(case: Any) -> None:
        counts[0] += 1
        counts[1] += refused(lambda: read(case))

    if seed is not None:
        attempt = seeded(seed)(attempt)
    attempt()
    return counts[0], counts[1]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run every target as the command line says."""
    parser = Parser(__doc__)
    parser.add_argument("--examples", type=int, default=2000, metavar="N", help="a target [2000]")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the inputs [0]")
    parser.add_argument("--only", choices=list(TARGETS), help="one target")
    args = parser.parse_args(arguments)
    if args.examples < 1:
        raise InputError(f"--examples is {args.examples}; expected at least 1")
    torch.set_num_threads(1)
    total = 0
    for name in [args.only] if args.only else TARGETS:
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            inputs, refusals = campaign(name, args.examples, Path(folder), seed=args.seed)
        total += inputs
        print(
            f"{name:<12} {inputs:6,} inputs, {refusals:6,} refused, nothing else raised, "
            f"{time.monotonic() - started:.0f} s",
            flush=True,
        )
    print(f"{total:,} inputs")


if __name__ == "__main__":
    call_main(main)
