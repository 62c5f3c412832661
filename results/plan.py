"""Which runs a table needs, and which of them are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import InputError
from datasets import DATASETS
from datasets.demo import TEST_FACES, TRAIN_FACES
from engine.checkpoint import differences
from engine.recipe import Recipe
from engine.run_folder import LAST

from .experiments import (
    ABLATED,
    DEMO_DATA,
    SCRIPTS,
    Row,
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
    "optimizer": "adamw",
    "scheduler": "cosine",
    "seed": 0,
}
NEEDS_BACKBONE = ("fer2013", "ferplus", "demo")


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

    Comparisons of ours go row by row, the cheapest first, each with all its seeds: what is done
    after some hours can be compared.

    only: names of the variants to keep (None: all).

    Raises InputError where an extra flag is unknown to a train script or belongs to the rows, or
    where `only` names what no table has.
    """
    _check_extra(extra, tables)
    known = dict.fromkeys(row.variant.name for table, _ in tables for row in table.rows)
    for name in only or ():
        if name not in known:
            raise InputError(f"--only names {name!r}; expected some of {', '.join(known)}")
    backbones: dict[Path, Planned] = {}
    found: dict[Path, Planned] = {}
    for dataset in dict.fromkeys(dataset for _, dataset in tables):
        here = [table for table, on in tables if on == dataset]
        compared = here[0].shared
        place = runs / here[0].place
        shared = [*as_flags(compared), *_demo_data(dataset, extra), *extra]
        rows = [row for table in here for row in table.rows]
        rows = [row for row in rows if only is None or row.variant.name in only]
        pairs = [(row, seed) for seed in range(seeds) for row in rows]
        if compared:
            pairs.sort(key=lambda pair: rows.index(pair[0]))
        for row, seed in pairs:
            given = row_settings(dataset, row.variant, seed, place)
            start = []
            if dataset in NEEDS_BACKBONE and "--pretrained" not in (*extra, *as_flags(given)):
                backbone = _backbone(dataset, shared, row, place)
                backbones[backbone.folder] = backbone
                start = ["--pretrained", str(backbone.folder / LAST)]
            found.setdefault(given["output"], _planned(dataset, [*shared, *start], given))
    return [*backbones.values(), *found.values()]


def _backbone(dataset: str, shared: Sequence[str], row: Row, place: Path) -> Planned:
    """The run that trains a row's backbone: on the labels that the row sees, flipped ones too.

    A backbone that had seen the right labels of the same images would hide the noise.
    """
    noise = row.variant.flags.get("label_noise", 0.0)
    name = f"backbone-noise{round(100 * noise)}" if noise else "backbone"
    given = {
        **BACKBONE,
        **({"label_noise": noise} if noise else {}),
        "output": place / dataset / name,
    }
    return _planned(dataset, shared, given)


def _demo_data(dataset: str, extra: Sequence[str]) -> list[str]:
    return ["--data", DEMO_DATA] if dataset == "demo" and "--data" not in extra else []


def _check_extra(extra: Sequence[str], tables: Sequence[tuple[Table, str]]) -> None:
    """Refuse flags that tools.reproduce sets itself."""
    own = {*ABLATED, "seed", "output", "resume"}
    own |= {name for script in SCRIPTS.values() for name in script.flags}
    rows = [row for table, _ in tables for row in table.rows]
    own |= {name for row in rows for name in row.variant.flags if name != "pretrained"}
    if any(table.shared for table, _ in tables):
        own |= {"label_noise"}  # noise has its own comparison
    taken = [f"--{name.replace('_', '-')}" for name in sorted(own)]
    clash = [word for word in extra if word.split("=")[0] in taken]
    if clash:
        raise InputError(f"{clash[0]} is set by the table's rows; leave it out")


def _planned(dataset: str, shared: Sequence[str], given: Mapping[str, Any]) -> Planned:
    arguments = [*as_flags(SCRIPTS[dataset].flags), *shared, *as_flags(given)]
    return Planned(dataset, Path(given["output"]), arguments, recipe_with(dataset, arguments))


def published_sizes(dataset: str) -> tuple[int, int]:
    """Images of the training and of the evaluated split, as published; of demo, as written.

    FER+'s are FER2013's, an upper bound: it leaves out those without a clear vote.
    """
    if dataset == "demo":
        return TRAIN_FACES, TEST_FACES
    kind = DATASETS["fer2013" if dataset == "ferplus" else SCRIPTS[dataset].dataset]
    sizes = []
    for split in ("train", kind.evaluated_split):
        counts = kind.published_counts.get(split)
        sizes.append(sum(counts[0]) if counts else kind.published_totals[split])
    return sizes[0], sizes[1]
