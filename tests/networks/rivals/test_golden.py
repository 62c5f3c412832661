"""Our rivals against the authors' code, float64, to 1e-9 relative (tests/golden/rivals)."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from networks.rivals.center import CenterFlags, center_loss
from networks.rivals.dacl import DACL, DACLFlags, center_gradient, sparse_center_loss
from networks.rivals.dda import DDAFlags, discriminant_loss
from networks.rivals.eac import EAC, EACFlags, EACOutput, consistency_loss
from networks.rivals.island import IslandFlags, island_loss, pair_loss
from networks.rivals.ran import RAN, RANFlags, RANOutput, region_bias_loss
from networks.rivals.scn import SCN, SCNFlags, SCNOutput, rank_regularization, relabel
from tests.support.golden import RivalsCase, assert_agrees
from tests.support.scripts import batch_of


def norms(module: torch.nn.Module, names: dict[str, float]) -> dict[str, Tensor]:
    return {name: module.get_parameter(name).grad.norm() for name in names}


def assert_tensor(tensor: Tensor, expected: dict) -> None:
    """A tensor by its norm and its first eight numbers."""
    assert_agrees(tensor.norm(), expected["norm"])
    assert_agrees(tensor.flatten()[:8], expected["first8"])


def assert_norms(module: torch.nn.Module, expected: dict[str, float]) -> None:
    for name, value in expected.items():
        assert_agrees(module.get_parameter(name).grad.norm(), value)


def output_of(features: Tensor, logits: Tensor, **others: Tensor) -> SimpleNamespace:
    """An output whose pooled features are `features` (B, D)."""
    return SimpleNamespace(logits=logits, features=features[..., None, None], **others)


# ---- DACL


def test_dacl():
    case = RivalsCase("dacl")
    size, classes = case["map_size"], case["classes"]
    network = DACL(classes, 32 * size).double().train()
    case.fill(network)
    maps = case.positive("feature_map", case["batch"], 512, size, size)
    centers = case.normal("centers", classes, 512, scale=(2 / classes) ** 0.5).detach()
    attention, pooled = network.attention_of(maps), maps.mean(dim=(2, 3))
    expected = case["as_released"]
    assert_agrees(attention[:, :8], expected["A_first8"])
    assert_agrees(attention.norm(), expected["A_norm"])
    logits = network.fc(pooled)
    assert_agrees(logits, expected["logits"])
    sparse = sparse_center_loss(pooled, attention, case.labels, centers)
    assert_agrees(sparse, expected["losses"]["sparse_center"])
    gradients = torch.autograd.grad(sparse, (pooled, attention), retain_graph=True)
    for gradient, name in zip(gradients, ("pooled", "A"), strict=True):
        assert_tensor(gradient, expected["grad_of_sparse_center"][name])
    step = expected["centers"]
    gradient = center_gradient(pooled, attention, case.labels, centers)
    assert_agrees(gradient.norm(), step["grad_norm"])
    assert_agrees(gradient[step["row"], :8], step["grad_row_first8"])
    # The same through the criterion, which moves its centers.
    criterion = DACLFlags(dacl_lambda=case["lamb"], dacl_center_lr=case["alpha"]).criterion(classes)
    criterion = criterion.double().train()
    criterion.centers = centers
    output = SimpleNamespace(logits=logits, features=maps, attention=attention)
    loss = criterion(output, batch_of(case.labels))
    loss.total.backward()
    assert_agrees(loss.total, expected["losses"]["total"])
    assert_tensor(maps.grad, expected["grad_of_total"]["feature_map"])
    assert_norms(network, expected["grad_of_total"]["norms"])
    assert_agrees(criterion.centers.norm(), step["after_step_norm"])
    assert_agrees(criterion.centers[step["row"], :8], step["after_step_row_first8"])


# ---- SCN


@pytest.fixture
def scn() -> tuple[RivalsCase, SCN, Tensor, SCNOutput]:
    case = RivalsCase("scn")
    network = SCN(case["classes"]).double()
    case.fill(network)
    features = case.positive("features", case["batch"], 512, scale=case["feature_scale"])
    alpha = network.alpha(features)
    output = SCNOutput(alpha * network.fc(features), features, alpha.squeeze(1))
    return case, network, features, output


def test_scns_weights_and_logits(scn):
    case, _, _, output = scn
    assert_agrees(output.alpha, case["alpha"])
    assert_agrees(output.logits, case["scaled_logits"])


@pytest.mark.parametrize("setting", range(len(RivalsCase("scn")["settings"])))
@pytest.mark.parametrize("form", ["paper", "released"])
def test_scns_losses(scn, setting, form):
    case, network, features, output = scn
    expected = case["settings"][setting]
    beta, margin = expected["beta"], expected["margin_1"]
    rank = rank_regularization(output.alpha, beta, margin)
    assert_agrees(rank, expected["rank_regularization"])
    flags = SCNFlags(scn_form=form, scn_beta=beta, scn_margin1=margin)
    loss = flags.criterion(case["classes"])(output, batch_of(case.labels))
    assert_agrees(loss.terms["cls"], case["weighted_ce"])
    assert_agrees(loss.total, expected[f"total_as_{form}"])
    loss.total.backward()
    gradients = expected[f"grad_as_{form}"]
    norm = gradients["features_norm"] if form == "paper" else gradients["features"]["norm"]
    assert_agrees(features.grad.norm(), norm)
    for name in ("alpha.0.weight", "fc.weight"):
        assert_agrees(network.get_parameter(name).grad.norm(), gradients[f"{name}_norm"])


def test_scns_new_labels(scn):
    case, _, _, output = scn
    old = case.labels
    new = relabel(output.logits.softmax(dim=1), old, case["margin_2"])
    changed = [[i, int(old[i]), int(new[i])] for i in (new != old).nonzero().flatten().tolist()]
    assert changed == case["relabel"]["as_released"]
    for form in ("paper", "released"):
        flags = SCNFlags(
            scn_form=form, scn_beta=case["relabel"]["beta"], scn_margin2=case["margin_2"]
        )
        criterion = flags.criterion(case["classes"]).train()
        criterion.epoch = flags.scn_relabel_epoch
        loss = criterion(output, batch_of(old))
        expected = case["relabel"][f"as_{form}"]
        assert criterion.changed == {sample: label for sample, _, label in expected}
        assert_agrees(loss.terms["relabelled"], len(expected) / len(old))


# ---- RAN


@pytest.mark.parametrize("form", ["paper", "released"])
def test_ran(form):
    case = RivalsCase("ran")
    expected = case[f"as_{form}"]
    network = RAN(case["classes"], form=form).double()
    case.fill(network)
    regions = case.positive("regions", case["batch"], case["regions"], 512)
    final, weights = network.joined(regions)
    assert_agrees(weights, expected["a"])
    assert_agrees(final.norm(), expected["final"]["norm"])
    assert_agrees(final[0, 512:520], expected["F_m"]["first8"])
    logits = network.fc(final)
    assert_agrees(logits, expected["logits"])
    for margin, value in expected["rb"].items():
        assert_agrees(region_bias_loss(weights, float(margin)), value)
    criterion = RANFlags(ran_margin=case["margin"]).criterion(case["classes"])
    loss = criterion(RANOutput(logits, None, weights), batch_of(case.labels))
    assert_agrees(loss.total, expected["total"])
    loss.total.backward()
    assert_tensor(regions.grad, expected["grad_of_total"]["regions"])
    assert_norms(network, expected["grad_of_total"]["norms"])


# ---- EAC


def test_eac():
    case = RivalsCase("eac")
    expected = case["as_released"]
    network = EAC(case["classes"]).double()
    case.fill(network)
    shape = (case["batch"], case["channels"], case["map_size"], case["map_size"])
    maps, mirrored = case.positive("map", *shape), case.positive("map_mirrored", *shape)
    weight = network.fc.weight
    consistency = consistency_loss(maps, mirrored, weight)
    assert_agrees(consistency, expected["losses"]["consistency"])
    gradients = torch.autograd.grad(consistency, (maps, mirrored))
    for gradient, name in zip(gradients, ("map", "map_mirrored"), strict=True):
        assert_tensor(gradient, expected["grad_of_consistency"][name])
    logits = network.fc(maps.mean(dim=(2, 3)))
    assert_agrees(logits, expected["logits"])
    output = EACOutput(logits, maps, mirrored, weight.detach())
    criterion = EACFlags(eac_lambda=case["lam"]).criterion(case["classes"])
    loss = criterion(output, batch_of(case.labels))
    assert_agrees(loss.total, expected["losses"]["total"])
    loss.total.backward()
    total = expected["grad_of_total"]
    for tensor, name in ((maps, "map"), (mirrored, "map_mirrored"), (weight, "fc.weight")):
        assert_tensor(tensor.grad, total[name])
    assert_agrees(network.fc.bias.grad, total["fc.bias"])


# ---- DDA, island and center loss


def features_and_centers(case: RivalsCase) -> tuple[Tensor, Tensor]:
    size = case["feature_dim"]
    features = case.normal("features", case["batch"], size, scale=case["feature_scale"])
    centers = case.normal("centers", case["classes"], size, scale=case["center_scale"])
    return features, centers


@pytest.mark.parametrize("form", ["mean", "released"])
def test_dda(form):
    case = RivalsCase("dda")
    expected = case[{"mean": "true_mean", "released": "as_released"}[form]]
    features, centers = features_and_centers(case)
    assert_agrees(center_loss(features, case.labels, centers), case["center"])
    if form == "mean":
        value = discriminant_loss(features, case.labels, centers)
        assert_agrees(value, expected["discriminant"])
    flags = DDAFlags(
        dda_form=form,
        dda_lambda=case["lamb"],
        dda_gamma=case["gamma"],
        dda_center_lr=case["alpha"],
    )
    criterion = flags.criterion(case["classes"]).double().train()
    criterion.centers = before = centers.detach()
    logits = torch.zeros(case["batch"], case["classes"], dtype=torch.float64)
    loss = criterion(output_of(features, logits), batch_of(case.labels))
    assert_agrees(loss.terms["discriminant"], expected["discriminant"])
    added = loss.total - loss.terms["cls"]
    assert_agrees(added, expected["added"])
    added.backward()
    assert_tensor(features.grad, expected["grad_of_added"]["features"])
    step, row = expected["centers"], expected["centers"]["row"]
    gradient = (before - criterion.centers) / case["alpha"]
    assert_agrees(gradient.norm(), step["grad_norm"])
    assert_agrees(gradient[row, :8], step["grad_row_first8"])
    assert_agrees(criterion.centers.norm(), step["after_step_norm"])


def test_island():
    case = RivalsCase("island")
    features, centers = features_and_centers(case)
    lambda1, labels, expected = case["lambda_1"], case.labels, case["mean_over_batch"]
    pairs = pair_loss(centers)
    assert_agrees(pairs, case["pairs"]["ordered"])
    (gradient,) = torch.autograd.grad(pairs, centers)
    assert_agrees(gradient.norm(), case["pairs"]["grad_of_ordered"]["centers_norm"])
    assert_agrees(center_loss(features, labels, centers), expected["center"])
    island = island_loss(features, labels, centers, lambda1)
    assert_agrees(island, expected["island"])
    for gradient, name in zip(
        torch.autograd.grad(island, (features, centers)), ("features", "centers_norm"), strict=True
    ):
        norm = expected["grad_of_island"][name]
        assert_agrees(gradient.norm(), norm["norm"] if name == "features" else norm)
    flags = IslandFlags(
        island_lambda=case["lam"], island_lambda1=lambda1, island_center_lr=case["alpha"]
    )
    criterion = flags.criterion(case["classes"]).double().train()
    criterion.centers = before = centers.detach()
    logits = torch.zeros(case["batch"], case["classes"], dtype=torch.float64)
    loss = criterion(output_of(features, logits), batch_of(labels))
    assert_agrees(loss.total - loss.terms["cls"], expected["weighted"])
    # The centers' step: Wen's, and the pairs' derivative.
    pairs_part = lambda1 * torch.autograd.grad(pair_loss(centers), centers)[0]
    wens = before - criterion.centers - case["alpha"] * pairs_part
    assert_agrees(wens.norm(), case["alpha"] * case["center_update"]["norm"])


def test_center():
    case = RivalsCase("island")
    features, centers = features_and_centers(case)
    criterion = CenterFlags(center_lr=case["alpha"]).criterion(case["classes"]).double().train()
    criterion.centers = centers.detach()
    logits = torch.zeros(case["batch"], case["classes"], dtype=torch.float64)
    loss = criterion(output_of(features, logits), batch_of(case.labels))
    expected = case["center_update"]
    assert_agrees(criterion.centers.norm(), expected["after_step_norm"])
    assert_agrees(criterion.centers[case["row"], :8], expected["after_step_row_first8"])
    assert_agrees(loss.terms["center"], case["mean_over_batch"]["center"])
    assert_agrees(
        loss.total - loss.terms["cls"], CenterFlags().center_lambda * loss.terms["center"].item()
    )
