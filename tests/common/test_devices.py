"""--device: which names are refused; who supports bfloat16; what --deterministic sets."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import torch

from common import devices
from common.devices import cpu_supports_bf16, find_device, set_determinism, wants_bf16
from common.errors import InputError
from tests.support.scripts import Forked


@pytest.mark.parametrize("name", ["banana", "", "meta", "cuda:-1", "cuda:99"])
def test_a_device_that_is_not_there_is_refused(name):
    with pytest.raises(InputError, match="--device"):
        find_device(name)


@pytest.mark.parametrize("gpu", [True, False])
def test_auto_takes_a_gpu_where_there_is_one(gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert find_device("auto").type == ("cuda" if gpu else "cpu")
    assert find_device("cpu").type == "cpu"


@pytest.mark.parametrize("native", [True, False])
def test_auto_takes_bf16_where_the_hardware_natively_supports_it(monkeypatch, native):
    asked = []
    monkeypatch.setattr(devices, "cpu_supports_bf16", lambda: native)
    monkeypatch.setattr(
        torch.cuda,
        "is_bf16_supported",
        lambda including_emulation=True: asked.append(including_emulation) or native,
    )
    for device in (torch.device("cpu"), torch.device("cuda")):
        assert wants_bf16("auto", device) == native
        assert wants_bf16("bf16", device)
        assert not wants_bf16("off", device)
    assert asked == [False]
    assert not wants_bf16("auto", torch.device("mps"))


@pytest.mark.parametrize(("avx512", "amx"), [(False, False), (True, False), (False, True)])
def test_a_cpu_has_bf16_with_avx512_or_amx(monkeypatch, avx512, amx):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert cpu_supports_bf16() == (avx512 or amx)
    monkeypatch.setattr(torch, "cpu", SimpleNamespace())  # of another torch
    assert not cpu_supports_bf16()


def test_deterministic_refuses_other_algorithms():
    assert _kernels(deterministic=True) == "True :4096:8 False"


def test_a_gpu_looks_for_its_fastest_kernels_by_default():
    assert _kernels(deterministic=False) == "False None True"


def _kernels(*, deterministic: bool) -> str:
    """What `set_determinism` sets, in a process of its own."""

    def main() -> None:
        os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
        set_determinism(deterministic=deterministic)
        workspace = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
        benchmark = torch.backends.cudnn.benchmark
        print(torch.are_deterministic_algorithms_enabled(), workspace, benchmark)

    process = Forked(main)
    out, _ = process.communicate()
    process.end()
    return out.decode().strip()
