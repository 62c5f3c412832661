"""Which runs a table needs, and which of them are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import InputError
from engine.checkpoint import differences
from engine.recipe import Recipe, parse_flags
from engine.run_folder import LAST

from .experiments import (
    ABLATED,
    SCRIPTS,
    Table,
    as_flags,
    recipe_of,
    row_settings,
    train_command,
)
from .runs import read_run

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
        return train_command(self.dataset, self.arguments)

    def is_finished(self) -> bool:
        """Whether its folder holds the whole run.

        Raises InputError where the folder holds a run with other settings.
        """
        done = read_run(self.folder) if (self.folder / "config.json").exists() else None
        if done is None:
            return False

        held = {"recipe": self.recipe.name, "settings": done.settings}
        differing = differences(held, self.recipe)
        if differing:
            raise InputError(
                f"{self.folder} was run with other settings: {'; '.join(differing)}; keep the "
                "runs of each protocol in a folder of their own: --runs DIR"
            )
        return True


def make_plan(
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
