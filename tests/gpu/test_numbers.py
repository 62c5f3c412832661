"""The numbers of the network and its losses on a GPU: golden, fused, bfloat16."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.optim import SGD

from engine.speed import MEMORY_FORMAT, autocast
from networks import DANLoss, fast_network, fuse
from tests.networks.test_golden import Rebuilt, assert_agrees, assert_losses_agree, rebuild
from tests.support.golden import CASES
from tests.support.scripts import batch_of

# On a CPU the golden cases reach 8e-15, 3e-6 and, in bfloat16, 0.063. TF32 has three
# bits more than bfloat16.
FLOAT64, FLOAT32, BFLOAT16 = 1e-10, 2e-5, 0.1
TF32 = BFLOAT16 / 2**3


class OnDevice(Rebuilt):
    """A golden case whose network, batch and losses are on a device."""

    def criterion(self, partition: str) -> DANLoss:
        return super().criterion(partition).to(self.images.device)


@pytest.fixture(params=CASES)
def golden(request, device) -> OnDevice:
    case = rebuild(request.param)
    return OnDevice(case.case, *(part.to(device) for part in case[1:]))


@pytest.fixture
def exact_float32():
    """Float32 products whose factors are not shortened to TF32."""
    switches = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [switch.allow_tf32 for switch in switches]
    for switch in switches:
        switch.allow_tf32 = False
    yield
    for switch, value in zip(switches, before, strict=True):
        switch.allow_tf32 = value


def error(ours: Tensor, expected: Tensor) -> float:
    """The norm of the difference over that of what is expected."""
    return float((ours.double() - expected.double()).norm() / expected.double().norm())


def test_golden_evaluation(golden):
    expected = golden.case["eval"]
    with torch.no_grad():
        output = golden.network.eval()(golden.images)
    losses = {name: value.cpu() for name, value in golden.losses(output).items()}
    assert_agrees(output.logits.cpu(), expected["logits"])
    assert_agrees(output.features.mean().cpu(), expected["features_mean"])
    assert_agrees(output.features.std().cpu(), expected["features_std"])
    assert_agrees(output.heads[:, :, :8].cpu(), expected["heads_first8"])
    assert_losses_agree(losses, expected["losses"])


def test_golden_training(golden):
    network, criterion = golden.network.train(), golden.criterion("released")
    parameters = dict(network.named_parameters()) | {"centers": criterion.affinity.centers}
    optimizer = SGD(parameters.values(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    totals = []
    for step in range(5):
        optimizer.zero_grad()
        output = network(golden.images)
        total = criterion(output, batch_of(golden.labels)).total
        total.backward()
        if step == 0:
            assert_agrees(output.logits.cpu(), golden.case["train"]["logits"])
            for name, value in golden.case["train"]["grad_norm_released"].items():
                assert_agrees(parameters[name].grad.norm().cpu(), value)
        optimizer.step()
        totals.append(total.detach().cpu())
    assert_agrees(torch.stack(totals), golden.case["sgd_5_steps_total_loss"])


def test_fused_in_float64(golden, record_property):
    with torch.no_grad():
        expected = golden.network.eval()(golden.images)
        ours = fuse(golden.network)(golden.images)
    found = max(map(error, ours, expected))
    record_property("relative error", found)
    assert found < FLOAT64


def errors_against_float64(golden: OnDevice, *, bf16: bool) -> dict[str, float]:
    """How far the network, and what eval.py --fast runs in its place, are from float64."""
    device = golden.images.device
    with torch.inference_mode():
        expected = golden.network.eval()(golden.images)
        network = golden.network.float().to(memory_format=MEMORY_FORMAT)
        images = golden.images.float().contiguous(memory_format=MEMORY_FORMAT)
        networks = {"as trained": network, "fused": fast_network(network, device, bf16=bf16)}
        with autocast(device, bf16):
            outputs = {name: network(images) for name, network in networks.items()}
    return {name: max(map(error, ours, expected)) for name, ours in outputs.items()}


def check(found: dict[str, float], bound: float, record_property: Callable) -> None:
    for name, value in found.items():
        record_property(f"relative error, {name}", value)
    assert max(found.values()) < bound


def test_float32(golden, exact_float32, record_property):
    check(errors_against_float64(golden, bf16=False), FLOAT32, record_property)


def test_float32_with_tf32_as_torch_sets_it(device, golden, record_property):
    if device.type != "cuda":
        pytest.skip("a CPU has no TF32")
    check(errors_against_float64(golden, bf16=False), TF32, record_property)


def test_bfloat16(golden, record_property):
    check(errors_against_float64(golden, bf16=True), BFLOAT16, record_property)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "training"])
def test_losses_under_autocast_are_float32(golden, training, record_property):
    network = golden.network.train(training)
    with torch.no_grad():
        expected = golden.losses(network(golden.images))
        expected["partition"] = expected["partition_eq6"]
        criterion = golden.criterion("eq6").float()
        with autocast(golden.images.device, True):
            output = network.float()(golden.images.float())
            terms = criterion(output, batch_of(golden.labels)).terms
    assert output.features.dtype == torch.bfloat16
    assert {term.dtype for term in terms.values()} == {torch.float32}
    # One head's partition loss is 0 whatever the numbers.
    found = {name: error(term, expected[name]) for name, term in terms.items() if expected[name]}
    assert len(found) == (3 if golden.case["heads"] > 1 else 2)
    check(found, BFLOAT16, record_property)
