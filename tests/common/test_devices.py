"""--device: which names stand for a device, and which are refused."""

from __future__ import annotations

import pytest
import torch

from common.devices import find_device
from common.errors import InputError


@pytest.mark.parametrize("name", ["banana", "", "meta", "cuda:-1", "cuda:99"])
def test_a_device_that_is_not_there_is_refused(name):
    with pytest.raises(InputError, match="--device"):
        find_device(name)


@pytest.mark.parametrize("gpu", [True, False])
def test_auto_takes_a_gpu_where_there_is_one(gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert find_device("auto").type == ("cuda" if gpu else "cpu")
    assert find_device("cpu").type == "cpu"
