"""FERAtt: its losses against the authors' numbers and loops; the network at several sizes."""

from __future__ import annotations

import json
import math
import zlib

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from common.errors import InputError
from networks import Method
from networks.rivals.feratt import (
    FORMS,
    VARIANTS,
    BatchNorm,
    DilatedCenter,
    FERAtt,
    FERAttFlags,
    FERAttLoss,
    FERAttOutput,
    PreActBlock,
    attention_loss,
    representation_loss,
)
from tests.support.golden import FOLDER
from tests.support.scripts import batch_of

GOLDEN = json.loads((FOLDER / "rivals/feratt.json").read_text())
BATCH, SIZE = GOLDEN["batch"], GOLDEN["image_size"]
LABELS = torch.tensor(GOLDEN["labels"])


def stream(name: str) -> np.random.RandomState:
    return np.random.RandomState(zlib.crc32((GOLDEN["salt"] + name).encode()))


def normal(name: str, *shape: int) -> Tensor:
    return torch.from_numpy(stream(name).standard_normal(shape))


def pictures() -> tuple[Tensor, Tensor]:
    """The clean pictures and masks of the golden numbers."""
    clean = stream("clean").uniform(0, 1, (BATCH, 3, SIZE, SIZE))
    mask = stream("mask").randint(0, 2, (BATCH, 1, SIZE, SIZE))
    return torch.from_numpy(clean), torch.from_numpy(mask)


def assert_gradient(tensor: Tensor, expected: dict) -> None:
    assert tensor.grad.norm().item() == pytest.approx(expected["norm"], rel=1e-9)
    first = tensor.grad.flatten()[:8].numpy()
    np.testing.assert_allclose(first, expected["first8"], rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("case", GOLDEN["representation"], ids=lambda case: f"x{case['scale']}")
def test_representation_loss_has_the_authors_numbers(case):
    z = case["scale"] * normal("embeddings", BATCH, GOLDEN["embedding_dim"])
    z.requires_grad_()
    loss = representation_loss(z, LABELS)
    loss.backward()
    assert loss.item() == pytest.approx(case["as_released"]["loss"], rel=1e-9)
    if "grad" in case["as_released"]:
        assert_gradient(z, case["as_released"]["grad"])
    else:
        assert z.grad.norm().item() == pytest.approx(case["as_released"]["grad_norm"], abs=1e-12)


@pytest.mark.parametrize("case", GOLDEN["attention"], ids=lambda case: f"x{case['scale']}")
def test_attention_loss_has_the_authors_numbers(case):
    attention = case["scale"] * normal("attention", BATCH, 3, SIZE, SIZE)
    attention.requires_grad_()
    loss = attention_loss(attention, *pictures())
    loss.backward()
    assert loss.item() == pytest.approx(case["loss"], rel=1e-9)
    assert_gradient(attention, case["grad"])


def test_the_total_is_the_sum_of_the_authors_three():
    z = 0.3 * normal("embeddings", BATCH, GOLDEN["embedding_dim"])
    logits, attention = normal("logits", BATCH, 7), normal("attention", BATCH, 3, SIZE, SIZE)
    clean, mask = pictures()
    batch = batch_of(LABELS, clean=clean, mask=mask)
    output = FERAttOutput(logits, z, z, attention, mask)
    losses = {variant: FERAttLoss(variant)(output, batch) for variant in VARIANTS}
    expected = GOLDEN["total"]
    terms = losses["representation"].terms
    for name in ("cls", "representation", "attention"):
        assert terms[name].item() == pytest.approx(expected[name], rel=1e-9)
    assert losses["representation"].total.item() == pytest.approx(expected["total"], rel=1e-9)
    assert list(losses["classify"].terms) == ["cls", "attention"]
    without = expected["total"] - expected["representation"]
    assert losses["classify"].total.item() == pytest.approx(without, rel=1e-9)
    assert losses["preactresnet18"].total.item() == pytest.approx(expected["cls"], rel=1e-9)


def test_later_forms_of_the_attention_loss_by_hand():
    attention, (clean, mask) = 20 * normal("attention", BATCH, 3, SIZE, SIZE), pictures()
    logits = normal("logits", BATCH, 7)
    output = FERAttOutput(logits, logits, logits, attention, mask)
    found = {
        form: FERAttLoss("classify", form)(output, batch_of(LABELS, clean=clean, mask=mask))
        for form in FORMS
    }
    cls = GOLDEN["total"]["cls"]
    pairs = list(zip(attention.flatten().tolist(), clean.flatten().tolist(), strict=True))
    whole = sum(math.tanh(3 * abs(c - a)) for a, c in pairs) / len(pairs)
    for form, (weight, term) in {
        "masked": (1, 10.0),  # clamped
        "masked-twice": (2, 30.0),
        "whole": (5, whole),
    }.items():
        assert found[form].terms["attention"].item() == pytest.approx(term)
        assert found[form].total.item() == pytest.approx(cls + weight * term)


def test_representation_loss_is_its_loops():
    z, labels = torch.randn(7, 3, dtype=torch.float64), [2, 0, 2, 2, 4, 0, 4]
    means = {}
    for c in sorted(set(labels)):
        own = [z[i] for i in range(7) if labels[i] == c]
        means[c] = sum(own) / len(own)
    expected = 0.0
    for i in range(7):
        e = {c: math.exp(-((z[i] - mean) ** 2).sum() / 2) for c, mean in means.items()}
        for c in means:
            p = e[c] / (sum(e.values()) + 1e-15)
            expected += (p - (labels[i] == c)) ** 2 / 7
    assert representation_loss(z, torch.tensor(labels)).item() == pytest.approx(expected)


def test_gradients_are_those_of_finite_differences():
    z = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 0, 3, 3, 1])
    assert torch.autograd.gradcheck(lambda z: representation_loss(z, labels), (z,))
    attention = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    clean = torch.rand(2, 3, 4, 4, dtype=torch.float64)
    mask = torch.randint(0, 2, (2, 1, 4, 4)).double()
    assert torch.autograd.gradcheck(lambda a: attention_loss(a, clean, mask), (attention,))


@pytest.fixture(scope="module")
def network() -> FERAtt:
    return FERAtt(5).eval()


@pytest.mark.parametrize(("size", "cells"), [(32, 1), (64, 2), (100, 4), (224, 7)])
def test_any_size_gives_maps_of_that_size(network, size, cells):
    """100 is no multiple of 32: what is decoded is larger than a skip, by a row and a column."""
    with torch.no_grad():
        output = network(torch.randn(1, 3, size, size))
    assert output.logits.shape == (1, 5)
    assert output.embedding.shape == (1, 64)
    assert output.features.shape == (1, 512, cells, cells)
    assert output.attention.shape == (1, 3, size, size)
    assert output.map.shape == (1, 1, size, size)
    assert (output.map > 0).all()
    assert (output.map < 1).all()


def test_the_attention_image_is_the_features_where_the_map_lets_them_through(network):
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        network.attention_map.last.weight.zero_()
        network.attention_map.last.bias.fill_(-100)  # sigmoid: 0
        closed = network(images).attention
        conv3, conv1 = network.attention_image
        bias = F.conv2d(conv3.bias.view(1, 32, 1, 1), conv1.weight, conv1.bias)
        torch.testing.assert_close(closed, bias.expand_as(closed))
        network.attention_map.last.bias.fill_(100)  # 1
        expected = network.attention_image(network.reconstruction(images))
        torch.testing.assert_close(network(images).attention, expected)


def test_the_embedding_is_pooled_over_all_positions():
    """At 224 px too, where the released network sees 4 x 4 of 7 x 7."""
    network = FERAtt(3, attention=False).eval()
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        output = network(images)
        small = F.avg_pool2d(images, 4)
        pooled = network.features(small).sum(dim=(2, 3)) / 49
        torch.testing.assert_close(output.embedding, network.embedding(pooled))
        torch.testing.assert_close(output.logits, network.fc(output.embedding))
    assert torch.equal(output.attention, images)


def test_a_preactivation_block_by_hand():
    block = PreActBlock(2, 4, 2).eval()
    x = torch.randn(1, 2, 6, 6)
    with torch.no_grad():
        y = F.relu(x / math.sqrt(1 + 1e-5))
        z = F.conv2d(y, block.conv1.weight, stride=2, padding=1)
        z = F.conv2d(F.relu(z / math.sqrt(1 + 1e-5)), block.conv2.weight, padding=1)
        expected = z + F.conv2d(y, block.shortcut.weight, stride=2)
        torch.testing.assert_close(block(x), expected)
    assert PreActBlock(4, 4, 1).shortcut is None


def test_running_statistics_are_the_mean_of_ten_batches_and_then_move_as_torchs():
    batches = [2 + 0.1 * torch.randn(4, 3, 5, 5, dtype=torch.float64) for _ in range(14)]
    norm = BatchNorm(3).double()
    for i, batch in enumerate(batches):
        expected = F.batch_norm(batch, None, None, norm.weight, norm.bias, training=True)
        torch.testing.assert_close(norm(batch), expected)
        if i == 5:  # as a resumed run continues
            state = norm.state_dict()
            norm = BatchNorm(3).double()
            norm.load_state_dict(state)
    means = [batch.mean(dim=(0, 2, 3)) for batch in batches]
    variances = [batch.var(dim=(0, 2, 3)) for batch in batches]
    for running, found in ((norm.running_mean, means), (norm.running_var, variances)):
        mean = sum(found[:10]) / 10
        for each in found[10:]:
            mean = 0.9 * mean + 0.1 * each
        torch.testing.assert_close(running, mean)
    assert list(norm.state_dict()) == list(torch.nn.BatchNorm2d(3).state_dict())


@pytest.mark.slow
def test_what_a_few_steps_have_learned_is_there_in_evaluation():
    """With torch's running statistics, 40 steps leave it at one class."""
    torch.manual_seed(0)
    images, labels = torch.randn(6, 3, 32, 32), torch.tensor([0, 1, 2, 0, 1, 2])
    face = {"mask": torch.ones(6, 1, 32, 32), "clean": images.sigmoid()}
    batch, network, loss = batch_of(labels, **face), FERAtt(3).train(), FERAttLoss()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, weight_decay=5e-4)
    for _ in range(10):
        optimizer.zero_grad()
        loss(network(images), batch).total.backward()
        optimizer.step()
    with torch.no_grad():
        assert (network.eval()(images).logits.argmax(dim=1) == labels).all()


def test_the_centre_sums_what_four_dilations_see():
    center = DilatedCenter(1)
    x = torch.zeros(1, 1, 9, 9)
    x[0, 0, 4, 4] = 1
    with torch.no_grad():
        for branch in center.branches:
            branch.weight.fill_(1)
            branch.bias.zero_()
        seen = center(x)[0, 0]
    expected = torch.zeros(9, 9)
    for rate in (1, 2, 3, 4):
        for dy in (-rate, 0, rate):
            for dx in (-rate, 0, rate):
                expected[4 + dy, 4 + dx] += 1
    assert torch.equal(seen, expected)


def test_the_classifier_alone_has_no_attention_and_asks_for_no_masks():
    flags = FERAttFlags(feratt="preactresnet18")
    network = flags.network(3, 64)
    assert not any("attention" in name for name, _ in network.named_parameters())
    assert (flags.targets, FERAttFlags().targets) == ((), ("face",))
    assert Method(arch="feratt").targets == ("face",)
    assert Method().targets == ()


def test_only_imagenet_weights_fit_the_encoder():
    with pytest.raises(InputError, match=r"--pretrained is weights.pth.*imagenet.*or none"):
        Method(arch="feratt", pretrained="weights.pth").network(7)


def test_invalid_arguments_are_errors():
    with pytest.raises(ValueError, match="num_classes is 1"):
        FERAtt(1)
    with pytest.raises(ValueError, match="variant is 'rep'"):
        FERAttLoss("rep")
    with pytest.raises(ValueError, match="form is 'december'"):
        FERAttLoss("classify", "december")
