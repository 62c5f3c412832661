"""Tiny data sets on disk, a tiny network, and the scripts as processes."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import gc
import os
import random
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from common.batch import Batch
from common.cli import call_main
from common.flags import parse_flags, settings
from engine import train as engine_train
from engine.recipe import Recipe
from networks import DANOutput, Method
from train_rafdb import RECIPE

ROOT = Path(__file__).resolve().parents[2]
LABEL_FILE = "EmoLabel/list_patition_label.txt"
CLASSES = 7
SIZE = 32  # pixels, of the images and of the network's input
#: Seconds to wait for a process: a busy machine takes minutes for three imports of torch.
PATIENCE = 900

# --------------------------------------------------------------------------------------------
# Data sets


def draw_patch(label: int, rng: np.random.Generator, size: int = SIZE) -> np.ndarray:
    """Noise (size, size, 3) uint8 around a grey level and a colour that only this label has."""
    angle = 2 * np.pi * label / CLASSES + np.array([0, 2, 4])
    color = 128 + 70 * np.sin(angle)
    return np.clip(rng.normal(color, 25, (size, size, 3)), 0, 255).astype(np.uint8)


def write_rafdb(root: Path, *, train: int = 21, test: int = 14, seed: int = 0) -> Path:
    """RAF-DB's layout; the labels go round the seven classes."""
    rng = np.random.default_rng(seed)
    images = root / "Image/aligned"
    images.mkdir(parents=True)
    (root / LABEL_FILE).parent.mkdir()
    lines = []
    for split, count in (("train", train), ("test", test)):
        for i in range(count):
            name = f"{split}_{i + 1:0{5 if split == 'train' else 4}d}"
            picture = Image.fromarray(draw_patch(i % CLASSES, rng))
            picture.save(images / f"{name}_aligned.jpg", quality=95)
            lines.append(f"{name}.jpg {i % CLASSES + 1}")
    (root / LABEL_FILE).write_text("\n".join(lines) + "\n")
    return root


def write_labelled(root: Path, training: Sequence[int], test: Sequence[int]) -> Path:
    """RAF-DB's layout with these labels, counted from 0.

    The pictures are of the seven classes in turn, so a face may look like another class.
    """
    write_rafdb(root, train=len(training), test=len(test))
    names = [line.split()[0] for line in (root / LABEL_FILE).read_text().splitlines()]
    pairs = zip(names, [*training, *test], strict=True)
    (root / LABEL_FILE).write_text("".join(f"{name} {label + 1}\n" for name, label in pairs))
    return root


def face(data: Path, name: str) -> Path:
    """The image file "train_00003" or "test_0002" of a data set in RAF-DB's layout."""
    return data / f"Image/aligned/{name}_aligned.jpg"


def damage(data: Path, *names: str) -> None:
    """Cut the files of these images short."""
    for name in names:
        face(data, name).write_bytes(face(data, name).read_bytes()[:200])


def write_fer2013_csv(root: Path, *, train: int = 16, public: int = 7, private: int = 7) -> Path:
    """FER2013's csv; the labels go round the seven classes."""
    rng = np.random.default_rng(0)
    root.mkdir(parents=True)
    lines = ["emotion,pixels,Usage"]
    for usage, count in (("Training", train), ("PublicTest", public), ("PrivateTest", private)):
        for i in range(count):
            grey = draw_patch(i % CLASSES, rng, 48)[..., 0]
            lines.append(f"{i % CLASSES},{' '.join(map(str, grey.flat))},{usage}")
    (root / "fer2013.csv").write_text("\n".join(lines) + "\n")
    return root


# --------------------------------------------------------------------------------------------
# A network that trains in milliseconds, in the place of DAN


class TinyNetwork(nn.Module):
    """Images -> DAN's output from a handful of weights; BatchNorm like the real one."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.num_classes = num_classes
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 4, stride=4), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 512, 1)
        )
        self.gates = nn.Parameter(torch.randn(2, 512))
        self.fc = nn.Linear(512, num_classes)

    def forward(self, images: Tensor) -> DANOutput:
        """(B, 3, H, W) -> logits (B, C), features (B, 512, h, w), heads (B, 2, 512)."""
        features = self.features(images)
        pooled = features.mean(dim=(2, 3))
        return DANOutput(self.fc(pooled), features, pooled.unsqueeze(1) * self.gates)


def batch_of(labels: Tensor, images: Tensor | None = None, **targets: Tensor) -> Batch:
    """A batch with labels (B,); images are 1 pixel where none are given."""
    images = torch.zeros(len(labels), 3, 1, 1) if images is None else images
    return Batch(images, labels, torch.arange(len(labels)), targets)


class TinyMethod(Method):
    """DAN's losses and flags over `TinyNetwork`."""

    def network(self, num_classes: int) -> nn.Module:
        """The tiny network; --arch, --heads and --pretrained are not looked at."""
        return TinyNetwork(num_classes)


TINY = dataclasses.replace(RECIPE, method=TinyMethod())


def small_recipe(data: Path, output: Path, *flags: object, recipe: Recipe = TINY) -> Recipe:
    """RAF-DB's recipe at the size of the tests; `flags` come last, so they win."""
    small = ["--image-size", str(SIZE), "--batch-size", "8", "--epochs", "1", "--device", "cpu"]
    quick = ["--workers", "0", "--optimizer", "adamw", "--lr", "0.001"]
    if "pretrained" in settings(recipe):
        quick += ["--pretrained", "none"]
    where = ["--data", str(data), "--output", str(output)]
    return parse_flags(recipe, "", [*small, *quick, *where, *map(str, flags)])


def train_tiny(data: Path, output: Path, *flags: object, recipe: Recipe = TINY) -> dict:
    """Train by `small_recipe`; returns last.pth."""
    engine_train.train(small_recipe(data, output, *flags, recipe=recipe))
    return load(output / "last.pth")


class PowerCut(Exception):
    """What ends the run of `train_until`."""


def train_until(recipe: Recipe, epochs: int) -> None:
    """Train so many epochs and the steps of one more, of which nothing is written."""
    whole_epoch = engine_train.train_one_epoch

    def train_one_epoch(run: engine_train.Run, epoch: int) -> dict[str, float]:
        means = whole_epoch(run, epoch)
        if epoch > epochs:
            raise PowerCut
        return means

    with mock.patch.object(engine_train, "train_one_epoch", train_one_epoch):
        try:
            engine_train.train(recipe)
        except PowerCut:
            return
    raise AssertionError("the run ended before")


def scramble_random_generators() -> None:
    """Another state of every random generator than a seed gives."""
    torch.manual_seed(987)
    torch.rand(13)
    np.random.seed(654)
    random.seed(321)


# --------------------------------------------------------------------------------------------
# Scripts as a user runs them


def script_command(name: str, *arguments: object) -> list[str]:
    """The command line of a script of the project ("eval.py"), or of a module ("tools.export")."""
    place = [str(ROOT / name)] if name.endswith(".py") else ["-m", name]
    return [sys.executable, *place, *map(str, arguments)]


def script_environment() -> dict[str, str]:
    """One thread: the machine may be shared, and a process with few images needs no more."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def run_script(name: str, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a script in a folder of its own to its end."""
    return _run(script_command(name, *arguments), cwd, script_environment())


def run_python(program: str, *, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a program that does not have this project on its path."""
    return _run([sys.executable, "-c", program], cwd, {**os.environ, "OMP_NUM_THREADS": "1"})


def _run(
    command: Sequence[str], cwd: Path, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, timeout=PATIENCE, check=False
    )
    # Decoded here: text=True would turn the carriage returns of a progress bar into lines.
    streams = (result.stdout.decode(), result.stderr.decode())
    return subprocess.CompletedProcess(result.args, result.returncode, *streams)


class Forked:
    """A copy of this process that runs `main` as a script does, without torch's slow start."""

    def __init__(self, main: Callable[[], object]):
        self.stdout, out = os.pipe()
        self.stderr, err = os.pipe()
        self.pid = os.fork()
        self.returncode: int | None = None
        self.text = b""  # of stdout so far
        if self.pid == 0:
            os.setsid()
            os.dup2(out, 1)
            os.dup2(err, 2)
            os.closerange(3, 256)
            # Not those of pytest, which capture.
            sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
            sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
            signal.signal(signal.SIGINT, signal.default_int_handler)
            try:
                call_main(main)
            except SystemExit as end:
                status = int(end.code or 0)
            except BaseException:
                traceback.print_exc()
                status = 1
            gc.collect()  # as at the end of a process: loaders end their workers
            os._exit(status)
        os.close(out)
        os.close(err)

    def wait_for(self, words: str) -> None:
        """Return when these words are printed; fails where the process ends before."""
        while words.encode() not in self.text:
            ready, _, _ = select.select([self.stdout], [], [], PATIENCE)
            assert ready, f"the process does not get to {words!r}"
            part = os.read(self.stdout, 65536)
            assert part, self.communicate()[1].decode()
            self.text += part

    def communicate(self, timeout: float = PATIENCE) -> tuple[bytes, bytes]:
        """What it printed, when it has ended; `returncode` is set as subprocess does it."""
        errors, streams = b"", {self.stdout, self.stderr}
        while streams:
            ready, _, _ = select.select(list(streams), [], [], timeout)
            assert ready, "the process does not end"
            for stream in ready:
                part = os.read(stream, 65536)
                if stream == self.stderr:
                    errors += part
                else:
                    self.text += part
                if not part:
                    streams.discard(stream)
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.text, errors

    def end(self) -> None:
        """Kill what is left of it."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.returncode = -signal.SIGKILL
        os.close(self.stdout)
        os.close(self.stderr)


def without_warnings(text: str) -> list[str]:
    """The lines of a stream, without empty ones and our one-line warnings."""
    return [line for line in text.split("\n") if line and not line.startswith("warning: ")]


def assert_refused(result: subprocess.CompletedProcess[str], *words: str) -> None:
    """Status 2, and on stderr one line, the error, with all of `words` (warnings may precede)."""
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    (line,) = without_warnings(result.stderr)
    assert line.startswith("error: ")
    for word in words:
        assert word in line


# --------------------------------------------------------------------------------------------
# Comparing


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by name."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def load(path: Path) -> dict:
    """A checkpoint, loaded with `weights_only=True`."""
    return torch.load(path, map_location="cpu", weights_only=True)


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The rows of metrics.csv."""
    with (folder / "metrics.csv").open(newline="") as stream:
        return [
            {name: float(value) for name, value in row.items()} for row in csv.DictReader(stream)
        ]


def differences(one: object, other: object, where: str = "") -> list[str]:
    """Where two nested values differ, to the last bit; empty where they are the same."""
    if type(one) is not type(other):
        return [f"{where}: {type(one).__name__} and {type(other).__name__}"]
    if isinstance(one, Tensor):
        return [] if torch.equal(one, other) else [where]
    if isinstance(one, dict):
        if list(one) != list(other):
            return [f"{where}: keys {list(one)} and {list(other)}"]
        return [d for key in one for d in differences(one[key], other[key], f"{where}/{key}")]
    if isinstance(one, list | tuple):
        if len(one) != len(other):
            return [f"{where}: {len(one)} and {len(other)} items"]
        pairs = enumerate(zip(one, other, strict=True))
        return [d for i, (a, b) in pairs for d in differences(a, b, f"{where}/{i}")]
    return [] if one == other else [f"{where}: {one} and {other}"]


def assert_same_run(one: Path, other: Path) -> None:
    """Equal to the last bit, but for where they were written and how they were loaded."""
    assert (one / "metrics.csv").read_bytes() == (other / "metrics.csv").read_bytes()
    for name in ("last.pth", "best.pth"):
        first, second = load(one / name), load(other / name)
        for content in (first, second):
            for key in ("output", "resume", "workers"):
                del content["settings"][key]
        assert differences(first, second) == []
