"""Tables of our own comparisons: methods under one protocol, with costs and paired tests."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.flags import flag_fields, settings
from datasets import DATASETS
from networks import Method

from .costs import cost_of
from .experiments import COMPARISONS, SCRIPTS, Row, Table, as_flags, recipe_with, train_command
from .paired import PairedComparison, holm, paired_comparison
from .runs import FinishedRun, result_settings
from .tables import Beside, Group, Line, Ours, Printed, in_no_table, make_tables

#: Settings of a method, of which a row names those that are not at their defaults.
OF_METHODS = {field.name for _, field in flag_fields(Method())} - {"pretrained"}
PUBLISHED = Path(__file__).with_name("rivals.csv")


def every_table(
    runs: Sequence[FinishedRun], folder: Path, names: Collection[str] | None = None
) -> list[Printed]:
    """The paper's tables (`make_tables`), then our comparisons.

    names: of comparisons to make (None: all).
    """
    ours = comparison_tables(runs, names)
    return make_tables(runs, folder, in_no_table(runs, ours)) + ours


def comparison_tables(
    runs: Sequence[FinishedRun], names: Collection[str] | None = None
) -> list[Printed]:
    """A table for every comparison (or those with these names) and protocol, of two rows or more.

    A table whose runs all stand in another one is left out: noise at 0 % is no more than the
    methods' table, and the ResNet-18 and DAN of the methods are no ablations. But noise does not
    replace the methods' table.
    """
    asked = [table for table in COMPARISONS if names is None or table.name in names]
    found = [(table, group) for table in asked for group in protocols(table, runs)]
    found = [(table, group) for table, group in found if len(group.rows) > 1]
    kept = []
    for i, (table, group) in enumerate(found):
        earlier = any(group.folders() == other.folders() for _, other in found[:i])
        within = any(
            group.folders() < other.folders() and (table.name, larger.name) != ("rivals", "noise")
            for larger, other in found
        )
        if not (earlier or within):
            kept.append(_printed(table, group))
    return kept


class Protocol(NamedTuple):
    """The runs of a comparison that differ in row and seed alone."""

    shared: dict[str, Any]  # settings, and the data
    rows: dict[str, list[FinishedRun]]  # by the name of the variant; one run a seed, by seed

    def folders(self) -> set[str]:
        """Folders of all runs."""
        return {run.folder for runs in self.rows.values() for run in runs}


def protocols(table: Table, runs: Sequence[FinishedRun]) -> list[Protocol]:
    """The runs of a table's rows, joined where they may be compared.

    A row that starts from weights of its own belongs to every protocol that has its other settings.
    """
    placed = [(row, run) for run in runs for row in table.rows if fits(row, run)]
    keyed = [(row, run, _shared(row, run)) for row, run in placed]
    complete = [shared for row, _, shared in keyed if "pretrained" in shared]
    found = []
    for shared in [each for i, each in enumerate(complete) if each not in complete[:i]]:
        rows: dict[str, dict[int, FinishedRun]] = {}
        for row in table.rows:
            for other, run, theirs in keyed:
                if other is row and all(shared.get(name) == v for name, v in theirs.items()):
                    rows.setdefault(row.variant.name, {})[run.seed] = run
        by_seed = {name: [runs[seed] for seed in sorted(runs)] for name, runs in rows.items()}
        found.append(Protocol(shared, by_seed))
    return found


def fits(row: Row, run: FinishedRun) -> bool:
    """Whether a run is one of this row: its settings, the method's others and noise at defaults."""
    if run.dataset not in SCRIPTS:
        return False
    wanted = _settings(run.dataset, tuple(as_flags(row.variant.flags)))
    names = {*row.variant.flags, *OF_METHODS, "label_noise"}
    return all(run.settings.get(name, wanted[name]) == wanted[name] for name in names)


@cache
def _settings(dataset: str, flags: tuple[str, ...]) -> Mapping[str, Any]:
    """What the data set's train script makes of flags."""
    given = [*as_flags(SCRIPTS[dataset].flags), *flags]
    return settings(recipe_with(dataset, given))


def _shared(row: Row, run: FinishedRun) -> dict[str, Any]:
    """What a run has in common with those of other rows.

    Without the backbone where the row has its own: with flipped labels it has seen these as well.
    """
    own = {*row.variant.flags, *OF_METHODS, "seed"}
    if row.variant.flags.get("label_noise"):
        own |= {"pretrained"}
    kept = {name: v for name, v in result_settings(run.settings).items() if name not in own}
    data = (run.dataset, run.training_images, run.evaluated_images, run.evaluated_split)
    return {**kept, "images": (*data, run.published_images)}


def _printed(table: Table, group: Protocol) -> Printed:
    """A comparison as it is printed: the rows that have runs, and which have none."""
    members = [run for runs in group.rows.values() for run in runs]
    dataset = members[0].dataset
    recipe = _settings(dataset, ())
    changed = {
        name: value
        for name, value in group.shared.items()
        if name in recipe and value != recipe[name]
    }
    protocol = train_command(dataset, as_flags({**SCRIPTS[dataset].flags, **changed}))
    rows = [row for row in table.rows if row.variant.name in group.rows]
    missing = [row.method for row in table.rows if row not in rows]
    notes = [*_own_settings(table, rows), *_remarks(rows, dataset), *table.notes]
    notes += [f"not run: {', '.join(missing)}"] if missing else []
    tests = {row.variant.name: _against_baseline(row, group) for row in rows}
    done = {name: test.p_value for name, test in tests.items() if test}
    corrected = dict(zip(done, holm(list(done.values())), strict=True))
    lines = [
        _line(row, group, dataset, tests[row.variant.name], corrected.get(row.variant.name))
        for row in rows
    ]
    title = f"{table.title}, {Group(members).title()}"
    return Printed(table.name, title, dataset, protocol, False, lines, notes)


def _own_settings(table: Table, rows: Sequence[Row]) -> Iterator[str]:
    """The optimiser that most of the rows have, and what an arch has of its own."""
    shown = {row.variant.flags["arch"] for row in rows}
    first: dict[str, Row] = {}  # of each arch; DAN's is the one that nothing is ablated from
    for row in table.rows:
        first.setdefault(row.variant.flags["arch"], row)
    for arch, row in first.items():
        flags = {k: v for k, v in row.variant.flags.items() if k not in ("arch", "label_noise")}
        if arch not in shown:
            continue
        if arch == "resnet18":
            yield f"every --arch but those named here: {' '.join(as_flags(flags))}"
        elif row.why:
            yield f"--arch {arch}: {' '.join(as_flags(flags))} ({row.why})"


def _against_baseline(row: Row, group: Protocol) -> PairedComparison | None:
    return against(group.rows[row.variant.name], group.rows.get(row.baseline, []))


def _line(
    row: Row, group: Protocol, dataset: str, test: PairedComparison | None, corrected: float | None
) -> Line:
    runs = group.rows[row.variant.name]
    parameters, multiply_adds = cost_of(runs[0].settings, len(DATASETS[dataset].classes))
    speeds = [run.images_per_second for run in runs if run.images_per_second]
    numbers = (f"{n.dataset} {n.percent:.2f}" for n in published_beside(row, dataset))
    beside = Beside(
        parameters=parameters,
        multiply_adds=multiply_adds,
        images_per_second=statistics.median(speeds) if speeds else None,
        against=test,
        corrected=corrected,
        published=", ".join(numbers),
    )
    return Line(row.method, {}, ours=Ours.of(runs), beside=beside)


def against(
    runs: Sequence[FinishedRun], baseline: Sequence[FinishedRun]
) -> PairedComparison | None:
    """A row's runs against the baseline's, over images and seeds, after the last epoch.

    None without a baseline, or where the predictions on the same images are not there.
    """
    images = {run.images_checksum for run in (*runs, *baseline)}
    if not baseline or len(images) > 1 or 0 in images:
        return None
    ours, theirs = (np.stack([run.correct() for run in side]) for side in (runs, baseline))
    return paired_comparison(ours, theirs)


class PublishedRival(NamedTuple):
    """A number of a method's paper."""

    arch: str
    dataset: str
    noise: float
    percent: float
    remark: str


@cache
def published_rivals() -> tuple[PublishedRival, ...]:
    """Every number of results/rivals.csv."""
    with PUBLISHED.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    return tuple(
        PublishedRival(
            row["arch"], row["dataset"], *map(float, (row["noise"], row["percent"])), row["remark"]
        )
        for row in rows
    )


def published_beside(row: Row, dataset: str) -> list[PublishedRival]:
    """The method's numbers on a data set, at its share of noise; on others where there is none.

    None for an ablation: its row sets no share of noise.
    """
    which = (row.variant.flags["arch"], row.variant.flags.get("label_noise"))
    known = [number for number in published_rivals() if (number.arch, number.noise) == which]
    return [number for number in known if number.dataset == dataset] or known[:1]


def _remarks(rows: Sequence[Row], dataset: str) -> Iterator[str]:
    for row in rows:
        for number in published_beside(row, dataset):
            if number.remark:
                yield f"{row.method} {number.percent:.2f}: {number.remark}"
