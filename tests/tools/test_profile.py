"""tools.profile: kinds of operation, shares, the products that are counted, waiting."""

from __future__ import annotations

import json

import pytest
import torch

from common.errors import InputError
from engine.data import Loaded
from tests.support.scripts import batch_of
from tools import bench, profile
from tools.bench import Setting

CPU = torch.device("cpu")


@pytest.fixture
def setting() -> Setting:
    return Setting(CPU, 32, (2,), pairs=3, seconds=60, bf16=False)


@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        ("aten::mkldnn_convolution", "convolutions, forward"),
        ("mkldnn::_convolution_pointwise", "convolutions, forward"),
        ("aten::cudnn_convolution", "convolutions, forward"),
        ("aten::convolution_backward", "convolutions, backward"),
        ("aten::native_batch_norm_backward", "batch norm"),
        ("aten::cudnn_batch_norm", "batch norm"),
        ("aten::threshold_backward", "ReLU"),
        ("aten::max_pool2d_with_indices", "pooling"),
        ("aten::addmm", "matrix products"),
        ("aten::_fused_sgd_", "optimiser"),
        ("Optimizer.step#SGD.step", "optimiser"),
        ("aten::copy_", "copies"),
        ("aten::add_", "other"),
        ("aten::mul", "other"),
    ],
)
def test_an_operation_has_its_kind(operation, kind):
    assert profile.kind_of(operation) == kind


def test_shares_are_those_of_what_runs(setting):
    images, weight = torch.randn(4, 16, 64, 64), torch.randn(16, 16, 3, 3)

    def run():
        torch.relu(torch.conv2d(images, weight))

    shares = profile.shares_of(run, setting)
    assert sum(shares.values()) == pytest.approx(1)
    assert list(shares.values()) == sorted(shares.values(), reverse=True)
    assert next(iter(shares)) == "convolutions, forward"
    assert shares["ReLU"] > 0
    assert "batch norm" not in shares


def test_products_are_counted_per_second(setting, monkeypatch):
    monkeypatch.setattr(profile, "typical_seconds", lambda *_: 0.5)
    monkeypatch.setattr(profile, "shares_of", lambda *_: {"other": 1.0})
    monkeypatch.setattr(profile, "fastest_product", lambda *_, **__: 1e9)
    costs = {"DAN": {"flops": 2e6}, "DAN, fused": {"flops": 1e6}}
    monkeypatch.setattr(profile, "sizes", lambda _: costs)
    step, batch, single = profile.profiles(setting, 4, "float32", bf16=False)
    # Of a million products forward, thrice as many in a step; half a million when fused.
    assert (step.products, batch.products, single.products) == (24e6, 4e6, 1e6)
    assert profile.lines(batch)[0] == (
        "inference, batch 4, float32: 500.0 ms, 0 billion multiply-adds a second, "
        "0% of the 1 of a single large operation"
    )


def test_waiting_is_the_time_until_a_batch_comes(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(profile.time, "perf_counter", lambda: now[0])

    def load():
        for seconds in (3.0, 1.0):
            now[0] += seconds
            yield Loaded(batch_of(torch.zeros(2, dtype=torch.long)), [])

    def take_step(batch):
        now[0] += 10 * len(batch)

    assert profile.epoch(load(), CPU, take_step) == (44.0, 4.0)
    assert now[0] == 44.0


@pytest.mark.slow
def test_quick_says_everything(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(profile, "types", lambda _: [("float32", False)])
    profile.main(["--quick", "--json", str(tmp_path / "profile.json")])
    said = capsys.readouterr().out
    for words in ("training step, batch 4, float32: ", "inference, batch 4, ", "batch 1, "):
        assert words in said
    assert "convolutions, backward" in said
    assert "an epoch of 16 images from memory, " in said
    content = json.loads((tmp_path / "profile.json").read_text())
    assert all(profile.lines(profile.Profile(**one))[0] in said for one in content["profiles"])
    assert profile.waiting_line(profile.Epoch(**content["epoch"])) in said


@pytest.mark.parametrize("fastest", [False, True])
def test_only_the_faster_type_is_compiled(setting, fastest):
    asked = bench.replace(setting, compile=True, bf16=fastest)
    assert [bench.compiles(asked, bf16=bf16) for bf16 in (not fastest, fastest)] == [False, True]
    assert not bench.compiles(setting, bf16=setting.bf16)


@pytest.mark.parametrize("flags", [["--image-size", "8"], ["--batch-size", "1"], ["--images", "3"]])
def test_flags_that_do_not_fit_are_refused(flags):
    with pytest.raises(InputError, match=flags[0]):
        profile.main(flags)
