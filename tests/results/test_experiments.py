"""The paper's experiments: every row has its command, and its method is in paper.csv."""

from __future__ import annotations

import pytest

from common.errors import InputError
from common.flags import settings
from networks.method import ARCHS
from results import published
from results.experiments import (
    COMMON,
    COMPARISONS,
    SCRIPTS,
    TABLES,
    Table,
    Variant,
    as_flags,
    method_of,
    recipe_with,
    tables_named,
    train_command,
    with_methods,
)
from tests.support.scripts import ROOT


def named(name: str) -> Table:
    return next(table for table in COMPARISONS if table.name == name)


def test_all_tables_on_one_data_set_are_each_shape_once():
    names = [table.name for table, _ in tables_named("all", "sfew")]
    assert sorted(names) == ["fig5", "table1", "table2", "table6"]
    assert {dataset for _, dataset in tables_named("all", "fer2013")} == {"fer2013"}
    assert [dataset for _, dataset in tables_named("all", None)] == [
        table.dataset for table in TABLES
    ]


def test_every_row_of_ours_in_a_table_of_the_paper_is_in_paper_csv():
    known = {(number.table, number.method) for number in published()}
    for table in TABLES:
        for row in table.rows:
            ours_alone = table.number == "fig5" or "as released" in row.method
            assert ((table.number, row.method) in known) != ours_alone


def test_variants_with_one_name_are_one_variant():
    by_name: dict[str, Variant] = {}
    for table in TABLES:
        for row in table.rows:
            assert by_name.setdefault(row.variant.name, row.variant) == row.variant


@pytest.mark.parametrize("dataset", SCRIPTS)
def test_a_script_trains_on_the_data_set_it_stands_for(dataset):
    script = SCRIPTS[dataset]
    assert (ROOT / script.name).is_file()
    flags = [word for name, value in script.flags.items() for word in (f"--{name}", value)]
    kind = recipe_with(dataset, flags).dataset
    assert getattr(kind, "dataset", kind).name == script.dataset
    assert train_command(dataset, ["--data", "my faces"]).endswith(
        f"{script.name} --data 'my faces'"
    )


@pytest.mark.parametrize(("name", "dataset"), [("table9", None), ("table1", "mine")])
def test_an_unknown_table_or_data_set_is_refused(name, dataset):
    with pytest.raises(InputError, match=r"table9|mine"):
        tables_named(name, dataset)


def test_every_method_has_a_row_at_every_share_of_noise():
    methods, noise = named("rivals"), named("noise")
    assert sorted(map(method_of, methods.rows)) == sorted(ARCHS)
    shares = [(method_of(row), row.variant.flags["label_noise"]) for row in noise.rows]
    assert sorted(shares) == sorted((arch, p) for arch in ARCHS for p in (0.0, 0.1, 0.2, 0.3))
    names = [row.variant.name for row in noise.rows]
    assert len(names) == len(set(names))
    for row in noise.rows:
        assert (row.baseline in names) == (method_of(row) != "resnet18")
    # The clean rows are the same runs.
    assert {row.variant.name: row.variant for row in noise.rows}["scn"] == methods.rows[4].variant


def test_an_ablation_differs_from_dan_in_what_it_names():
    rows = {row.variant.name: row for row in named("ablations").rows}
    assert (rows.pop("resnet18").baseline, rows.pop("dan").baseline) == ("", "resnet18")
    assert {row.baseline for row in rows.values()} == {"dan"}
    rates = {**COMMON, "lr": 0.01, "backbone_lr": 0.01}
    whole = settings(recipe_with("ferplus", as_flags(rates)))
    changed = {}
    for name, row in rows.items():
        ours = settings(recipe_with("ferplus", as_flags(row.variant.flags)))
        changed[name] = {key: value for key, value in ours.items() if value != whole[key]}
    fusions = ("sum", "softmax")
    assert changed == {
        "dan-fcn-none": {"fcn_loss": "none"},
        "dan-partition-none": {"partition": "none"},
        "dan-losses-none": {"fcn_loss": "none", "partition": "none"},
        **{f"dan-heads{k}": {"heads": k} for k in (1, 2, 3, 5)},
        **{
            f"dan-heads2-partition-{form}": {"heads": 2, "partition": form}
            for form in ("none", "released")
        },
        **{f"dan-heads{k}-{f}": {"heads": k, "fusion": f} for k in (2, 3, 5) for f in fusions},
        **{f"dan-heads4-{f}": {"fusion": f} for f in fusions},
        "dan-scale-map": {"head_scale": "map"},
        "dan-scale-norm": {"head_scale": "norm"},
    }


def test_methods_choose_rows_of_a_comparison_at_every_share():
    chosen = with_methods(named("noise"), ["eac", "resnet18"])
    assert [row.method for row in chosen.rows[:3]] == ["ResNet-18", "EAC", "ResNet-18, 10 %"]
    assert len(chosen.rows) == 8
    with pytest.raises(InputError, match="--methods names 'posterv2'; expected some of resnet18"):
        with_methods(named("rivals"), ["posterv2"])
    assert len(with_methods(named("ablations"), ["resnet18"]).rows) == 1
    with pytest.raises(InputError, match="table1 has --only"):
        with_methods(TABLES[0], ["dan"])
