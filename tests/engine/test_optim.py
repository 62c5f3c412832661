"""Optimisers by name and their kernels, learning rates over the epochs, the order of images."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch.optim import SGD, Adam, AdamW, RMSprop
from torch.utils.data import WeightedRandomSampler

from common.flags import parse_flags
from engine.optim import (
    OPTIMIZERS,
    SAMPLINGS,
    SCHEDULES,
    balanced,
    make_optimizer,
    moving_average,
    shuffle,
    square_root,
)
from tests.support.scripts import TINY, differences

# --------------------------------------------------------------------------------------------
# Optimisers


@pytest.mark.parametrize(
    ("name", "kind", "keywords"),
    [
        ("sgd", SGD, {"momentum": 0.9, "weight_decay": 1e-4}),
        ("adam", Adam, {"weight_decay": 0.0}),
        ("adamw", AdamW, {"weight_decay": 0.05}),
    ],
)
def test_names_stand_for_torchs_optimizers(name, kind, keywords):
    recipe = parse_flags(TINY, "", ["--optimizer", name, "--lr", "0.5"])
    optimizer = make_optimizer(recipe.optimizer, weights(), lr=recipe.lr)
    assert type(optimizer) is kind
    (group,) = optimizer.param_groups
    assert {key: group[key] for key in ("lr", *keywords)} == {"lr": 0.5, **keywords}


def weights(seed: int = 0) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((7, 5), (33,))
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def step(optimizer: torch.optim.Optimizer, times: int = 5) -> None:
    generator = torch.Generator().manual_seed(9)
    for _ in range(times):
        for parameter in optimizer.param_groups[0]["params"]:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_fused_step_equals_the_step_of_a_loop(name):
    ours, expected = weights(), weights()
    fused = make_optimizer(OPTIMIZERS[name], ours, lr=0.1)
    assert fused.param_groups[0]["fused"]
    step(fused)
    step(OPTIMIZERS[name](expected, lr=0.1, foreach=False))
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert not torch.equal(ours[0], weights()[0])


def test_the_backbone_has_its_own_rate_in_the_second_group():
    ours = weights()
    make = OPTIMIZERS["sgd"]
    optimizer = make_optimizer(make, ours, lr=0.5, backbone=ours[:1], backbone_lr=0.1)
    others, backbone = optimizer.param_groups
    assert (others["lr"], backbone["lr"]) == (0.5, pytest.approx(0.05))
    assert others["params"] == ours[1:]
    assert backbone["params"] == ours[:1]
    for parameter in ours:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for parameter, before, lr in zip(ours, weights(), (0.05, 0.5), strict=True):
        torch.testing.assert_close(parameter, before - lr * (1 + 1e-4 * before))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_loaded_state_leaves_the_kernel_as_it_is(name):
    """Of a state from a machine without the fused kernel, and of one from a machine with it."""
    looped = make_optimizer(partial(OPTIMIZERS[name], foreach=False), weights(), lr=0.1)
    fused = make_optimizer(OPTIMIZERS[name], weights(1), lr=0.5)
    step(looped)
    fused.load_state_dict(looped.state_dict())
    group = fused.param_groups[0]
    assert (group["fused"], group["foreach"], group["lr"]) == (True, None, 0.1)
    saved = looped.state_dict()["state"]
    assert differences(dict(fused.state_dict()["state"]), dict(saved)) == []
    step(fused)
    looped.load_state_dict(fused.state_dict())
    group = looped.param_groups[0]
    assert (bool(group["fused"]), group["foreach"]) == (False, False)
    step(looped)


def test_settings_without_a_fused_kernel_are_kept():
    optimizer = make_optimizer(partial(Adam, differentiable=True), weights(), lr=0.1)
    assert optimizer.defaults["differentiable"]
    assert not optimizer.defaults["fused"]


@pytest.mark.parametrize("make", [partial(SGD, foreach=True), partial(Adam, fused=False), RMSprop])
def test_a_recipes_own_choice_of_kernel_is_kept(make):
    optimizer = make_optimizer(make, weights(), lr=0.1)
    assert optimizer.defaults == make(weights(), lr=0.1).defaults


# --------------------------------------------------------------------------------------------
# Learning rates


def rates(scheduler: str, epochs: int, *more: str) -> list[float]:
    """The learning rate of every epoch, from 1."""
    flags = ["--scheduler", scheduler, "--epochs", str(epochs), *more]
    recipe = parse_flags(TINY, "", flags)
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=1)
    schedule = recipe.make_scheduler(optimizer)
    seen = []
    for _ in range(epochs):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


def half_cosine(epochs: int) -> list[float]:
    return [(1 + math.cos(math.pi * i / epochs)) / 2 for i in range(epochs)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("step", [1.0] * 10 + [0.1] * 10 + [0.01] * 5),
        ("step-20", [1.0] * 20 + [0.1] * 20 + [0.01] * 5),
        ("step-30", [1.0] * 30 + [0.1] * 30 + [0.01] * 5),
        ("exponential", [0.6**i for i in range(6)]),
        ("exponential-0.9", [0.9**i for i in range(6)]),
        ("constant", [1.0] * 6),
        # It ends with the run: a scheduler is given the number of epochs.
        ("cosine", half_cosine(8)),
        ("cosine", half_cosine(4)),
    ],
)
def test_schedules_follow_their_formulas(name, expected):
    assert rates(name, len(expected)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "after"),
    [
        ("cosine", half_cosine(5)),
        ("constant", [1.0] * 5),
        ("exponential", [0.6**i for i in range(5)]),
    ],
)
def test_a_warm_up_rises_to_the_rate_at_which_the_schedule_begins(name, after):
    assert rates(name, 8, "--warmup", "3") == pytest.approx([0.25, 0.5, 0.75, *after])


def test_a_warm_up_gives_no_warning(recwarn):
    rates("step", 5, "--warmup", "2")
    assert [str(warning.message) for warning in recwarn] == []


def test_the_moving_average_is_that_of_all_steps():
    """Of weights and of BatchNorm's statistics, from the first weights on; it begins fast."""
    network = torch.nn.BatchNorm1d(2)
    average = moving_average(network, 0.3)
    expected = {name: value.double() for name, value in network.state_dict().items()}
    for step, decay in enumerate([2 / 11, 3 / 12, 0.3, 0.3]):
        network(torch.randn(8, 2) * (step + 1))
        network.weight.data += 1
        average.update_parameters(network)
        for name, value in network.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * value
    for name in ("weight", "bias", "running_mean", "running_var"):
        torch.testing.assert_close(average.module.state_dict()[name].double(), expected[name])
    assert moving_average(network, 0.0) is None


def test_every_schedule_is_tested():
    steps, rates = {"step", "step-20", "step-30"}, {"exponential", "exponential-0.9"}
    assert set(SCHEDULES) == {*steps, *rates, "constant", "cosine"}


# --------------------------------------------------------------------------------------------
# The order of images

# Class frequencies as uneven as AffectNet's.
LABELS = (
    [0] * 2600 + [1] * 4670 + [2] * 880 + [3] * 490 + [4] * 220 + [5] * 130 + [6] * 860 + [7] * 130
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_balanced_draws_every_class_equally_often():
    """9,980 draws: a share of 1/8 has a standard deviation of 0.0033."""
    draws = balanced(LABELS, generator())
    assert len(draws) == len(LABELS)
    shares = torch.bincount(torch.tensor(LABELS)[draws], minlength=8) / len(draws)
    assert shares.tolist() == pytest.approx([1 / 8] * 8, abs=0.0133)


def test_balanced_draws_the_images_of_a_class_equally_often():
    draws = torch.tensor(balanced(LABELS, generator()))
    rare = draws[torch.tensor(LABELS)[draws] == 5] - LABELS.index(5)
    times = torch.bincount(rare, minlength=130).float()
    assert times.mean().item() == pytest.approx(9.6, abs=1)
    # Poisson: the variance of the counts is their mean.
    assert 0.5 < times.var() / times.mean() < 1.6


def test_balanced_is_torchs_sampler_with_inverse_frequencies():
    frequency = torch.bincount(torch.tensor(LABELS)).double()
    inverse = [1 / frequency[label].item() for label in LABELS]
    expected = list(WeightedRandomSampler(inverse, len(LABELS), generator=generator(3)))
    assert balanced(LABELS, generator(3)) == expected


def test_balanced_leaves_out_a_class_without_images():
    draws = balanced([0, 0, 0, 5], generator())
    assert set(draws) <= {0, 1, 2, 3}
    long = balanced([0] * 900 + [5] * 100, generator())
    assert sum(draw >= 900 for draw in long) == pytest.approx(500, abs=64)


def test_square_root_is_halfway_between_shuffled_and_balanced():
    """Shares of 9,980 draws are within three standard deviations of the roots' shares."""
    roots = torch.bincount(torch.tensor(LABELS)).double().sqrt()
    expected = roots / roots.sum()
    draws = square_root(LABELS, generator())
    shares = torch.bincount(torch.tensor(LABELS)[draws], minlength=8) / len(LABELS)
    deviations = (expected * (1 - expected) / len(LABELS)).sqrt()
    assert ((shares - expected).abs() < 3 * deviations).all()


def test_shuffle_draws_every_image_once():
    draws = shuffle(LABELS, generator())
    assert sorted(draws) == list(range(len(LABELS)))
    assert draws != sorted(draws)


@pytest.mark.parametrize("name", SAMPLINGS)
def test_the_seed_decides_the_order(name):
    sample = SAMPLINGS[name]
    assert sample(LABELS, generator(1)) == sample(LABELS, generator(1))
    assert sample(LABELS, generator(1)) != sample(LABELS, generator(2))
