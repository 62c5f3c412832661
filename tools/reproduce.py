"""Run whatever a table of the paper needs, one run after another, then print the table.

    python -m tools.reproduce table1 --dataset rafdb --seeds 3
    python -m tools.reproduce all --dataset fer2013 --seeds 3 --image-size 48 --limit 4000
    python -m tools.reproduce table3 --dry-run
    python -m tools.reproduce rivals --dataset fer2013 --seeds 3 --limit 8000 --methods resnet18,dan
    python -m tools.reproduce noise --dataset demo --data DIR --methods resnet18,scn,eac,dan
    python -m tools.reproduce ablations --dataset ferplus --votes soft --seeds 3

Flags that are not listed here go to the train script of every run. Finished runs are kept, broken
ones go on where they stopped, so the same command may be given again at any time. On FER2013 and
FER+, where the paper has no pre-trained backbone, a ResNet-18 is trained first and every row starts
from it, unless --pretrained names another.

`rivals` trains all methods of docs/rivals.md under one protocol (--image-size 112, --epochs 4),
`noise` does so with 0, 10, 20 and 30 % of the training labels flipped, `ablations` trains DAN with
other losses, heads, fusions and scales. With the same flags, runs that they have in common are
trained once. --dataset demo is synthetic faces in RAF-DB's layout (python -m datasets.demo rafdb).

Small runs do not keep the threads of a CPU busy: with --jobs 2 two runs share the cores, and both
are done sooner than one after the other. The output of each is in a file beside its run folder.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from common.cli import Parser, call_main
from common.devices import find_device, wants_bf16
from common.errors import InputError
from common.machine import available_cores
from common.progress import duration
from engine.recipe import Recipe
from engine.run_folder import LAST
from results.comparisons import every_table
from results.experiments import (
    COMPARISONS,
    SCRIPTS,
    TABLES,
    Table,
    tables_named,
    with_methods,
)
from results.plan import Planned, make_plan, published_sizes
from results.render import as_text
from results.runs import read_runs

from .bench import CLASSES, Setting, step, stopwatch

ROOT = Path(__file__).resolve().parents[1]
POLL = 0.1  # seconds between looks at the runs


def main(arguments: Sequence[str] | None = None) -> int:
    """Plan, run and print.

    Raises InputError for an unknown table, data set or flag. Returns the exit status of a run that
    failed, else 0.
    """
    args, extra = parse_arguments(arguments)
    methods = args.methods.split(",") if args.methods is not None else None
    tables = tables_named(args.table, args.dataset)
    tables = [(with_methods(table, methods), dataset) for table, dataset in tables]
    only = args.only.split(",") if args.only is not None else None
    planned = make_plan(tables, args.seeds, args.runs, extra, only=only)
    waiting = [run for run in planned if not run.is_finished()]
    if args.dry_run:
        show_plan(planned, waiting)
        return 0
    status = run_all(waiting, total=len(planned), jobs=args.jobs)
    if status == 0:
        print_tables(tables, args.runs)
    return status


def parse_arguments(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """The command line, and the flags in it that are the train scripts'."""
    parser = Parser(__doc__)
    add = parser.add_argument
    names = [table.name for table in (*TABLES, *COMPARISONS)]
    add("table", metavar="TABLE", help=f"{', '.join(names)}; or all, the paper's")
    add(
        "--dataset",
        metavar="NAME",
        help=f"{', '.join(SCRIPTS)} [the one that the paper's table is on]",
    )
    add(
        "--only",
        metavar="ROWS",
        help="rows to run, by the names of their folders, with commas: dan,resnet18,dan-heads2",
    )
    add(
        "--methods",
        metavar="ARCHS",
        help="of rivals, noise, ablations: methods to run, with commas: resnet18,scn,eac,dan [all]",
    )
    add("--seeds", type=int, default=1, metavar="N", help="seeds 0 to N-1 [1]")
    add("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where runs are kept [runs]")
    add("--jobs", type=int, default=1, metavar="N", help="runs at a time, on a CPU [1]")
    add("--dry-run", action="store_true", help="list what would run and how long it may take")
    args, extra = parser.parse_known_args(arguments)
    if args.seeds < 1:
        raise InputError(f"--seeds is {args.seeds}; expected at least 1")
    if args.jobs < 1:
        raise InputError(f"--jobs is {args.jobs}; expected at least 1")
    return args, extra


def show_plan(planned: Sequence[Planned], waiting: Sequence[Planned]) -> None:
    """List the commands with an estimate of their time on this machine."""
    clock = Estimate()
    for run in planned:
        state = duration(clock.seconds(run)) if run in waiting else "finished"
        print(f"{state:>12}  {run.command}")
    total = sum(clock.seconds(run) for run in waiting)
    print(
        f"{len(waiting)} of {len(planned)} runs are to be done: about {duration(total)}, estimated "
        "from a few timed training steps on this device, loading of images left out"
    )


def run_all(waiting: Sequence[Planned], *, total: int, jobs: int = 1) -> int:
    """Run them, `jobs` at a time; returns the exit status of the first that failed, else 0.

    A run waits for the one that trains its backbone. After a failure no other run is started.
    """
    clock, to_start, running, status = Estimate(), list(waiting), [], 0
    try:
        while running or (to_start and not status):
            while len(running) < jobs and not status and (run := next_run(to_start, running)):
                to_start.remove(run)
                left = sum(clock.seconds(r) for r in (run, *to_start, *(r.run for r in running)))
                number = total - len(to_start)
                print(f"\n== run {number} of {total}, about {duration(left / jobs)} left: ", end="")
                running.append(Running(run, jobs))
            time.sleep(POLL)
            for ended in [each for each in running if each.process.poll() is not None]:
                running.remove(ended)
                clock.learn(ended.run, time.perf_counter() - ended.started)
                ended_with = ended.report()
                status = status or ended_with
    finally:
        for each in running:
            each.process.terminate()
        for each in running:
            each.process.wait()
    return status


def next_run(to_start: Sequence[Planned], running: Sequence[Running]) -> Planned | None:
    """The first run whose backbone is not still to be trained."""
    missing = {str(run.folder / LAST) for run in (*to_start, *(each.run for each in running))}
    ready = (run for run in to_start if run.recipe.method.pretrained not in missing)
    return next(ready, None)


class Running:
    """A run that has been started; of several at a time, each with its share of the cores."""

    def __init__(self, run: Planned, jobs: int):
        """Start it; with several jobs its output goes to a file beside its folder."""
        self.run, self.started = run, time.perf_counter()
        self.log = run.folder.with_name(f"{run.folder.name}.log") if jobs > 1 else None
        share = ["--threads", str(max(1, len(available_cores()) // jobs))] if jobs > 1 else []
        # The share comes first: of a flag given twice, the last one counts.
        arguments = [*share, *run.arguments, "--resume"]
        print(f"{run.command}{f' > {self.log}' if self.log else ''}", flush=True)
        command = [sys.executable, str(ROOT / SCRIPTS[run.dataset].name), *arguments]
        with contextlib.ExitStack() as stack:
            output = None
            if self.log:
                self.log.parent.mkdir(parents=True, exist_ok=True)
                output = stack.enter_context(self.log.open("ab"))
            self.process = subprocess.Popen(command, stdout=output, stderr=output)

    def report(self) -> int:
        """Say how it ended; returns its exit status, as a shell gives it."""
        status = self.process.returncode
        if status:
            print(
                f"error: {'this run' if self.log is None else self.run.folder} ended with status "
                f"{status}{f', see {self.log}' if self.log else ''}; the same command goes on from "
                "here",
                file=sys.stderr,
            )
        elif self.log:
            seconds = time.perf_counter() - self.started
            print(f"finished after {duration(seconds)}: {self.run.folder}", flush=True)
        return 128 - status if status < 0 else status


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

    def _from_steps(self, run: Planned) -> float:
        recipe = run.recipe
        key = (recipe.method.arch, recipe.method.heads, recipe.image_size, recipe.amp)
        if key not in self._per_image:
            self._per_image[key] = seconds_per_image(recipe)
        train, tests = published_sizes(run.dataset)
        train = min(train, recipe.limit or train)
        # A forward pass costs about a third of a training step.
        return recipe.epochs * (train + tests / 3) * self._per_image[key]


def seconds_per_image(recipe: Recipe) -> float:
    """Seconds of a training step on random images, by image; the best of three.

    Raises InputError where the recipe's device is not there.
    """
    device = find_device(recipe.device)
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    # On a CPU a smaller batch, large enough for a realistic share of the optimiser.
    most = max(2, 8 * 224**2 // recipe.image_size**2)
    size = recipe.batch_size if device.type == "cuda" else min(recipe.batch_size, most)
    setting = Setting(
        device=device,
        image_size=recipe.image_size,
        batch_sizes=(size,),
        pairs=1,
        seconds=0.0,
        bf16=wants_bf16(recipe.amp, device),
    )
    method = dataclasses.replace(recipe.method, pretrained="none")
    network, criterion = method.network(CLASSES, recipe.image_size), method.criterion(CLASSES)
    run = step(network, setting, size, plain=False, bf16=setting.bf16, criterion=criterion)
    clock = stopwatch(device)
    return min([clock(run) for _ in range(4)][1:]) / size


def print_tables(tables: Sequence[tuple[Table, str]], runs: Path) -> None:
    """The tables that were asked for, from all runs that are there."""
    shapes = {table.shape for table, _ in tables}
    names = {table.name for table in TABLES if table.shape in shapes}
    names |= {table.name for table, _ in tables}
    finished, _ = read_runs(runs)
    wanted = {SCRIPTS[dataset].dataset for _, dataset in tables}
    finished = [run for run in finished if run.dataset in wanted]
    shown = [
        table
        for table in every_table(finished, runs, names)
        if table.name in names and (not table.is_papers or table.dataset in wanted)
    ]
    print(f"\n{as_text(shown)}")


if __name__ == "__main__":
    call_main(main)
