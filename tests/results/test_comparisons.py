"""Our comparisons: which runs are a row, and the numbers in the cells against ones by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.errors import InputError
from results.comparisons import comparison_tables, every_table
from results.costs import cost_of
from results.experiments import COMPARISONS, PROTOCOL
from results.paired import holm, paired_comparison
from results.render import as_markdown, as_text, records
from results.runs import read_runs
from tests.support.run_folders import write_run

#: By name: rows of rivals and noise, and those of the ablations.
ROWS, ABLATIONS = (
    {row.variant.name: row for t in COMPARISONS if t.name in names for row in t.rows}
    for names in (("rivals", "noise"), ("ablations",))
)
IMAGES = 40
SHARED = {**PROTOCOL, "pretrained": "runs/backbone/last.pth"}
del SHARED["epochs"]  # of which write_run has one a number


def write(
    root: Path, name: str, seed: int, right: np.ndarray | None = None, *, dataset="fer2013", **flags
) -> Path:
    """A run of a row; `right` (IMAGES,) bool says which images its last epoch classifies right."""
    given = {**SHARED, **ROWS[name].variant.flags, "seed": seed, **flags}
    accuracy = 0.5 if right is None else float(right.mean())
    folder = root / f"{name}-seed{seed}"
    sizes = {"images": (100, IMAGES), "published": False}
    write_run(folder, dataset, [accuracy + 0.1, accuracy], **sizes, **given)
    if right is not None:
        write_predictions(folder, right)
    return folder


def write_predictions(folder: Path, right: np.ndarray, start: int = 0) -> None:
    lines = [f"{i},{i % 7},{i % 7 if ok else (i + 1) % 7}" for i, ok in enumerate(right, start)]
    (folder / "predictions.csv").write_text("\n".join(["index,label,predicted", *lines]) + "\n")
    (folder / "speed.csv").write_text("epoch,images_per_second\n1,100.00\n2,140.00\n2,120.00\n")


def rights(seed: int, share: float) -> np.ndarray:
    return np.random.default_rng(seed).random(IMAGES) < share


def rows_of(root: Path) -> dict[str, dict]:
    """The records of our comparisons, by table and method."""
    runs, _ = read_runs(root)
    return {(row["table"], row["method"]): row for row in records(comparison_tables(runs))}


def test_a_table_has_the_numbers_by_hand(tmp_path):
    right = {
        (name, seed): rights(seed + 10 * i, share)
        for i, (name, share) in enumerate((("resnet18", 0.5), ("scn", 0.6), ("eac", 0.9)))
        for seed in (0, 1, 2)
    }
    for (name, seed), each in right.items():
        write(tmp_path, name, seed, each)
    rows = rows_of(tmp_path)
    assert list(rows) == [("rivals", "ResNet-18"), ("rivals", "SCN"), ("rivals", "EAC")]
    tests = {}
    for name, method in (("scn", "SCN"), ("eac", "EAC")):
        row = rows["rivals", method]
        accuracies = [100 * right[name, seed].mean() for seed in (0, 1, 2)]
        assert row["last_accuracy"] == pytest.approx(np.mean(accuracies))
        assert row["last_accuracy_deviation"] == pytest.approx(np.std(accuracies, ddof=1))
        assert row["best_accuracy"] == pytest.approx(np.mean(accuracies) + 10)
        sides = ([right[side, seed] for seed in (0, 1, 2)] for side in (name, "resnet18"))
        tests[name] = paired_comparison(*map(np.array, sides))
        difference = np.mean(accuracies) - np.mean(
            [100 * right["resnet18", s].mean() for s in range(3)]
        )
        assert row["difference"] == pytest.approx(difference)
        assert row["difference_low"] == pytest.approx(100 * tests[name].interval[0])
        assert row["p_value"] == pytest.approx(tests[name].p_value)
        assert row["images_per_second"] == 120
        assert row["seeds"] == [0, 1, 2]
    corrected = holm([tests[name].p_value for name in ("scn", "eac")])
    assert [rows["rivals", m]["p_value_holm"] for m in ("SCN", "EAC")] == pytest.approx(corrected)
    assert rows["rivals", "ResNet-18"]["p_value"] is None
    assert rows["rivals", "SCN"]["published"] == "rafdb 87.03"


def test_what_is_printed_says_the_protocol_and_what_each_has_of_its_own(tmp_path):
    write(tmp_path, "resnet18", 0, rights(0, 0.5))
    write(tmp_path, "feratt", 0, rights(1, 0.5))
    runs, _ = read_runs(tmp_path)
    text = as_text(comparison_tables(runs))
    assert "Methods under one protocol, fer2013 (not the published images), 100 training" in text
    assert "--pretrained runs/backbone/last.pth" in text.split("\n")[1]
    assert "every --arch but those named here: --optimizer adamw --lr 0.0003" in text
    assert (
        "--arch feratt: --optimizer adam-5e-4 --lr 0.0001 --pretrained none (its authors'" in text
    )
    assert "not run: center loss, island loss, DDA loss" in text
    assert "published numbers are not comparable" in text
    assert "corrected by Holm's method" in text
    table, *_ = [
        block for block in as_markdown(comparison_tables(runs)).split("\n\n") if "|" in block
    ]
    assert len({line.count("|") for line in table.split("\n")}) == 1
    assert "corrected by Holm" not in as_text(every_table([], tmp_path))


def test_runs_of_another_protocol_or_with_other_settings_are_no_rows(tmp_path):
    write(tmp_path / "a", "resnet18", 0)
    write(tmp_path / "a", "scn", 0)
    write(tmp_path / "b", "eac", 0, image_size=64)
    write(tmp_path / "c", "dacl", 0, pretrained="other.pth")
    write(tmp_path / "d", "dan", 0, heads=2)
    write(tmp_path / "e", "center", 0, lr=0.1)
    write(tmp_path / "f", "ran", 0, label_noise=0.15)
    write(tmp_path / "g", "island", 0, dataset="ferplus", labels="ferplus")
    of_rivals = [method for table, method in rows_of(tmp_path) if table == "rivals"]
    assert of_rivals == ["ResNet-18", "SCN"]


def test_a_row_with_weights_of_its_own_stands_in_every_protocol(tmp_path):
    for size in (64, 96):
        for name in ("resnet18", "feratt"):
            write(tmp_path / str(size), name, 0, image_size=size)
    runs, _ = read_runs(tmp_path)
    tables = comparison_tables(runs)
    assert [[line.method for line in table.lines] for table in tables] == [
        ["ResNet-18", "FERAtt"]
    ] * 2


def test_noise_is_a_table_of_its_own_tested_at_each_share(tmp_path):
    clean = {name: rights(i, 0.8) for i, name in enumerate(("resnet18", "eac"))}
    noisy = {name: rights(i + 5, 0.4) for i, name in enumerate(("resnet18", "eac"))}
    for name, right in clean.items():
        write(tmp_path, name, 0, right)
    assert {table for table, _ in rows_of(tmp_path)} == {"rivals"}
    for name, right in noisy.items():
        write(tmp_path, f"{name}-noise20", 0, right, pretrained="runs/noisy/last.pth")
    rows = {method: row for (table, method), row in rows_of(tmp_path).items() if table == "noise"}
    assert list(rows) == ["ResNet-18", "EAC", "ResNet-18, 20 %", "EAC, 20 %"]
    for method, right in (("EAC", clean), ("EAC, 20 %", noisy)):
        difference = 100 * (right["eac"].mean() - right["resnet18"].mean())
        assert rows[method]["difference"] == pytest.approx(difference)
    assert rows["ResNet-18, 20 %"]["difference"] is None
    assert rows["EAC, 20 %"]["published"] == "rafdb 86.05"
    assert {table for table, _ in rows_of(tmp_path)} == {"rivals", "noise"}


def test_a_comparison_can_be_asked_for_by_name_and_is_in_no_table_of_the_papers_form(tmp_path):
    for arch in ("resnet18", "dan"):
        write(tmp_path, arch, 0)
    runs, _ = read_runs(tmp_path)
    for names, expected in ((None, "rivals"), (["ablations"], "ablations")):
        assert [table.name for table in comparison_tables(runs, names)] == [expected]
        own = [table.name for table in every_table(runs, tmp_path, names) if not table.is_papers]
        assert own == [expected]
    write(tmp_path / "same-rates", "dan", 0, lr=3e-4, backbone_lr=1.0)
    runs, _ = read_runs(tmp_path)
    own = [table.name for table in every_table(runs, tmp_path, ["table5"]) if not table.is_papers]
    assert own == ["table3"]


def test_runs_that_comparisons_share_make_no_table_of_a_part_of_another(tmp_path):
    def tables(names=None):
        printed = comparison_tables(read_runs(tmp_path)[0], names)
        return [(table.name, [line.method for line in table.lines]) for table in printed]

    clean = ["ResNet-18", "SCN", "DAN"]
    for name in ("resnet18", "dan", "scn"):
        write(tmp_path, name, 0)
    assert tables() == [("rivals", clean)]
    for name in ("resnet18-noise20", "dan-noise20"):
        write(tmp_path, name, 0)
    noise = ("noise", [*clean, "ResNet-18, 20 %", "DAN, 20 %"])
    assert tables() == [("rivals", clean), noise]
    assert tables(["ablations"]) == [("ablations", ["ResNet-18", "DAN"])]
    write_run(
        tmp_path / "dan-heads2",
        "fer2013",
        [0.5, 0.5],
        images=(100, IMAGES),
        published=False,
        **{**SHARED, **ABLATIONS["dan-heads2"].variant.flags},
    )
    ablations = ("ablations", ["ResNet-18", "DAN", "2 heads"])
    assert tables() == [("rivals", clean), noise, ablations]
    text = as_text(comparison_tables(read_runs(tmp_path)[0], ["ablations"]))
    assert "--arch dan: --optimizer adamw --lr 0.01 --backbone-lr 0.01 (the scale" in text


def test_ablations_are_tested_against_dan_and_dan_against_the_resnet18(tmp_path):
    shared = {**PROTOCOL, "pretrained": "b.pth"}
    del shared["epochs"]
    right = {name: rights(i, 0.6) for i, name in enumerate(("resnet18", "dan", "dan-heads2-sum"))}
    for name, each in right.items():
        folder = tmp_path / name
        sizes = {"images": (100, IMAGES), "published": False}
        write_run(
            folder,
            "ferplus",
            [float(each.mean())],
            **sizes,
            **{**shared, **ABLATIONS[name].variant.flags},
        )
        write_predictions(folder, each)
    rows = {
        method: row for (table, method), row in rows_of(tmp_path).items() if table == "ablations"
    }
    assert list(rows) == ["ResNet-18", "DAN", "2 heads, sum"]
    for method, name, baseline in (
        ("DAN", "dan", "resnet18"),
        ("2 heads, sum", "dan-heads2-sum", "dan"),
    ):
        difference = 100 * (right[name].mean() - right[baseline].mean())
        assert rows[method]["difference"] == pytest.approx(difference)
        assert rows[method]["published"] == ""
    text = as_text(comparison_tables(read_runs(tmp_path)[0]))
    assert "Ablations of DAN, ferplus" in text
    assert "note: not run: without affinity loss, without partition loss, without either" in text
    assert "Methods under one protocol" not in text
    assert "--data" not in text


def test_without_the_same_images_there_is_no_test(tmp_path):
    write(tmp_path, "resnet18", 0, rights(0, 0.5))
    write_predictions(write(tmp_path, "scn", 0), rights(1, 0.5), start=7)
    write(tmp_path, "eac", 0)
    rows = rows_of(tmp_path)
    for method in ("SCN", "EAC"):
        assert rows["rivals", method]["last_accuracy"] == pytest.approx(50)
        assert rows["rivals", method]["p_value"] is None
    assert rows["rivals", "EAC"]["images_per_second"] is None


@pytest.mark.parametrize("name", ["predictions.csv", "speed.csv"])
@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", "index,label,predicted\n1,x,2\n"])
def test_a_damaged_file_is_named(tmp_path, name, content):
    write(tmp_path, "resnet18", 0, rights(0, 0.5))
    folder = write(tmp_path, "scn", 0, rights(1, 0.5))
    (folder / name).write_text(content)
    with pytest.raises(InputError, match=rf"scn-seed0/{name}"):
        rows_of(tmp_path)


@pytest.mark.parametrize(
    ("arch", "size", "parameters", "giga"),
    [
        ("resnet18", 224, 11_180_103, 1.814),
        ("eac", 224, 11_180_103, 1.814),  # a second pass in training alone
        ("dacl", 224, 11_180_103 + 91_862_208, 1.814),  # its attention network, likewise
        ("ran", 224, None, 6 * 1.814),
    ],
)
def test_costs_are_those_of_the_network(arch, size, parameters, giga):
    found, products = cost_of({"arch": arch, "image_size": size, "pretrained": "x.pth"}, 7)
    assert parameters in (found, None)
    assert products / 1e9 == pytest.approx(giga, abs=0.003)
