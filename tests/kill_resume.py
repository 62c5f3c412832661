"""Kill a training at random moments, resume it, and compare it with one that nothing stopped.

    python -m tests.kill_resume DIR --kills 20

trains a small network on synthetic faces in DIR twice with the same seed: once in one piece, and
once with SIGKILL after a random part of an epoch's time, again and again, each time gone on with
`--resume`. Half of the kills wait until the run writes a file. Then weights, centers, optimiser,
scheduler and random states, best.pth as well as last.pth, and metrics.csv must be identical.

Exit status: 0 all are the same, 1 something differs.
"""

from __future__ import annotations

import dataclasses
import os
import random
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.cli import Parser, call_main
from common.errors import InputError
from common.files import make_folder
from datasets.demo import main as draw
from engine.checkpoint import load_checkpoint
from engine.recipe import Recipe
from engine.train import train
from tests.support.scripts import small_recipe

#: Settings that say where and how a run was started, not what it computes.
NOT_COMPARED = ("output", "resume", "workers")


@dataclass
class Outcome:
    """What became of a run that was killed."""

    kills: int = 0
    in_writing: int = 0  # kills while a part of a file was there
    epochs_at_kills: list[int] = dataclasses.field(default_factory=list)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as the command line says; returns the exit status; raises InputError."""
    parser = Parser(__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="an empty or new folder")
    parser.add_argument("--kills", type=int, default=20, metavar="N", help="at least so many [20]")
    parser.add_argument("--epochs", type=int, default=30, metavar="N", help="of the run [30]")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="of the DataLoader [1]")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of run and kills [0]")
    args = parser.parse_args(arguments)
    for name in ("kills", "epochs"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name} is {getattr(args, name)}; expected at least 1")
    make_folder(args.folder)
    if any(args.folder.iterdir()):
        raise InputError(f"{args.folder} is not empty; give a new folder")
    return compare(args.folder, args.kills, args.epochs, args.workers, args.seed)


def compare(folder: Path, kills: int, epochs: int, workers: int, seed: int) -> int:
    """Draw, train, kill and compare; prints what was found and returns the exit status."""

    torch.set_num_threads(1)
    draw(["rafdb", str(folder / "faces"), "--train", "60", "--test", "20", "--seed", "0"])
    whole, killed = folder / "whole", folder / "killed"

    def started(output: Path) -> Callable[[], None]:
        return lambda: train(recipe(folder / "faces", output, epochs, workers, seed))

    begun = time.monotonic()
    if run_until_killed(started(whole), after=None) != 0:
        raise InputError(f"the run that nothing stops failed; see {folder}/whole")
    outcome = kill_often(
        started(killed), killed, kills, (time.monotonic() - begun) / epochs, random.Random(seed)
    )
    found, compared = differences(whole, killed)
    print(
        f"{outcome.kills} kills by SIGKILL in a run of {epochs} epochs, {outcome.in_writing} of "
        f"them while a file was being written; after epochs "
        f"{' '.join(map(str, outcome.epochs_at_kills))}"
    )
    print(f"compared: {', '.join(compared)}")
    for line in found:
        print(f"differs: {line}")
    print("all bitwise identical" if not found else f"{len(found)} differences")
    return 1 if found else 0


def recipe(faces: Path, output: Path, epochs: int, workers: int, seed: int) -> Recipe:
    """RAF-DB's recipe with DAN's losses over a network that takes milliseconds."""

    flags = ("--resume", "--seed", seed, "--workers", workers, "--epochs", epochs, "--cache", "off")
    return small_recipe(faces, output, *flags)


def kill_often(
    run: Callable[[], None], folder: Path, kills: int, seconds: float, rng: random.Random
) -> Outcome:
    """Start the run again and again until it was killed so often, then let it end.

    seconds: how long an epoch takes. How long a run may live follows what it gets done, so that
    kills come from the start of a run to some epochs into it.
    """
    outcome, life = Outcome(), 2 * seconds
    while outcome.kills < kills:
        in_writing = rng.random() < 0.5
        ended = run_until_killed(
            run, after=rng.uniform(0, life), writing=folder if in_writing else None
        )
        if ended == 0:  # it was finished before: all kills have to be in one run
            shutil.rmtree(folder)
            outcome, life = Outcome(), life / 2
            continue
        if ended != -signal.SIGKILL:
            raise InputError(f"a resume of {folder} failed with status {ended}")
        before = outcome.epochs_at_kills[-1] if outcome.kills else 0
        outcome.kills += 1
        outcome.in_writing += bool(parts(folder))
        outcome.epochs_at_kills.append(epochs_done(folder))
        life *= 1.5 if outcome.epochs_at_kills[-1] == before else 0.8
        print(f"kill {outcome.kills} after epoch {outcome.epochs_at_kills[-1]}", flush=True)
    if run_until_killed(run, after=None) != 0:
        raise InputError(f"the last resume of {folder} failed")
    return outcome


def run_until_killed(
    run: Callable[[], None], *, after: float | None, writing: Path | None = None
) -> int:
    """Run in a process of its own and kill it after so many seconds; returns its exit status.

    after: None lets it end. writing: then wait until a part of a file is in that folder.
    """
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        _child(run)
    deadline = None if after is None else time.monotonic() + after
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        due = deadline is not None and time.monotonic() >= deadline
        if due and (writing is None or parts(writing)):
            os.kill(pid, signal.SIGKILL)
            deadline = None
        time.sleep(0.0002 if due else 0.002)


def _child(run: Callable[[], None]) -> None:
    status = 1
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        warnings.simplefilter("ignore")
        run()
        status = 0
    except BaseException:
        traceback.print_exc()
    os._exit(status)


def parts(folder: Path) -> list[Path]:
    """Files of a run that are being written."""
    return [path for path in folder.glob(".*") if not path.name.startswith(".lock")]


def epochs_done(folder: Path) -> int:
    """Rows of metrics.csv."""
    path = folder / "metrics.csv"
    return max(0, len(path.read_text().splitlines()) - 1) if path.exists() else 0


def differences(whole: Path, killed: Path) -> tuple[list[str], list[str]]:
    """(where two runs differ, what was compared)."""

    found, compared = [], ["metrics.csv"]
    if (whole / "metrics.csv").read_bytes() != (killed / "metrics.csv").read_bytes():
        found.append("metrics.csv")
    for name in ("last.pth", "best.pth"):
        one, other = load_checkpoint(whole / name), load_checkpoint(killed / name)
        for content in (one, other):
            content["settings"] = {
                key: value for key, value in content["settings"].items() if key not in NOT_COMPARED
            }
        found += _differing(one, other, name)
        compared.append(f"{name} ({_tensors(one)} tensors, {', '.join(one)})")
    left = {path.name for path in killed.iterdir()} ^ {path.name for path in whole.iterdir()}
    found += [f"{name} is in one folder alone" for name in sorted(left)]
    return found, compared


def _differing(one: Any, other: Any, where: str) -> list[str]:
    """Places at which two nested values are not bitwise identical."""

    if type(one) is not type(other):
        return [where]
    if isinstance(one, Tensor):
        same = one.dtype == other.dtype and one.numpy().tobytes() == other.numpy().tobytes()
        return [] if same else [where]
    if isinstance(one, dict):
        if list(one) != list(other):
            return [where]
        return [d for key in one for d in _differing(one[key], other[key], f"{where}/{key}")]
    if isinstance(one, list | tuple):
        if len(one) != len(other):
            return [where]
        pairs = enumerate(zip(one, other, strict=True))
        return [d for i, (a, b) in pairs for d in _differing(a, b, f"{where}/{i}")]
    return [] if repr(one) == repr(other) else [where]


def _tensors(value: Any) -> int:

    if isinstance(value, dict):
        return sum(map(_tensors, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(_tensors, value))
    return isinstance(value, Tensor)


if __name__ == "__main__":
    call_main(main)
