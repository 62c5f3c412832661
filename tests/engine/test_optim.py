"""The optimiser's kernel: fused where the device has it, and the same step."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.optim import SGD, Adam, RMSprop

from engine import optim
from engine.optim import AdamW, make_optimizer
from engine.recipe import OPTIMIZERS
from tests.support.scripts import differences


def weights(seed: int = 0) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((7, 5), (33,))
    ]


def step(optimizer: torch.optim.Optimizer, times: int = 5) -> None:
    generator = torch.Generator().manual_seed(9)
    for _ in range(times):
        for parameter in optimizer.param_groups[0]["params"]:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_fused_step_is_torchs_plain_step(name):
    ours, plain = weights(), weights()
    fused = make_optimizer(OPTIMIZERS[name], ours, lr=0.1)
    assert fused.param_groups[0]["fused"]
    step(fused)
    step(OPTIMIZERS[name](plain, lr=0.1, foreach=False))
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
        assert not torch.equal(one, weights()[0])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_state_is_taken_over_but_not_the_kernel_it_was_made_with(name):
    plain = OPTIMIZERS[name](weights(), lr=0.1, foreach=False)
    step(plain)
    saved = plain.state_dict()
    fused = make_optimizer(OPTIMIZERS[name], weights(1), lr=0.5)
    fused.load_state_dict(saved)
    group = fused.param_groups[0]
    assert (group["fused"], group["foreach"], group["lr"]) == (True, None, 0.1)
    assert differences(dict(fused.state_dict()["state"]), dict(saved["state"])) == []
    step(fused)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_fused_state_is_taken_over_where_nothing_is_fused(name, monkeypatch):
    fused = make_optimizer(OPTIMIZERS[name], weights(), lr=0.1)
    step(fused)
    monkeypatch.setattr(optim, "FUSED_ON", ())
    other = make_optimizer(OPTIMIZERS[name], weights(), lr=0.1)
    other.load_state_dict(fused.state_dict())
    assert not other.param_groups[0]["fused"]
    step(other)


def test_settings_that_have_no_fused_form_are_left_as_they_are():
    optimizer = make_optimizer(partial(Adam, differentiable=True), weights(), lr=0.1)
    assert optimizer.defaults["differentiable"]
    assert not optimizer.defaults["fused"]


@pytest.mark.parametrize("make", [partial(SGD, foreach=True), partial(Adam, fused=False), RMSprop])
def test_a_recipes_own_choice_stays(make):
    optimizer = make_optimizer(make, weights(), lr=0.1)
    expected = make(weights(), lr=0.1).defaults
    assert optimizer.defaults == expected


def test_late_names_are_torchs_own():
    optimizer = AdamW(weights(), lr=0.1)
    assert type(optimizer) is torch.optim.AdamW
    assert AdamW.__name__ == "AdamW"
