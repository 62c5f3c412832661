"""The paper's own experiments: which row of which table is which command."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import train_affectnet
import train_fer2013
import train_rafdb
import train_sfew
from common.errors import InputError
from common.flags import parse_flags
from engine.recipe import Recipe


class Variant(NamedTuple):
    """One way to train: the paper's method, or an ablation of it."""

    name: str  # in folder names
    flags: Mapping[str, Any]  # what differs from the recipe, by setting


DAN = Variant("dan", {})
RESNET18 = Variant("resnet18", {"arch": "resnet18"})

#: A setting is part of a row, not of the protocol that the rows of a table share.
ABLATED = {"arch": "dan", "heads": 4, "fcn_loss": "affinity", "partition": "eq6"}


class Row(NamedTuple):
    """A row of a table that a run of ours can fill."""

    method: str  # as in paper.csv
    variant: Variant


class Table(NamedTuple):
    """A table (or figure) of the paper: what it compares, and on which data."""

    name: str  # what tools.reproduce calls it
    number: str  # in paper.csv; "fig5" is only drawn there
    title: str
    dataset: str
    rows: tuple[Row, ...]

    @property
    def shape(self) -> tuple[str, ...]:
        """What the rows are: Tables 3 to 6 are one comparison on several data sets."""
        return tuple(row.variant.name for row in self.rows)


def _variant(name: str, **flags: Any) -> Variant:
    return Variant(f"dan-{name}", flags)


_RESULTS = (Row("ResNet-18", RESNET18), Row("DAN", DAN))
HEADS = (1, 2, 3, 4, 5)

TABLES = (
    Table(
        "table1",
        "1",
        "Table 1: loss on the FCN's features",
        "rafdb",
        (
            Row("DAN without FCN loss", _variant("fcn-none", fcn_loss="none")),
            Row("DAN with center loss", _variant("fcn-center", fcn_loss="center")),
            Row("DAN with affinity loss", DAN),
        ),
    ),
    Table(
        "table2",
        "2",
        "Table 2: loss on the heads",
        "rafdb",
        (
            Row("DAN without partition loss", _variant("partition-none", partition="none")),
            Row("DAN with partition loss", DAN),
            Row(
                "DAN with partition loss as released",
                _variant("partition-released", partition="released"),
            ),
        ),
    ),
    Table("table3", "3", "Table 3: AffectNet, 8 classes", "affectnet8", _RESULTS),
    Table("table4", "4", "Table 4: AffectNet, 7 classes", "affectnet7", _RESULTS),
    Table("table5", "5", "Table 5: RAF-DB", "rafdb", _RESULTS),
    Table("table6", "6", "Table 6: SFEW 2.0", "sfew", _RESULTS),
    Table(
        "fig5",
        "fig5",
        "Figure 5: number of heads",
        "rafdb",
        tuple(
            Row(
                f"DAN with {k} head{'s' if k > 1 else ''}",
                DAN if k == ABLATED["heads"] else _variant(f"heads{k}", heads=k),
            )
            for k in HEADS
        ),
    ),
)


class Script(NamedTuple):
    """The train script of a data set."""

    name: str
    recipe: Recipe
    flags: Mapping[str, Any]  # that choose the data set


SCRIPTS = {
    "rafdb": Script("train_rafdb.py", train_rafdb.RECIPE, {}),
    "affectnet8": Script("train_affectnet.py", train_affectnet.RECIPE, {"classes": "8"}),
    "affectnet7": Script("train_affectnet.py", train_affectnet.RECIPE, {"classes": "7"}),
    "sfew": Script("train_sfew.py", train_sfew.RECIPE, {}),
    "fer2013": Script("train_fer2013.py", train_fer2013.RECIPE, {"labels": "fer2013"}),
    "ferplus": Script("train_fer2013.py", train_fer2013.RECIPE, {"labels": "ferplus"}),
}


def as_flags(settings: Mapping[str, Any]) -> list[str]:
    """Settings as words of a command line."""
    words = [(f"--{name.replace('_', '-')}", str(value)) for name, value in settings.items()]
    return [word for pair in words for word in pair]


def recipe_with(dataset: str, arguments: Sequence[str]) -> Recipe:
    """What a data set's train script makes of a command line; raises InputError."""
    return parse_flags(SCRIPTS[dataset].recipe, "", arguments)


def train_command(dataset: str, arguments: Sequence[str]) -> str:
    """A run of a data set's train script as a user would start it."""
    return shlex.join(["python", SCRIPTS[dataset].name, *arguments])


def row_settings(dataset: str, variant: Variant, seed: int, runs: Path) -> dict[str, Any]:
    """What one run of a variant is given beside the flags that all rows share."""
    return {
        **variant.flags,
        "seed": seed,
        "output": run_folder(runs, dataset, variant, seed),
    }


def run_folder(runs: Path, dataset: str, variant: Variant, seed: int) -> Path:
    """Where tools.reproduce keeps that run."""
    return runs / dataset / f"{variant.name}-seed{seed}"


def tables_named(name: str, dataset: str | None) -> list[tuple[Table, str]]:
    """(table, data set to run it on) of one name, or of "all"; the paper's data set by default.

    Tables 3 to 6 are one table with several data sets, so on a given one they are run once.

    Raises InputError for an unknown name or data set.
    """
    known = [table.name for table in TABLES]
    if name != "all" and name not in known:
        raise InputError(f"no table is named {name!r}; expected all, {', '.join(known)}")
    if dataset is not None and dataset not in SCRIPTS:
        raise InputError(f"--dataset is {dataset!r}; expected one of {', '.join(SCRIPTS)}")
    chosen = [table for table in TABLES if name in ("all", table.name)]
    if dataset is None:
        return [(table, table.dataset) for table in chosen]
    own = {table.shape: table for table in reversed(chosen)}
    own |= {table.shape: table for table in chosen if table.dataset == dataset}
    return [(table, dataset) for table in own.values()]
