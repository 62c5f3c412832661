"""The experiments, the paper's and our comparisons: which row of which table is which command."""

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
from networks.dan import FUSIONS


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
    baseline: str = ""  # name of the variant that the row is tested against; "": none
    why: str = ""  # of its own settings


class Table(NamedTuple):
    """A table (or figure) of the paper, or a comparison of ours: what it compares, and the data."""

    name: str  # what tools.reproduce calls it
    number: str  # in paper.csv; "fig5" is only drawn there, "" is ours
    title: str
    dataset: str
    rows: tuple[Row, ...]
    shared: Mapping[str, Any] = {}  # settings of all rows, which may be overridden
    notes: tuple[str, ...] = ()
    place: str = ""  # folder below --runs, as comparisons of ours have a protocol of their own

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


#: What the rows of our comparisons share; at this size a map has 4x4 positions.
PROTOCOL = {
    "image_size": 112,
    "epochs": 4,
    "batch_size": 64,
    "scheduler": "cosine",
    "amp": "auto",
}
#: The optimiser of every method that does not need another.
COMMON = {"optimizer": "adamw", "lr": 3e-4}


def _method(method: str, arch: str, *, noise: float = 0.0, why: str = "", **own: Any) -> Row:
    """A row of a comparison: a method at a share of flipped labels, with its own settings."""
    flags = {"arch": arch, **COMMON, **own, "label_noise": noise}
    suffix = f"-noise{round(100 * noise)}" if noise else ""
    baseline = "" if arch == "resnet18" else f"resnet18{suffix}"
    name = f"{method}, {round(100 * noise)} %" if noise else method
    return Row(name, Variant(f"{arch}{suffix}", flags), baseline, why)


def _methods(noise: float = 0.0) -> tuple[Row, ...]:
    """Every method, the cheapest first."""
    return (
        _method("ResNet-18", "resnet18", noise=noise),
        _method("center loss", "center", noise=noise),
        _method("island loss", "island", noise=noise),
        _method("DDA loss", "dda", noise=noise, **DDA_NEEDS),
        _method("SCN", "scn", noise=noise, **SCN_NEEDS),
        _method("DACL", "dacl", noise=noise),
        _method("PhaNet-style", "phanet", noise=noise),
        _method("DAN", "dan", noise=noise, **DAN_NEEDS),
        _method("EAC", "eac", noise=noise),
        _method("RAN", "ran", noise=noise),
        _method("FERAtt", "feratt", noise=noise, **FERATT_NEEDS),
    )


DDA_NEEDS = {
    "dda_gamma": 0.03125,
    "why": "what the released code's 4 amounts to at batch 64; on held-out synthetic faces, after "
    "3 epochs at 64 px, 65.9 % with it, 52.5 % with 4 and a loss of 990 in the first epoch, 69.9 % "
    "without DDA loss",
}
SCN_NEEDS = {
    "scn_margin1": 0.07,
    "scn_relabel_epoch": 2,
    "why": "the authors' margin for batches of 64; relabelling from the second epoch, as the "
    "default, 10, is never reached",
}
DAN_NEEDS = {
    "lr": 0.01,
    "backbone_lr": 0.01,
    "why": "the scale of the BatchNorm over its logits has to grow; on FER+'s held-out faces, "
    "after 3 epochs at 64 px, 81.1 % with these rates, 79.3 % with 0.0003 for all",
}
FERATT_NEEDS = {
    "optimizer": "adam-5e-4",
    "lr": 1e-4,
    "pretrained": "none",
    "why": "its authors' optimiser; its encoder is a ResNet-34, which the shared backbone does not "
    "fit, so all of it starts from random weights",
}


def _ablation(method: str, name: str, *, baseline: str = "dan", **changed: Any) -> Row:
    """DAN with some settings changed; tested against DAN."""
    flags = {"arch": "dan", **COMMON, **DAN_NEEDS, **changed}
    why = flags.pop("why")
    return Row(method, Variant(name, flags), baseline, why)


def _ablations() -> tuple[Row, ...]:
    """The ResNet-18, DAN, and DAN with one thing changed: losses, heads, fusion, scale."""
    rows = [
        Row("ResNet-18", Variant("resnet18", {"arch": "resnet18", **COMMON})),
        _ablation("DAN", "dan", baseline="resnet18"),
        _ablation("without affinity loss", "dan-fcn-none", fcn_loss="none"),
        _ablation("without partition loss", "dan-partition-none", partition="none"),
        _ablation("without either", "dan-losses-none", fcn_loss="none", partition="none"),
    ]
    for k in HEADS:
        if k != ABLATED["heads"]:
            rows.append(_ablation(f"{k} head{'s' if k > 1 else ''}", f"dan-heads{k}", heads=k))
    # Two heads suffer from Eq. 6, not from their fusion: see docs/reproducing.md.
    for form, method in (("none", "no partition loss"), ("released", "partition loss as released")):
        name = f"dan-heads2-partition-{form}"
        rows.append(_ablation(f"2 heads, {method}", name, heads=2, partition=form))
    for fusion in FUSIONS[1:]:
        for k in HEADS[1:]:
            name = f"dan-heads{k}-{fusion}"
            rows.append(_ablation(f"{k} heads, {fusion}", name, heads=k, fusion=fusion))
    return (
        *rows,
        _ablation("spatial maps over their mean", "dan-scale-map", head_scale="map"),
        _ablation("attention vectors over their RMS", "dan-scale-norm", head_scale="norm"),
    )


#: Folder of all comparisons' runs: they share the ResNet-18's, DAN's and the clean ones.
PROTOCOL_PLACE = "protocol"
NOT_COMPARABLE = (
    "published numbers are not comparable with ours or with each other: other test images (on "
    "FER2013's and FER+'s PrivateTest, or another data set where named), most with backbones "
    "pre-trained on MS-Celeb-1M, each with its own augmentation and schedule, and most at the best "
    "epoch on the test split, of one run"
)
NO_POSES = "PhaNet-style learns poses where the data have them; FER2013 and FER+ have none"
#: Comparisons under one protocol of ours, beside the paper's tables.
COMPARISONS = (
    Table(
        "rivals",
        "",
        "Methods under one protocol",
        "fer2013",
        _methods(),
        PROTOCOL,
        ("differences are from the ResNet-18", NO_POSES, NOT_COMPARABLE),
        PROTOCOL_PLACE,
    ),
    Table(
        "noise",
        "",
        "Symmetric label noise in training, under one protocol",
        "fer2013",
        tuple(row for noise in (0.0, 0.1, 0.2, 0.3) for row in _methods(noise)),
        PROTOCOL,
        (
            "differences are from the ResNet-18 with the same labels",
            "the evaluated labels are clean; the flipped ones are the same for every seed",
            NOT_COMPARABLE,
        ),
        PROTOCOL_PLACE,
    ),
    Table(
        "ablations",
        "",
        "Ablations of DAN",
        "ferplus",
        _ablations(),
        PROTOCOL,
        (
            "DAN has 4 heads, the log-softmax fusion and both losses; its difference is from the "
            "ResNet-18, that of every row below it from DAN",
            "one head is the same network with every fusion, and has no partition loss",
        ),
        PROTOCOL_PLACE,
    ),
)


class Script(NamedTuple):
    """The train script of a data set."""

    name: str
    recipe: Recipe
    flags: Mapping[str, Any]  # that choose the data set
    dataset: str  # the key of DATASETS


SCRIPTS = {
    "rafdb": Script("train_rafdb.py", train_rafdb.RECIPE, {}, "rafdb"),
    "affectnet8": Script(
        "train_affectnet.py", train_affectnet.RECIPE, {"classes": "8"}, "affectnet8"
    ),
    "affectnet7": Script(
        "train_affectnet.py", train_affectnet.RECIPE, {"classes": "7"}, "affectnet7"
    ),
    "sfew": Script("train_sfew.py", train_sfew.RECIPE, {}, "sfew"),
    "fer2013": Script("train_fer2013.py", train_fer2013.RECIPE, {"labels": "fer2013"}, "fer2013"),
    "ferplus": Script("train_fer2013.py", train_fer2013.RECIPE, {"labels": "ferplus"}, "ferplus"),
    # Synthetic faces, which `datasets.demo` writes in RAF-DB's layout.
    "demo": Script("train_rafdb.py", train_rafdb.RECIPE, {}, "rafdb"),
}
#: Where the README has the synthetic faces written; data of no other script lie in a fixed place.
DEMO_DATA = "build/demo/raf-basic"


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


def method_of(row: Row) -> str:
    """What `--methods` calls a row of a comparison of ours: its `--arch`."""
    return row.variant.flags["arch"]


def with_methods(table: Table, methods: Sequence[str] | None) -> Table:
    """A comparison with the rows of these methods alone (None: all).

    Raises InputError for the paper's tables, and for a method that has no row.
    """
    if methods is None:
        return table
    if table not in COMPARISONS:
        raise InputError(f"--methods is for rivals, noise and ablations; {table.name} has --only")
    known = dict.fromkeys(method_of(row) for row in table.rows)
    for name in methods:
        if name not in known:
            raise InputError(f"--methods names {name!r}; expected some of {', '.join(known)}")
    return table._replace(rows=tuple(row for row in table.rows if method_of(row) in methods))


def tables_named(name: str, dataset: str | None) -> list[tuple[Table, str]]:
    """(table, data set to run it on) of one name, or of "all", the paper's; its data by default.

    Tables 3 to 6 are one table with several data sets, so on a given one they are run once.

    Raises InputError for an unknown name or data set.
    """
    known = [table.name for table in (*TABLES, *COMPARISONS)]
    if name != "all" and name not in known:
        raise InputError(f"no table is named {name!r}; expected all, {', '.join(known)}")
    if dataset is not None and dataset not in SCRIPTS:
        raise InputError(f"--dataset is {dataset!r}; expected one of {', '.join(SCRIPTS)}")
    chosen = [table for table in COMPARISONS if name == table.name]
    chosen += [table for table in TABLES if name in ("all", table.name)]
    if dataset is None:
        return [(table, table.dataset) for table in chosen]
    own = {table.shape: table for table in reversed(chosen)}
    own |= {table.shape: table for table in chosen if table.dataset == dataset}
    return [(table, dataset) for table in own.values()]
