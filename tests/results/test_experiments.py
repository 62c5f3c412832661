"""The paper's experiments: every row has its command, and its method is in paper.csv."""

from __future__ import annotations

import pytest

from common.errors import InputError
from results import published
from results.experiments import SCRIPTS, TABLES, Variant, recipe_with, tables_named, train_command
from tests.support.scripts import ROOT


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
    assert getattr(kind, "dataset", kind).name == dataset
    assert train_command(dataset, ["--data", "my faces"]).endswith(
        f"{script.name} --data 'my faces'"
    )


@pytest.mark.parametrize(("name", "dataset"), [("table9", None), ("table1", "mine")])
def test_an_unknown_table_or_data_set_is_refused(name, dataset):
    with pytest.raises(InputError, match=r"table9|mine"):
        tables_named(name, dataset)
