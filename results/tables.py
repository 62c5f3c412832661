"""The paper's tables with our runs beside them."""

from __future__ import annotations

import json
import shlex
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from common.flags import settings
from engine.evaluate import wilson_interval
from networks.rivals import RIVALS

from .experiments import (
    ABLATED,
    SCRIPTS,
    TABLES,
    Row,
    Table,
    as_flags,
    recipe_with,
    row_settings,
    train_command,
)
from .paired import PairedComparison
from .paper import published
from .runs import METRICS, FinishedRun, result_settings

#: Settings that belong to a row or a run, not to the protocol that a table's rows share.
NOT_PROTOCOL = {*ABLATED, "seed", *(name for kind in RIVALS.values() for name in settings(kind()))}


class Spread(NamedTuple):
    """A metric over the seeds of one row, in percent."""

    mean: float
    deviation: float | None  # sample standard deviation; None for a single seed

    @classmethod
    def of(cls, fractions: Sequence[float]) -> Spread:
        """Mean and deviation of fractions."""
        percents = [100 * value for value in fractions]
        deviation = statistics.stdev(percents) if len(percents) > 1 else None
        return cls(statistics.fmean(percents), deviation)

    def __str__(self) -> str:
        spread = "" if self.deviation is None else f" ± {self.deviation:.2f}"
        return f"{self.mean:.2f}{spread}"


@dataclass(frozen=True)
class Ours:
    """What our runs of one row say."""

    last: dict[str, Spread]  # by metric, after the last epoch
    best: dict[str, Spread]  # at the epoch with the best accuracy of each run
    best_epochs: list[int]
    interval: tuple[float, float]  # 95 %, percent: Wilson's around the last epoch's mean
    seeds: list[int]
    folders: list[str]

    @classmethod
    def of(cls, runs: Sequence[FinishedRun]) -> Ours:
        """Join the runs of one row, which differ in their seed alone."""
        last = {name: Spread.of([run.last[name] for run in runs]) for name in METRICS}
        images = runs[0].evaluated_images
        # The mean over seeds, to the nearest whole image.
        low, high = wilson_interval(round(last["accuracy"].mean / 100 * images), images)
        return cls(
            last=last,
            best={name: Spread.of([run.best[name] for run in runs]) for name in METRICS},
            best_epochs=[run.best_epoch for run in runs],
            interval=(100 * low, 100 * high),
            seeds=[run.seed for run in runs],
            folders=[run.folder for run in runs],
        )


@dataclass(frozen=True)
class Beside:
    """What a comparison of methods adds to a row."""

    parameters: int  # in training
    multiply_adds: int  # of one image, at test
    images_per_second: float | None  # in training, median over the runs; None: not known
    against: PairedComparison | None  # with the baseline, after the last epoch; None: not known
    corrected: float | None  # its p-value, by Holm's method for all tests of the table
    published: str  # numbers of papers


@dataclass(frozen=True)
class Line:
    """A row of a printed table."""

    method: str
    paper: dict[str, float]  # percent by metric; empty where the paper says nothing
    ours: Ours | None = None
    command: str = ""  # what would fill an empty cell
    beside: Beside | None = None


@dataclass(frozen=True)
class Printed:
    """A table to print: the paper's, or one of its shape for other data."""

    name: str
    title: str
    dataset: str
    protocol: str  # the train command that its rows share; "" where nothing was run
    is_papers: bool
    lines: list[Line] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Group:
    """Runs that differ in ablation and seed alone, so that they can be compared."""

    runs: list[FinishedRun]

    @property
    def dataset(self) -> str:
        """Their data set."""
        return self.runs[0].dataset

    @property
    def is_papers(self) -> bool:
        """Whether they ran on the published images, trained on all and tested on the test split."""
        first = self.runs[0]
        partial = ("limit", "holdout", "fold", "label_noise", "noisy_labels")
        whole = not any(first.settings.get(name) for name in partial)
        return first.published_images and whole

    def protocol(self) -> str:
        """The train command of these runs, with what differs from the recipe."""
        script = SCRIPTS[self.dataset]
        ours, recipe = _protocol(self.runs[0].settings), _protocol(_recipe_settings(self.dataset))
        changed = {name: value for name, value in ours.items() if recipe.get(name) != value}
        return train_command(self.dataset, as_flags({**script.flags, **changed}))

    def title(self) -> str:
        """The data and the protocol in words."""
        first = self.runs[0]
        known = "" if first.published_images else " (not the published images)"
        return (
            f"{self.dataset}{known}, {first.training_images:,} training and "
            f"{first.evaluated_images:,} {first.evaluated_split} images"
        )

    def of(self, variant_flags: Mapping[str, Any]) -> list[FinishedRun]:
        """The runs of one row, one a seed, by seed."""
        wanted = _ablation({**ABLATED, **variant_flags})
        found = [run for run in self.runs if _ablation(run.settings) == wanted]
        return sorted({run.seed: run for run in found}.values(), key=lambda run: run.seed)


def _ablation(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that tell rows apart; heads and losses mean nothing without heads."""
    if settings.get("arch") == "resnet18":
        return {"arch": "resnet18"}
    return {name: settings.get(name, default) for name, default in ABLATED.items()}


def _protocol(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value for name, value in result_settings(settings).items() if name not in NOT_PROTOCOL
    }


def _recipe_settings(dataset: str) -> dict[str, Any]:
    """The settings of the data set's train script with no further flags."""
    return settings(recipe_with(dataset, as_flags(SCRIPTS[dataset].flags)))


def grouped(runs: Sequence[FinishedRun]) -> list[Group]:
    """Runs of known data sets, joined where they may be compared."""
    groups: dict[str, list[FinishedRun]] = {}
    for run in runs:
        if run.dataset in SCRIPTS:
            shared = [run.dataset, run.training_images, run.evaluated_images, run.published_images]
            key = json.dumps([*shared, run.evaluated_split, _protocol(run.settings)], default=str)
            groups.setdefault(key, []).append(run)
    return [Group(runs) for _, runs in sorted(groups.items())]


def make_tables(
    runs: Sequence[FinishedRun], folder: Path, rest: Sequence[FinishedRun] | None = None
) -> list[Printed]:
    """Tables 1 to 6 and Figure 5 of the paper, then tables of the same shape for other data.

    A run is put beside the paper's numbers only where it ran on the published images of the
    table's data set. `folder` is where the commands for empty cells write.

    rest: the runs for tables of other data (None: all).
    """
    groups = grouped(runs)
    tables: list[Printed] = []
    for table in TABLES:
        fitting = [group for group in groups if _fits(table, group)]
        tables += [_papers_table(table, group, folder) for group in fitting or [None]]
    for group in groups if rest is None else grouped(rest):
        tables += _own_tables(group, folder)
    return tables


def _fits(table: Table, group: Group) -> bool:
    """Whether the group belongs beside the paper's numbers of this table."""
    here = group.is_papers and group.dataset == table.dataset
    return here and any(group.of(row.variant.flags) for row in table.rows)


def _papers_table(table: Table, group: Group | None, folder: Path) -> Printed:
    """The paper's rows in its order, then those rows of ours that it has not."""
    paper = _published_rows(table)
    ours = {row.method: row for row in table.rows}
    place = (group, table.dataset, folder)
    lines = [
        _line(ours[method], numbers, *place) if method in ours else Line(method, numbers)
        for method, numbers in paper.items()
    ]
    lines += [_line(row, {}, *place) for row in table.rows if row.method not in paper]
    protocol = group.protocol() if group else ""
    return Printed(table.name, table.title, table.dataset, protocol, True, lines, _notes(table))


def _notes(table: Table) -> list[str]:
    """What paper.csv remarks on single numbers, after the semicolon of their source."""
    return [
        f"{number.method} {number.percent:.2f}: {number.source.split('; ')[1]}"
        for number in published()
        if number.table == table.number and "; " in number.source
    ]


def _published_rows(table: Table) -> dict[str, dict[str, float]]:
    """Percent by metric of every method that the paper's table lists, in its order."""
    rows: dict[str, dict[str, float]] = {}
    for number in published():
        if number.table == table.number:
            rows.setdefault(number.method, {})[number.metric] = number.percent
    return rows


def _line(
    row: Row, paper: dict[str, float], group: Group | None, dataset: str, folder: Path
) -> Line:
    """A row with the paper's number, and a group's runs or the command for them."""
    runs = group.of(row.variant.flags) if group else []
    if runs:
        return Line(row.method, paper, ours=Ours.of(runs))
    recipe = train_command(dataset, as_flags(SCRIPTS[dataset].flags))
    own = as_flags(row_settings(dataset, row.variant, 0, folder))
    return Line(
        row.method, paper, command=f"{group.protocol() if group else recipe} {shlex.join(own)}"
    )


def _own_tables(group: Group, folder: Path) -> Iterator[Printed]:
    """Tables of the paper's shape for runs that do not belong beside its numbers.

    The result table is the same for every data set; a comparison needs two rows.
    """
    seen = {table.shape for table in TABLES if _fits(table, group)}
    for table in TABLES:
        if table.shape in seen:
            continue
        seen.add(table.shape)
        filled = sum(bool(group.of(row.variant.flags)) for row in table.rows)
        if filled < 2:
            continue
        like, shape = table.title.split(": ")
        if _is_results(table):
            like, shape = "Tables 3 to 6", "results"
        shape = shape[0].upper() + shape[1:]
        lines = [_line(row, {}, group, group.dataset, folder) for row in table.rows]
        title = f"{shape} (the form of {like}), on {group.title()}"
        yield Printed(table.name, title, group.dataset, group.protocol(), False, lines)


def _is_results(table: Table) -> bool:
    return table.number in "3456"


def in_no_table(runs: Sequence[FinishedRun], tables: Sequence[Printed]) -> list[FinishedRun]:
    """Runs that no table shows: backbones, single rows, other combinations of flags."""
    shown = {
        folder
        for table in tables
        for line in table.lines
        if line.ours
        for folder in line.ours.folders
    }
    return [run for run in runs if run.folder not in shown]
