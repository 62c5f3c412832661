"""Run whatever a table of the paper needs, one run after another, then print the table.

    python -m tools.reproduce table1 --dataset rafdb --seeds 3
    python -m tools.reproduce all --dataset fer2013 --seeds 3 --image-size 48 --limit 4000
    python -m tools.reproduce table3 --dry-run

Flags that are not listed here go to the train script of every run. Finished runs are kept, broken
ones go on where they stopped, so the same command may be given again at any time. On FER2013 and
FER+, where the paper has no pre-trained trunk, a ResNet-18 is trained first and every row starts
from it, unless --pretrained names another.
"""

from __future__ import annotations

import dataclasses
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from common.cli import Parser, call_main
from common.errors import InputError
from datasets import DATASETS
from engine.checkpoint import LAST
from engine.device import autocast, find_device, wants_bf16
from engine.recipe import Recipe, parse_flags, settings
from results.experiments import (
    ABLATED,
    SCRIPTS,
    TABLES,
    Table,
    as_flags,
    recipe_of,
    row_settings,
    tables_named,
)
from results.render import as_text
from results.runs import read_run, read_runs, result_settings
from results.tables import make_tables

ROOT = Path(__file__).resolve().parents[1]

#: The first step of the FER2013 recipe (see train_fer2013.py): the trunk of every row.
TRUNK = {
    "arch": "resnet18",
    "pretrained": "none",
    "epochs": 12,
    "batch_size": 64,
    "lr": 0.001,
    "seed": 0,
}
NEEDS_TRUNK = ("fer2013", "ferplus")


@dataclass(frozen=True)
class Planned:
    """One run to be made sure of."""

    dataset: str
    folder: Path
    arguments: list[str]  # of the train script
    recipe: Recipe  # what the script makes of them

    @property
    def command(self) -> str:
        """The run as a user would start it."""
        return shlex.join(["python", f"{SCRIPTS[self.dataset].module}.py", *self.arguments])

    def is_finished(self) -> bool:
        """Whether its folder holds the whole run.

        Raises InputError where the folder holds a run with other settings.
        """
        done = read_run(self.folder) if (self.folder / "config.json").exists() else None
        if done is None:
            return False
        wanted = result_settings(settings(self.recipe))
        differing = [
            f"--{name.replace('_', '-')} was {done.settings.get(name)}, is now {value}"
            for name, value in wanted.items()
            if done.settings.get(name) != value
        ]
        if differing:
            raise InputError(
                f"{self.folder} was run with other settings: {'; '.join(differing)}; keep the "
                "runs of each protocol in a folder of their own: --runs DIR"
            )
        return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Plan, run and print.

    Raises InputError for an unknown table, data set or flag. Returns 1 where a run failed.
    """
    parser = Parser(__doc__)
    names = [table.name for table in TABLES]
    parser.add_argument("table", metavar="TABLE", help=f"{', '.join(names)} or all")
    parser.add_argument(
        "--dataset",
        metavar="NAME",
        help=f"{', '.join(SCRIPTS)} [the one that the paper's table is on]",
    )
    parser.add_argument(
        "--only",
        metavar="ROWS",
        help="rows to run, by the names of their folders, with commas: dan,resnet18,dan-heads2",
    )
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="seeds 0 to N-1 [1]")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), metavar="DIR", help="where runs are kept [runs]"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="list what would run and how long it may take"
    )
    args, extra = parser.parse_known_args(arguments)
    if args.seeds < 1:
        raise InputError(f"--seeds is {args.seeds}; expected at least 1")
    tables = tables_named(args.table, args.dataset)
    only = args.only.split(",") if args.only is not None else None
    planned = plan(tables, args.seeds, args.runs, extra, only=only)
    waiting = [run for run in planned if not run.is_finished()]
    if args.dry_run:
        show_plan(planned, waiting)
        return 0
    failed = run_all(waiting, total=len(planned))
    print_tables(tables, args.runs)
    return 1 if failed else 0


def plan(
    tables: Sequence[tuple[Table, str]],
    seeds: int,
    runs: Path,
    extra: Sequence[str],
    *,
    only: Sequence[str] | None = None,
) -> list[Planned]:
    """Every run that the tables need, each once: trunks first, then seed by seed.

    only: names of the variants to keep (None: all).

    Raises InputError where an extra flag is unknown to a train script or belongs to the rows, or
    where `only` names what no table has.
    """
    _check_extra(extra)
    known = dict.fromkeys(row.variant.name for table, _ in tables for row in table.rows)
    for name in only or ():
        if name not in known:
            raise InputError(f"--only names {name!r}; expected some of {', '.join(known)}")
    found: dict[Path, Planned] = {}
    for dataset in dict.fromkeys(dataset for _, dataset in tables):
        rows = [row for table, on in tables if on == dataset for row in table.rows]
        rows = [row for row in rows if only is None or row.variant.name in only]
        shared = list(extra)
        if dataset in NEEDS_TRUNK and "--pretrained" not in extra:
            trunk = runs / dataset / "trunk"
            found[trunk] = _planned(dataset, extra, {**TRUNK, "output": trunk})
            shared += ["--pretrained", str(trunk / LAST)]
        for seed in range(seeds):
            for row in rows:
                given = row_settings(dataset, row.variant, seed, runs)
                found.setdefault(given["output"], _planned(dataset, shared, given))
    return list(found.values())


def _check_extra(extra: Sequence[str]) -> None:
    """Refuse flags that tools.reproduce sets itself."""
    own = {*ABLATED, "seed", "output", "resume"}
    own |= {name for script in SCRIPTS.values() for name in script.flags}
    taken = [f"--{name.replace('_', '-')}" for name in sorted(own)]
    clash = [word for word in extra if word.split("=")[0] in taken]
    if clash:
        raise InputError(f"{clash[0]} is set by the table's rows; leave it out")


def _planned(dataset: str, shared: Sequence[str], given: Mapping[str, Any]) -> Planned:
    script = SCRIPTS[dataset]
    arguments = [*as_flags(script.flags), *shared, *as_flags(given)]
    recipe = parse_flags(recipe_of(dataset), "", arguments)
    return Planned(dataset, Path(given["output"]), arguments, recipe)


def show_plan(planned: Sequence[Planned], waiting: Sequence[Planned]) -> None:
    """List the commands with an estimate of their time on this machine."""
    clock = Estimate()
    for run in planned:
        state = clock.text(run) if run in waiting else "finished"
        print(f"{state:>12}  {run.command}")
    total = sum(clock.seconds(run) for run in waiting)
    print(
        f"{len(waiting)} of {len(planned)} runs are to be done: about {duration(total)}, estimated "
        "from a few timed training steps on this device, loading of images left out"
    )


def run_all(waiting: Sequence[Planned], total: int) -> int:
    """Run one after another; returns the exit status of the first that failed, else 0."""
    clock = Estimate() if waiting else None
    for done, run in enumerate(waiting):
        left = sum(clock.seconds(other) for other in waiting[done:])
        print(
            f"\n== run {total - len(waiting) + done + 1} of {total}, about {duration(left)} left: "
            f"{run.command}",
            flush=True,
        )
        started = time.perf_counter()
        script = ROOT / f"{SCRIPTS[run.dataset].module}.py"
        status = subprocess.call([sys.executable, str(script), *run.arguments, "--resume"])
        if status:
            print(
                f"error: this run ended with status {status}; the same command goes on from here",
                file=sys.stderr,
            )
            return 128 - status if status < 0 else status
        clock.learn(run, time.perf_counter() - started)
    return 0


class Estimate:
    """Seconds that runs take, from timed steps, corrected by runs that were watched."""

    def __init__(self) -> None:
        self._per_image: dict[tuple, float] = {}
        self._watched = self._expected = 0.0

    def seconds(self, run: Planned) -> float:
        """The expected time of a run."""
        factor = self._watched / self._expected if self._expected else 1.0
        return factor * self._from_steps(run)

    def learn(self, run: Planned, seconds: float) -> None:
        """Take note of the time that a run really took."""
        self._watched += seconds
        self._expected += self._from_steps(run)

    def text(self, run: Planned) -> str:
        """The expected time of a run in words."""
        return duration(self.seconds(run))

    def _from_steps(self, run: Planned) -> float:
        recipe = run.recipe
        key = (recipe.method.arch, recipe.method.heads, recipe.image_size, recipe.amp)
        if key not in self._per_image:
            self._per_image[key] = seconds_per_image(recipe, len(DATASETS[run.dataset].classes))
        train, tests = published_sizes(run.dataset)
        train = min(train, recipe.limit or train)
        # A forward pass costs about a third of a training step.
        return recipe.epochs * (train + tests / 3) * self._per_image[key]


def published_sizes(dataset: str) -> tuple[int, int]:
    """Images of the training and of the evaluated split, as published."""
    kind = DATASETS[dataset]
    sizes = []
    for split in ("train", kind.evaluated_split):
        counts = kind.published_counts.get(split)
        sizes.append(sum(counts[0]) if counts else kind.published_totals[split])
    return sizes[0], sizes[1]


def seconds_per_image(recipe: Recipe, num_classes: int) -> float:
    """The time of a training step on random images, by image; the best of three."""
    device = find_device(recipe.device)
    # On a CPU a part of a batch: enough that the optimiser's share is what it will be.
    most = max(2, 8 * 224**2 // recipe.image_size**2)
    size = recipe.batch_size if device.type == "cuda" else min(recipe.batch_size, most)
    method = dataclasses.replace(recipe.method, pretrained="none")
    network = method.network(num_classes).to(device, memory_format=torch.channels_last)
    criterion = method.criterion(num_classes).to(device)
    optimizer = recipe.optimizer([*network.parameters(), *criterion.parameters()], lr=0.0)
    images = torch.randn(size, 3, recipe.image_size, recipe.image_size, device=device)
    labels = torch.arange(size, device=device) % num_classes
    bf16 = wants_bf16(recipe.amp, device)
    times = []
    for _ in range(4):
        started = time.perf_counter()
        with autocast(device, bf16):
            output = network(images)
        optimizer.zero_grad()
        criterion(output, labels).total.backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return min(times[1:]) / size


def print_tables(tables: Sequence[tuple[Table, str]], runs: Path) -> None:
    """The tables that were asked for, from all runs that are there."""
    shapes = {table.shape for table, _ in tables}
    names = {table.name for table in TABLES if table.shape in shapes}
    finished, _ = read_runs(runs)
    wanted = {dataset for _, dataset in tables}
    finished = [run for run in finished if run.dataset in wanted]
    shown = [
        table
        for table in make_tables(finished, runs)
        if table.name in names and (not table.is_papers or table.dataset in wanted)
    ]
    print(f"\n{as_text(shown)}")


def duration(seconds: float) -> str:
    """A time as days, hours or minutes."""
    minutes = max(1, round(seconds / 60))
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours / 24:.1f} days"


if __name__ == "__main__":
    call_main(main)
