"""tools.bench: what it counts is right, and the ratios come from pairs."""

from __future__ import annotations

import json

import pytest
import torch

from common.errors import InputError
from networks.small_maps import SmallMapConv2d
from tools import bench


@pytest.fixture
def setting() -> bench.Setting:
    return bench.Setting(torch.device("cpu"), 32, (2,), pairs=5, seconds=60, bf16=False)


def test_sides_run_in_turn_after_a_first_call_each(setting):
    calls = []
    pairs = bench.in_turn(setting, (lambda: calls.append("a"), lambda: calls.append("b")))
    assert "".join(calls) == "ab" * 6
    assert len(pairs) == 5


def test_the_ratio_is_the_median_over_the_pairs(setting, monkeypatch):
    pairs = [(4.0, 2.0), (9.0, 3.0), (100.0, 1.0)]
    monkeypatch.setattr(bench, "in_turn", lambda *_: pairs)
    row = bench.row_of(setting, "what", ("slow", None), ("fast", None))
    assert (row.ratio, row.slow_ms, row.fast_ms, row.pairs) == (3.0, 9000.0, 2000.0, 3)
    assert "=  3.00" in bench.line(row)


def test_other_sizes_have_training_steps_of_the_largest_batch_alone(setting, monkeypatch):
    seen = []
    for name in ("forward", "step"):
        monkeypatch.setattr(
            bench,
            name,
            lambda _, at, batch, name=name, **__: seen.append((name, at.image_size, batch)),
        )
    monkeypatch.setattr(bench, "row_of", lambda *_: None)
    monkeypatch.setattr(bench, "loading_rows", lambda _: [])
    monkeypatch.setattr(bench, "epoch_row", lambda _: None)
    list(bench.all_rows(bench.replace(setting, image_size=224, batch_sizes=(1, 8)), [112, 64]))
    assert list(dict.fromkeys(seen)) == [
        ("forward", 224, 1),
        ("forward", 224, 8),
        ("step", 224, 8),
        ("step", 112, 8),
        ("step", 64, 8),
    ]


def test_plain_is_without_products_on_small_maps(setting):
    for plain in (True, False):
        network = bench.networks()[0]
        bench.trainer(network, setting, plain=plain, bf16=False)
        kinds = {type(layer) for layer in network.modules()}
        assert (SmallMapConv2d in kinds) is not plain


def test_an_epoch_is_scaled_to_the_faces_of_fer2013(setting, monkeypatch):
    monkeypatch.setattr(bench, "in_turn", lambda *_: [(2.0, 1.0)])
    row = bench.epoch_row(setting)  # 4 batches of 2
    assert (row.slow_ms, row.fast_ms, row.ratio) == (2000 * 28_709 / 8, 1000 * 28_709 / 8, 2.0)


def test_a_line_ends_when_its_time_is_up(setting):
    short = bench.replace(setting, pairs=1000, seconds=0.0)
    assert len(bench.in_turn(short, (lambda: None, lambda: None))) == 3


def test_parameters_and_operations_are_those_of_the_paper(setting):
    at_224 = bench.replace(setting, image_size=224)
    costs = bench.sizes(at_224)
    assert costs["DAN"]["parameters"] == 19_723_733
    assert costs["DAN"]["flops"] / 2e9 == pytest.approx(2.23, abs=0.01)
    # A 3x3 kernel in the place of three, and no scaled maps.
    assert costs["DAN, fused"]["flops"] < costs["DAN"]["flops"]


def test_peak_memory_is_that_of_the_tensors():
    def run():
        one = torch.ones(10**6)
        del one
        return torch.ones(10**5) + 1

    assert bench.peak(run, torch.device("cpu")) == pytest.approx(4e6, rel=0.01)


def test_a_device_that_is_not_measured_is_refused(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    with pytest.raises(InputError, match="--device mps is not measured; expected cpu or cuda"):
        bench.main(["--device", "mps"])


def test_peak_memory_has_the_gradients_and_not_the_weights(setting):
    network = torch.nn.Linear(1000, 1000)

    def take(images, labels):
        network(images).sum().backward()
        network.zero_grad(set_to_none=True)

    take(torch.randn(2, 1000), None)
    peak = bench.peak(lambda: take(torch.randn(2, 1000), None), torch.device("cpu"))
    assert 4e6 < peak < 5e6


@pytest.mark.slow
def test_quick_writes_every_part_of_the_table(tmp_path, capsys):
    bench.main(["--quick", "--json", str(tmp_path / "bench.json")])
    content = json.loads((tmp_path / "bench.json").read_text())
    shown = capsys.readouterr().out
    whats = {row["what"] for row in content["rows"]}
    assert whats == {
        "inference, batch 2, 32 px",
        "train step, batch 2, 32 px",
        "loading 8 images, 32 px",
        "epoch of FER2013's size, 64 px",
    }
    assert all(row["ratio"] > 0 for row in content["rows"])
    assert content["peak_megabytes"]
    assert all(bench.line(bench.Row(**row)) in shown for row in content["rows"])
