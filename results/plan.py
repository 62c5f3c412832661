"""Which runs a table needs, and which of them are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import InputError
from datasets import DATASETS
from engine.checkpoint import differences
from engine.recipe import Recipe
from engine.run_folder import LAST

from .experiments import (
    ABLATED,
    SCRIPTS,
    Table,
    as_flags,
    recipe_with,
    row_settings,
    train_command,
)
from .runs import read_run

#: The first step of the FER2013 recipe (see train_fer2013.py): the backbone of every row.
BACKBONE = {
    "arch": "resnet18",
    "pretrained": "none",
    "epochs": 12,
    "batch_size": 64,
    "lr": 0.001,
    "seed": 0,
}
NEEDS_BACKBONE = ("fer2013", "ferplus")


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
        if differing := differences(held, self.recipe):
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
    """Every run that the tables need, each once: backbones first, then seed by seed.

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
        if dataset in NEEDS_BACKBONE and "--pretrained" not in extra:
            backbone = runs / dataset / "backbone"
            found[backbone] = _planned(dataset, extra, {**BACKBONE, "output": backbone})
            shared += ["--pretrained", str(backbone / LAST)]
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
    arguments = [*as_flags(SCRIPTS[dataset].flags), *shared, *as_flags(given)]
    return Planned(dataset, Path(given["output"]), arguments, recipe_with(dataset, arguments))


def published_sizes(dataset: str) -> tuple[int, int]:
    """Images of the training and of the evaluated split, as published."""
    kind = DATASETS[dataset]
    sizes = []
    for split in ("train", kind.evaluated_split):
        counts = kind.published_counts.get(split)
        sizes.append(sum(counts[0]) if counts else kind.published_totals[split])
    return sizes[0], sizes[1]
