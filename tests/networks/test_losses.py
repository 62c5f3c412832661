"""Affinity (Eq. 2), partition (Eq. 6) and unified loss (Eq. 7) against explicit loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from networks import DAN, AffinityLoss, CenterLoss, DANLoss, DANOutput, PartitionLoss
from networks.losses import CENTER_WEIGHT, VARIANCE_FLOOR
from tests.support.scripts import batch_of

FORMS = ("eq6", "released")
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
DTYPES = tuple(TOLERANCE)
#: Half precision is converted to float32 first, so only the inputs are coarse.
HALF_TYPES = (torch.float16, torch.bfloat16)


def normal(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=seeded(seed)).to(dtype)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def labels_of(batch: int, classes: int) -> Tensor:
    return torch.randint(classes, (batch,), generator=seeded(1))


def affinity_of(classes: int, dim: int, dtype: torch.dtype = torch.float64) -> AffinityLoss:
    loss = AffinityLoss(classes, dim).to(dtype)
    with torch.no_grad():
        loss.centers.copy_(normal(classes, dim, seed=2))
    return loss


def output_of(batch: int, classes: int, heads: int, dtype: torch.dtype) -> DANOutput:
    return DANOutput(
        normal(batch, classes, dtype=dtype),
        normal(batch, 512, 2, 3, dtype=dtype, seed=3).relu(),
        normal(batch, heads, 512, dtype=dtype, seed=4),
    )


# ---- the equations, number by number


def unbiased_variance(values: list[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)


def distance_by_hand(features: Tensor, labels: Tensor, centers: Tensor) -> float:
    """The center loss of features (B, D, h, w): mean squared distance to the class center."""
    features, centers = features.tolist(), centers.tolist()
    distance = 0.0
    for maps, label in zip(features, labels.tolist(), strict=True):
        for channel, rows in enumerate(maps):
            values = [value for row in rows for value in row]
            distance += (math.fsum(values) / len(values) - centers[label][channel]) ** 2
    return distance / len(features)


def affinity_by_hand(features: Tensor, labels: Tensor, centers: Tensor) -> float:
    """Eq. 2 for features (B, D, h, w)."""
    columns = zip(*centers.tolist(), strict=True)
    divisor = sum(unbiased_variance(list(column)) for column in columns)
    return distance_by_hand(features, labels, centers) / divisor


def head_variances(heads: Tensor) -> list[float]:
    """The variance over the heads of every sample and channel of (B, k, D)."""
    return [
        unbiased_variance(list(values))
        for sample in heads.tolist()
        for values in zip(*sample, strict=True)
    ]


def partition_by_hand(heads: Tensor, form: str) -> float:
    """Eq. 6, or the released code's form of it."""
    k, variances = heads.shape[1], head_variances(heads)
    if form == "released":
        return math.log(1 + k / (math.fsum(variances) / len(variances)))
    terms = [math.log(1 + k / max(variance, VARIANCE_FLOOR)) for variance in variances]
    return math.fsum(terms) / len(terms)


def cross_entropy_by_hand(logits: Tensor, labels: Tensor) -> float:
    losses = [
        math.log(math.fsum(math.exp(value) for value in row)) - row[label]
        for row, label in zip(logits.tolist(), labels.tolist(), strict=True)
    ]
    return math.fsum(losses) / len(losses)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("classes", "shape"),
    [(2, (1, 1, 1, 1)), (7, (5, 6, 3, 3)), (3, (8, 4, 2, 5)), (8, (2, 16, 1, 2))],
)
def test_affinity_is_equation_2(classes, shape, dtype):
    features, labels = normal(*shape, dtype=dtype), labels_of(shape[0], classes)
    loss = affinity_of(classes, shape[1], dtype)
    value = loss(features, labels)
    assert value.dtype == dtype
    expected = affinity_by_hand(features, labels, loss.centers)
    assert value.item() == pytest.approx(expected, rel=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("classes", "shape"), [(1, (2, 3, 1, 1)), (7, (5, 6, 3, 3))])
def test_center_loss_is_the_squared_distance_without_the_division(classes, shape, dtype):
    features, labels = normal(*shape, dtype=dtype), labels_of(shape[0], classes)
    loss = CenterLoss(classes, shape[1]).to(dtype)
    value = loss(features, labels)
    expected = distance_by_hand(features, labels, loss.centers)
    assert value.item() == pytest.approx(expected, rel=TOLERANCE[dtype])
    pooled = loss(features.mean(dim=(2, 3)), labels)
    assert pooled.item() == pytest.approx(expected, rel=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("batch", "heads", "dim"), [(1, 2, 1), (3, 4, 8), (6, 5, 3), (2, 8, 32)])
def test_partition_is_equation_6_or_the_released_form(batch, heads, dim, form, dtype):
    vectors = normal(batch, heads, dim, dtype=dtype)
    value = PartitionLoss(form)(vectors)
    assert value.dtype == dtype
    expected = partition_by_hand(vectors, form)
    assert value.item() == pytest.approx(expected, rel=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_unified_is_the_weighted_sum_of_its_terms(form, dtype):
    output, labels = output_of(6, 7, 4, dtype), labels_of(6, 7)
    criterion = DANLoss(7, partition=form, lambda1=0.25, lambda2=3.0).to(dtype)
    total, terms = criterion(output, batch_of(labels))
    expected = {
        "cls": cross_entropy_by_hand(output.logits, labels),
        "affinity": affinity_by_hand(output.features, labels, criterion.affinity.centers),
        "partition": partition_by_hand(output.heads, form),
    }
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(
        expected, rel=TOLERANCE[dtype]
    )
    weighted = 0.25 * expected["affinity"] + 3 * expected["partition"] + expected["cls"]
    assert total.item() == pytest.approx(weighted, rel=TOLERANCE[dtype])


def test_unified_defaults_to_the_papers_form_and_weights():
    criterion = DANLoss(7)
    assert (criterion.weights["affinity"], criterion.weights["partition"]) == (1, 1)
    assert criterion.partition.form == PartitionLoss().form == "eq6"


@pytest.mark.parametrize(
    ("switches", "names"),
    [
        ({"fcn_loss": "none"}, ["cls", "partition"]),
        ({"partition": "none"}, ["cls", "affinity"]),
        ({"fcn_loss": "center"}, ["cls", "center", "partition"]),
        ({"fcn_loss": "none", "partition": "none"}, ["cls"]),
    ],
)
def test_a_term_that_is_off_is_neither_computed_nor_learned(switches, names):
    criterion = DANLoss(7, **switches).double()
    total, terms = criterion(output_of(4, 7, 4, torch.float64), batch_of(labels_of(4, 7)))
    assert list(terms) == names
    weights = {"center": CENTER_WEIGHT}
    expected = sum(weights.get(name, 1) * term.item() for name, term in terms.items())
    assert total.item() == pytest.approx(expected, rel=1e-12)
    assert bool(list(criterion.parameters())) == bool({"affinity", "center"} & set(names))


def test_a_weight_of_zero_takes_the_gradient_away():
    output, labels = output_of(4, 7, 4, torch.float64), labels_of(4, 7)
    heads = output.heads.requires_grad_()
    DANLoss(7, lambda2=0.0).double()(output, batch_of(labels)).total.backward()
    assert (heads.grad == 0).all()


def test_center_loss_at_its_default_weight_does_not_diverge_at_the_papers_learning_rate():
    """SGD 0.1 with momentum 0.9 on features that nothing else holds back."""
    features = normal(16, 512, seed=6).abs().requires_grad_()
    labels, loss = labels_of(16, 7), CenterLoss(7).double()
    optimizer = torch.optim.SGD([features, *loss.parameters()], lr=0.1, momentum=0.9)
    values = []
    for _ in range(300):
        value = loss(features, labels)
        optimizer.zero_grad()
        (CENTER_WEIGHT * value).backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.99 * values[0]
    assert max(values) == values[0]


# ---- gradients


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 2, 2)])
def test_affinity_gradient_of_features_and_centers(shape):
    """The divisor is differentiated too: the centers are driven apart."""
    loss, labels = affinity_of(3, shape[1]), labels_of(shape[0], 3)

    def value(features: Tensor, centers: Tensor) -> Tensor:
        return torch.func.functional_call(loss, {"centers": centers}, (features, labels))

    centers = normal(3, shape[1], seed=5).requires_grad_()
    assert torch.autograd.gradcheck(value, (normal(*shape).requires_grad_(), centers))


@pytest.mark.parametrize("form", FORMS)
def test_partition_gradient_of_the_heads(form):
    heads = normal(3, 4, 5).requires_grad_()
    assert min(head_variances(heads)) > 100 * VARIANCE_FLOOR
    assert torch.autograd.gradcheck(PartitionLoss(form), (heads,))


def channel_gradients(heads: int, form: str) -> tuple[Tensor, Tensor]:
    """Variance over normal heads of standard deviation 10, and the norm of a channel's gradient.

    Both (N, 1), for N channels; the norm is that of the loss before its mean over channels.
    """
    found = (10 * normal(100_000, heads, 1)).requires_grad_()
    PartitionLoss(form)(found).backward()
    return found.detach().var(dim=1), found.grad.norm(dim=1) * len(found)


@pytest.mark.parametrize("heads", [2, 3, 4, 5])
def test_partition_gradient_of_a_channel_grows_as_its_heads_come_close(heads):
    variance, found = channel_gradients(heads, "eq6")
    expected = 2 * heads / ((heads - 1) ** 0.5 * variance.sqrt() * (variance + heads))
    torch.testing.assert_close(found, expected * (variance > VARIANCE_FLOOR), rtol=1e-9, atol=0)


def test_equation_6_of_two_heads_has_rare_huge_gradients_and_the_released_form_has_not():
    """Two heads are nearly equal in some channels; that three others are too is rare."""
    mean_square = {
        form: [channel_gradients(k, form)[1].square().mean().item() for k in (2, 3, 4, 5)]
        for form in FORMS
    }
    two, three, four, five = mean_square["eq6"]
    assert two > 100 * three > 100 * 5 * four > 100 * 5 * 2 * five
    assert max(mean_square["released"]) < 2 * min(mean_square["released"])


def test_centers_of_absent_classes_are_moved_by_the_divisor_alone():
    loss, features = affinity_of(7, 5), normal(4, 5)
    labels = torch.tensor([2, 2, 5, 2])
    value = loss(features, labels)
    value.backward()
    centers = loss.centers.detach()
    divisor = centers.var(dim=0).sum()
    # d(divisor)/dc = 2 (c - mean) / (C - 1)
    expected = -value.detach() / divisor * 2 * (centers - centers.mean(dim=0)) / 6
    absent = [0, 1, 3, 4, 6]
    torch.testing.assert_close(loss.centers.grad[absent], expected[absent], rtol=1e-12, atol=0)
    assert value.item() == pytest.approx(
        affinity_by_hand(features[..., None, None], labels, centers), rel=1e-12
    )


# ---- properties and edges


def test_affinity_of_a_map_is_that_of_its_average():
    loss, features, labels = affinity_of(7, 512), normal(5, 512, 3, 4), labels_of(5, 7)
    torch.testing.assert_close(
        loss(features, labels), loss(features.mean(dim=(2, 3)), labels), rtol=1e-13, atol=0
    )


def test_affinity_is_zero_on_the_centers_and_grows_with_the_square_of_the_distance():
    loss, labels = affinity_of(4, 3), torch.tensor([0, 3, 1])
    on_centers, offset = loss.centers.detach()[labels], normal(3, 3)
    assert loss(on_centers, labels) == 0
    once, twice = (loss(on_centers + scale * offset, labels).item() for scale in (1, 2))
    assert twice == pytest.approx(4 * once, rel=1e-12)


def test_affinity_draws_its_centers_from_the_standard_normal():
    torch.manual_seed(0)
    centers = AffinityLoss(100).centers
    assert centers.shape == (100, 512)
    assert centers.requires_grad
    assert abs(centers.mean()) < 0.02
    assert abs(centers.std() - 1) < 0.02


@pytest.mark.parametrize("form", FORMS)
def test_one_head_cannot_be_partitioned(form):
    value = PartitionLoss(form)(normal(3, 1, 8))
    assert value.shape == ()
    assert value == 0


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_identical_heads_have_a_finite_loss_and_no_gradient(form, dtype):
    heads = normal(3, 1, 8, dtype=dtype).expand(3, 4, 8).clone().requires_grad_()
    value = PartitionLoss(form)(heads)
    value.backward()
    floor = VARIANCE_FLOOR if form == "eq6" else torch.finfo(dtype).eps
    assert value.item() == pytest.approx(math.log(1 + 4 / floor), rel=1e-4)
    assert torch.isfinite(heads.grad).all()
    assert heads.grad.abs().max() < 1e-6


def test_the_floor_acts_below_it_and_nowhere_else():
    for variance, expected in ((1e-6, VARIANCE_FLOOR), (1e-3, 1e-3)):
        half = math.sqrt(variance / 2)  # two heads at +-half have this unbiased variance
        heads = torch.tensor([[[half], [-half]]], dtype=torch.float64, requires_grad=True)
        value = PartitionLoss("eq6")(heads)
        value.backward()
        assert value.item() == pytest.approx(math.log(1 + 2 / expected), rel=1e-12)
        assert (heads.grad == 0).all() == (variance < VARIANCE_FLOOR)


@pytest.mark.parametrize("seed", range(10))
def test_equation_6_is_at_least_the_released_form(seed):
    """Jensen: log(1 + k / v) is convex in v, so its mean exceeds its value at the mean."""
    heads = normal(4, 3, 16, seed=seed) * (1 + seed)
    eq6, released = (PartitionLoss(form)(heads).item() for form in FORMS)
    assert eq6 > released


@pytest.mark.parametrize("form", FORMS)
def test_partition_is_smaller_where_the_heads_differ_more(form):
    heads = normal(4, 4, 16)
    assert PartitionLoss(form)(3 * heads) < PartitionLoss(form)(heads)


def test_where_all_variances_are_equal_both_forms_are_equal():
    heads = normal(1, 4, 1).expand(3, 4, 5)
    eq6, released = (PartitionLoss(form)(heads).item() for form in FORMS)
    assert eq6 == pytest.approx(released, rel=1e-12)


@pytest.mark.parametrize("num_classes", [1, 0])
def test_affinity_refuses_a_single_class(num_classes):
    with pytest.raises(ValueError, match=f"num_classes is {num_classes}.*at least 2"):
        AffinityLoss(num_classes)


def test_unknown_losses_are_refused_by_name():
    with pytest.raises(ValueError, match=r"'eq7'.*eq6, released"):
        PartitionLoss("eq7")
    with pytest.raises(ValueError, match="'eq7'"):
        DANLoss(7, partition="eq7")
    with pytest.raises(ValueError, match=r"'island'.*affinity, center, none"):
        DANLoss(7, fcn_loss="island")


# ---- soft labels


def test_soft_labels_enter_the_cross_entropy_alone():
    output, labels = output_of(5, 7, 4, torch.float64), labels_of(5, 7)
    shares = normal(5, 7, seed=3).softmax(dim=1)
    criterion = DANLoss(7).double()
    hard = criterion(output, batch_of(labels)).terms
    soft = criterion(output, batch_of(labels, soft_labels=shares)).terms
    by_hand = 0.0
    for logits, row in zip(output.logits.tolist(), shares.tolist(), strict=True):
        log_sum = math.log(sum(map(math.exp, logits)))
        by_hand -= sum(q * (z - log_sum) for z, q in zip(logits, row, strict=True)) / 5
    assert soft["cls"].item() == pytest.approx(by_hand, rel=1e-12)
    assert {name: term for name, term in soft.items() if name != "cls"} == {
        name: term for name, term in hard.items() if name != "cls"
    }


# ---- several threads


def test_the_gradient_of_the_centers_is_the_same_every_time_with_several_threads():
    """Sums over a batch have a fixed order: with `centers[labels]` they would not."""
    features, labels = normal(512, 512, dtype=torch.float32), labels_of(512, 2)
    torch.manual_seed(0)
    loss = AffinityLoss(2)
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        gradients = [
            torch.autograd.grad(loss(features, labels), loss.centers)[0] for _ in range(20)
        ]
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(gradient, gradients[0]) for gradient in gradients)


# ---- half precision


@pytest.mark.parametrize("dtype", HALF_TYPES, ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_terms_of_half_inputs_are_those_of_float32(form, dtype):
    labels, criterion = labels_of(6, 7), DANLoss(7, partition=form)
    half = output_of(6, 7, 4, dtype)
    exact = criterion(DANOutput(*(tensor.float() for tensor in half)), batch_of(labels))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = criterion(half, batch_of(labels))
    for name, term in (ours.terms | {"total": ours.total}).items():
        assert term.dtype == torch.float32, name
        assert term == (exact.terms | {"total": exact.total})[name], name


@pytest.mark.parametrize("form", FORMS)
def test_the_network_under_autocast_gives_float32_terms(form):
    torch.manual_seed(0)
    network, criterion = DAN(7, 2), DANLoss(7, partition=form)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = network(torch.randn(4, 3, 32, 32))
        loss = criterion(output, batch_of(labels_of(4, 7)))
    assert output.features.dtype == torch.bfloat16
    assert (output.logits.dtype, output.heads.dtype) == (torch.float32, torch.float32)
    exact = criterion(
        DANOutput(output.logits, output.features.float(), output.heads),
        batch_of(labels_of(4, 7)),
    )
    assert loss.total.dtype == torch.float32
    assert loss.total == exact.total


# ---- the losses on a whole network


def backward(network: DAN, criterion: DANLoss) -> Tensor:
    """The total loss of a random batch, differentiated."""
    images = normal(6, 3, 64, 64, dtype=torch.float32)
    total = criterion(network(images), batch_of(torch.tensor([0, 1, 2, 3, 4, 5]))).total
    total.backward()
    return total


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("heads", [1, 3])
def test_every_parameter_receives_a_gradient(form, heads):
    torch.manual_seed(0)
    network, criterion = DAN(7, heads).train(), DANLoss(7, partition=form)
    backward(network, criterion)
    named = [*network.named_parameters(), *criterion.named_parameters()]
    without = [name for name, p in named if p.grad is None or not p.grad.abs().sum() > 0]
    # BatchNorm subtracts the mean again, so a shift in front of it has no effect at all.
    cancelled = {name for name, _ in named if is_shift_before_batch_norm(name)}
    assert set(without) <= cancelled
    assert all(p.grad is not None for _, p in named)


def is_shift_before_batch_norm(name: str) -> bool:
    endings = (
        "conv1x1.0.bias",
        "conv_3x3.0.bias",
        "conv_1x3.0.bias",
        "conv_3x1.0.bias",
        "attention.0.bias",
    )
    return name.endswith(endings) or name == "fc.bias"


@pytest.mark.parametrize("form", FORMS)
def test_a_dead_feature_channel_leaves_loss_and_gradients_finite(form):
    torch.manual_seed(0)
    network, criterion = DAN(7, 4).train(), DANLoss(7, partition=form)
    dead = torch.ones(1, 512, 1, 1)
    dead[:, [0, 17, 511]] = 0
    network.features.register_forward_hook(lambda module, inputs, output: output * dead)
    heads = []
    network.register_forward_hook(lambda module, inputs, output: heads.append(output.heads))
    total = backward(network, criterion)
    assert (heads[0][:, :, 17].var(dim=1) == 0).all()
    assert torch.isfinite(total)
    for name, parameter in [*network.named_parameters(), *criterion.named_parameters()]:
        assert torch.isfinite(parameter.grad).all(), name
