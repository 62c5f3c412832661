"""The numbers, label orders and sizes of the paper and of the data sets' publications."""

from __future__ import annotations

from collections import Counter

import pytest

from datasets import FER2013, RAFDB
from results import published, published_for

# ---- results/paper.csv


def test_rows_per_table():
    rows = Counter(number.table for number in published())
    assert rows == {"1": 3, "2": 2, "3": 10, "4": 10, "5": 15, "6": 10, "text": 1}


def test_sums_of_the_tables():
    """Sums of the printed tables, in hundredths: a slip of the pen anywhere changes one."""
    sums = Counter()
    for number in published():
        sums[number.table] += round(100 * number.percent)
    expected = {"1": 26678, "2": 17790, "3": 59607, "4": 61465, "5": 128190, "6": 54030}
    assert sums == expected | {"text": 8275}


def test_no_number_is_given_twice():
    keys = [(row.table, row.dataset, row.method, row.metric) for row in published()]
    assert len(set(keys)) == len(keys)


def test_every_number_is_a_percentage_with_a_source_of_a_known_data_set():
    datasets = {"1": "rafdb", "2": "rafdb", "5": "rafdb", "text": "rafdb"}
    datasets |= {"3": "affectnet8", "4": "affectnet7", "6": "sfew"}
    for row in published():
        assert 50 < row.percent < 90
        assert row.dataset == datasets[row.table]
        assert row.metric in ("accuracy", "mean_class_accuracy")
        assert (row.table if row.table != "text" else "author") in row.source


@pytest.mark.parametrize(
    ("dataset", "method", "metric", "percents"),
    [
        ("rafdb", "DAN", "accuracy", [89.70]),
        ("rafdb", "DAN", "mean_class_accuracy", [85.32, 82.75]),
        ("rafdb", "ResNet-18", "accuracy", [86.25]),
        ("rafdb", "ResNet-18", "mean_class_accuracy", [77.32]),
        ("rafdb", "PSR", "mean_class_accuracy", [80.78]),
        ("affectnet8", "DAN", "accuracy", [62.09]),
        ("affectnet8", "ResNet-18", "accuracy", [56.84]),
        ("affectnet7", "DAN", "accuracy", [65.69]),
        ("affectnet7", "ResNet-18", "accuracy", [56.97]),
        ("sfew", "DAN", "accuracy", [57.88]),
        ("sfew", "ResNet-18", "accuracy", [51.29]),
        ("sfew", "FaceCaps", "accuracy", [58.50]),
        ("fer2013", "DAN", "accuracy", []),
    ],
)
def test_what_the_paper_says_of_a_method(dataset, method, metric, percents):
    numbers = published_for(dataset, method)
    assert [row.percent for row in numbers if row.metric == metric] == percents


def test_ablations_are_kept_apart_from_the_result_tables():
    ablations = {row.method: row.percent for row in published() if row.table in "12"}
    assert ablations == {
        "DAN without FCN loss": 88.17,
        "DAN with center loss": 88.91,
        "DAN with affinity loss": 89.70,
        "DAN without partition loss": 88.20,
        "DAN with partition loss": 89.70,
    }
    assert all(row.table not in "12" for row in published_for("rafdb", "DAN"))


def test_the_authors_correction_is_beside_the_printed_number():
    printed = [row for row in published() if row.percent == 85.32]
    assert len(printed) == 1
    assert "82.75" in printed[0].source


# ---- label orders and published counts


def test_rafdb_labels_and_counts_are_the_published_ones():
    assert RAFDB.classes == (
        "Surprise",
        "Fear",
        "Disgust",
        "Happiness",
        "Sadness",
        "Anger",
        "Neutral",
    )
    assert RAFDB.published_counts == {
        "train": ((1290, 281, 717, 4772, 1982, 705, 2524),),
        "test": ((329, 74, 160, 1185, 478, 162, 680),),
    }
    sizes = {split: sum(counts[0]) for split, counts in RAFDB.published_counts.items()}
    assert sizes == {"train": 12_271, "test": 3_068}


def test_fer2013_labels_and_counts_are_the_published_ones():
    assert FER2013.classes == ("Angry", "Disgust", "Fear", "Happy", "Sad", "Surprise", "Neutral")
    sizes = {
        split: [sum(counts) for counts in sizes]
        for split, sizes in FER2013.published_counts.items()
    }
    assert sizes == {
        "train": [28_709],
        "test": [7_178, 3_589, 3_589],
        "public": [3_589],
        "private": [3_589],
    }
