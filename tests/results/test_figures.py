"""tools.figures: maps against loops and formulas, what is drawn against the numbers behind it."""

from __future__ import annotations

import importlib.util
import json
import statistics
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from engine.loading import OrderedBatches, SeededImages, make_loader
from PIL import Image
from torch import Tensor

from common.errors import InputError
from datasets import RAFDB, transforms
from engine.evaluate import pooled_features
from networks import DAN, ResNet18
from networks.attention import grad_cam_maps, map_overlaps, spatial_maps
from results.embedding import embed
from results.figures import heads_lines, heads_panels, image_files
from results.pictures import curves_figure, heads_figure, overlay
from results.runs import read_runs
from tests.support.scripts import CLASSES, write_rafdb
from tools import figures

pytestmark = pytest.mark.filterwarnings("ignore:.*published are")

needs_grad_cam = pytest.mark.skipif(
    importlib.util.find_spec("pytorch_grad_cam") is None,
    reason="grad-cam is not installed (requirements-figures.txt)",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_rafdb(tmp_path_factory.mktemp("data"), train=7, test=14)


@pytest.fixture(scope="module")
def dan() -> DAN:
    """Three heads whose maps and gates differ, in eval mode."""
    torch.manual_seed(0)
    network = DAN(CLASSES, 3)
    for head in network.attention_heads():
        torch.nn.init.normal_(head.ca.attention[3].weight, std=0.1)
    return network.eval()


@pytest.fixture(scope="module")
def checkpoint(dan, data, tmp_path_factory) -> Path:
    return save(tmp_path_factory.mktemp("dan") / "last.pth", dan, data)


def save(path: Path, network: torch.nn.Module, data: Path) -> Path:
    settings = {"image_size": 64, "data": str(data), "fcn_loss": "affinity"}
    content = {"iter": 1, "model_state_dict": network.state_dict(), "dataset": "rafdb"}
    torch.save({**content, "class_names": list(RAFDB.classes), "settings": settings}, path)
    return path


def draw(*words: object) -> None:
    figures.main([str(word) for word in words])


def refusal(*words: object) -> str:
    with pytest.raises(InputError) as error:
        draw(*words)
    return str(error.value)


# --------------------------------------------------------------------------------------------
# Maps


def test_spatial_maps_are_what_the_heads_multiply_with(dan):
    images = torch.randn(2, 3, 96, 64)
    maps = spatial_maps(dan, images)
    assert maps.shape == (2, 3, 3, 2)
    assert not maps.requires_grad
    with torch.no_grad():
        features = dan.features(images)
        for i, head in enumerate(dan.attention_heads()):
            torch.testing.assert_close(head.sa(features), features * maps[:, i : i + 1])


def test_overlaps_are_those_of_loops():
    maps = torch.rand(2, 3, 2, 4, generator=torch.Generator().manual_seed(0))
    found = map_overlaps(maps)
    for image in range(2):
        for i in range(3):
            for j in range(3):
                p = (maps[image, i] / maps[image, i].sum()).flatten().tolist()
                q = (maps[image, j] / maps[image, j].sum()).flatten().tolist()
                pairs = list(zip(p, q, strict=True))
                expected = sum(map(min, pairs)) / sum(map(max, pairs))
                assert float(found[image, i, j]) == pytest.approx(expected, rel=1e-6)


def test_equal_maps_overlap_wholly_and_disjoint_ones_not():
    one = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    maps = torch.stack([one, 3 * one, one.flip(0), torch.zeros(2, 2)]).unsqueeze(0)
    found = map_overlaps(maps)[0]
    assert found[0, 1] == pytest.approx(1)
    assert found[0, 2] == 0
    assert found[0, 3].isnan()


def grad_cam_by_hand(network: DAN, images: Tensor, number: int) -> Tensor:
    """Grad-CAM++ (Chattopadhay et al., 2018, Eq. 19 and 7) at the size of the map: (B, h, w)."""
    kept = {}
    head = network.attention_heads()[number]

    def keep(_module, _inputs, output):
        output.retain_grad()
        kept["a"] = output

    hook = head.sa.register_forward_hook(keep)
    logits = network(images).logits
    hook.remove()
    logits.max(dim=1).values.sum().backward()
    network.zero_grad(set_to_none=True)
    maps = []
    for a, g in zip(kept["a"].detach().double(), kept["a"].grad.double(), strict=True):
        weights = torch.zeros(len(a), dtype=torch.float64)
        for c in range(len(a)):
            alpha = g[c] ** 2 / (2 * g[c] ** 2 + a[c].sum() * g[c] ** 3 + 1e-6)
            weights[c] = (alpha * g[c].clamp_min(0)).sum()
        maps.append((weights[:, None, None] * a).sum(0).clamp_min(0))
    return torch.stack(maps)


@needs_grad_cam
def test_grad_cam_is_the_formula_for_each_head(dan):
    images = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    found = grad_cam_maps(dan, images)
    assert found.shape == (2, 3, 96, 96)
    for i in range(3):
        by_hand = grad_cam_by_hand(dan, images, i)
        low, high = by_hand.amin((1, 2), keepdim=True), by_hand.amax((1, 2), keepdim=True)
        scaled = (by_hand - low) / (high - low)
        # A position has 32 x 32 pixels; its centre lies half a pixel beyond the 16th.
        centres = found[:, i, 15::32, 15::32].double()
        assert scaled.shape == centres.shape
        assert (centres - scaled).abs().max() < 0.04
    assert all(p.grad is None for p in dan.parameters())
    assert not dan.cat_head0.sa._forward_hooks


def test_a_missing_package_is_one_line(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_grad_cam", None)
    message = refusal("fig1", checkpoint, "--count", 1, "--output", tmp_path / "x")
    assert "grad-cam" in message
    assert "requirements-figures.txt" in message
    assert "\n" not in message
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    message = refusal("fig3", checkpoint, checkpoint, "--output", tmp_path / "x")
    assert "scikit-learn" in message
    assert list(tmp_path.iterdir()) == []


def test_an_overlay_is_warmest_at_the_peak():
    heat = np.zeros((2, 2))
    heat[0, 1] = 7.0
    pixels = np.asarray(overlay(Image.new("RGB", (40, 30), "gray"), heat)).astype(int)
    warm = pixels[..., 0] - pixels[..., 2]
    assert pixels.shape == (30, 40, 3)
    assert warm[2, 37] > 40 > warm[27, 2]


# --------------------------------------------------------------------------------------------
# Features


def test_pooled_features_are_those_of_each_image(dan, data):
    dataset = RAFDB(data, "test", transforms.evaluation(64))
    images = SeededImages(dataset, [3, 8, 5, 1, 0])
    cpu = torch.device("cpu")
    loader = make_loader(images, OrderedBatches(5, 2), workers=0, device=cpu)
    found = pooled_features(dan, loader, cpu)
    with torch.no_grad():
        single = [dan(dataset[i][0][None]).features[0].mean((1, 2)) for i in (3, 8, 5, 1, 0)]
    torch.testing.assert_close(found, torch.stack(single), rtol=1e-4, atol=1e-4)


def test_classes_that_part_score_higher_and_a_seed_repeats():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 20)
    noise = rng.normal(size=(60, 5)).astype(np.float32)
    apart = noise + 8 * labels[:, None].astype(np.float32)
    one, other = embed(apart, labels, seed=1), embed(noise, labels, seed=1)
    assert one.points.shape == (60, 2)
    assert min(one.features_silhouette, one.points_silhouette) > 0.5
    assert max(other.features_silhouette, other.points_silhouette) < 0.1
    assert (embed(apart, labels, seed=1).points == one.points).all()
    # By the definition, for the first image.
    far = np.linalg.norm(apart - apart[0], axis=1)
    a = far[labels == 0].sum() / 19
    b = min(far[labels == c].mean() for c in (1, 2))
    from sklearn.metrics import silhouette_samples

    assert silhouette_samples(apart, labels)[0] == pytest.approx((b - a) / max(a, b), rel=1e-5)
    with pytest.raises(InputError, match="two classes"):
        embed(noise, np.zeros(60), seed=0)


# --------------------------------------------------------------------------------------------
# Runs


def write_run(folder: Path, accuracies: list[float], **settings: object) -> Path:
    """A finished run folder with these accuracies by epoch."""
    folder.mkdir(parents=True)
    flags = {"arch": "dan", "heads": 4, "fcn_loss": "affinity", "partition": "eq6", "seed": 0}
    config = {
        "dataset": "fer2013",
        "settings": {**flags, "epochs": len(accuracies), "lr": 0.1, **settings},
        "training_images": 100,
        "evaluated_images": 50,
        "evaluated_split": "test",
        "published_images": False,
    }
    (folder / "config.json").write_text(json.dumps(config))
    rows = [f"{i},0.1,{2 / i},{a},{a / 2},0.1" for i, a in enumerate(accuracies, start=1)]
    columns = "epoch,lr,loss,accuracy,mean_class_accuracy,macro_f1"
    (folder / "metrics.csv").write_text("\n".join([columns, *rows]) + "\n")
    return folder


@pytest.fixture
def runs(tmp_path) -> Path:
    root = tmp_path / "runs"
    for heads, seed, scores in (
        (1, 0, [0.5, 0.4]),
        (4, 0, [0.5, 0.6]),
        (4, 1, [0.5, 0.7]),
        (4, 2, [0.9, 0.5]),
    ):
        write_run(root / f"{heads}-{seed}", scores, heads=heads, seed=seed)
    # Not part of the comparison: an ablation, and another learning rate.
    write_run(root / "none", [0.1, 0.1], heads=1, fcn_loss="none")
    write_run(root / "lr", [0.2, 0.2], heads=1, lr=0.5)
    return root


def test_figure_5_has_the_mean_and_deviation_of_comparable_runs(runs):
    finished, _ = read_runs(runs)
    panels = heads_panels(finished)
    (series,) = panels.values()
    last, best = series.values()
    assert last == {1: [0.4], 4: [0.6, 0.7, 0.5]}
    assert best == {1: [0.5], 4: [0.6, 0.7, 0.9]}
    assert "1 head 40.00 (seeds: 1), 4 heads 60.00 ± 10.00 (seeds: 3)" in heads_lines(panels)[1]
    (axes,) = heads_figure(panels).axes
    for drawn, values in zip(axes.containers, (last, best), strict=True):
        line, _, (bars,) = drawn
        assert line.get_ydata() == pytest.approx([100 * np.mean(v) for v in values.values()])
        deviation = 100 * statistics.stdev(values[4])
        low, high = bars.get_segments()[1][:, 1]
        assert high - low == pytest.approx(2 * deviation)
    assert [t.get_text() for t in axes.get_xticklabels()] == ["1\n1 seed", "4\n3 seeds"]


def test_runs_that_cannot_be_compared_are_refused(runs, tmp_path):
    alone = write_run(tmp_path / "other/one", [0.5], heads=2)
    message = refusal("fig5", "--runs", alone, "--output", tmp_path / "x")
    assert "--heads" in message
    assert "nowhere" in refusal("fig5", "--runs", tmp_path / "nowhere")


def test_curves_are_the_rows_of_the_run(runs, tmp_path, capsys):
    draw("curves", runs / "4-2", runs / "1-0", "--output", tmp_path / "a/b.c")
    assert (tmp_path / "a/b.c.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "a/b.c.pdf").read_bytes().startswith(b"%PDF")
    assert str(tmp_path / "a/b.c.pdf") in capsys.readouterr().out
    rows = [{"epoch": 1, "loss": 3, "accuracy": 0.5, "mean_class_accuracy": 0.25}]
    loss, scores = curves_figure({"$run$_": rows}).axes
    assert [line.get_ydata() for line in loss.lines] == [[3]]
    assert [list(line.get_ydata()) for line in scores.lines] == [[50], [25]]
    assert "metrics.csv" in refusal("curves", tmp_path)
    with pytest.raises(InputError, match="no epoch"):
        curves_figure({"run": []})


# --------------------------------------------------------------------------------------------
# Commands


def test_fig1_draws_images_of_the_data_set_and_given_ones(checkpoint, data, tmp_path):
    draw("fig1", checkpoint, "--map", "spatial", "--count", 2, "--output", tmp_path / "a")
    faces = data / "Image/aligned"
    given = [faces / "test_0001_aligned.jpg", faces / "test_0002_aligned.jpg"]
    draw("fig1", checkpoint, *given, "--map", "spatial", "--output", tmp_path / "b")
    sizes = [Image.open(tmp_path / f"{name}.png").size for name in "ab"]
    assert sizes[0] == sizes[1]
    assert Image.open(tmp_path / "a.png").size[0] > 3 * Image.open(tmp_path / "a.png").size[1] / 2
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()
    assert image_files([faces], 3) == sorted(faces.iterdir())[:3]
    assert "nowhere" in refusal("fig1", checkpoint, tmp_path / "nowhere", "--map", "spatial")


def test_fig1_refuses_a_network_without_heads(data, tmp_path):
    path = save(tmp_path / "r.pth", ResNet18(CLASSES), data)
    assert "no heads" in refusal("fig1", path, "--map", "spatial")


def test_fig3_draws_two_networks_and_prints_their_scores(checkpoint, tmp_path, capsys):
    draw("fig3", checkpoint, checkpoint, "--count", 14, "--output", tmp_path / "x")
    first, second = [line for line in capsys.readouterr().out.splitlines() if "silhouette" in line]
    assert first == second  # the same network, images and seed
    assert "FCN loss: affinity" in first
    assert (tmp_path / "x.pdf").is_file()


def test_confusion_takes_a_checkpoint_or_its_numbers(checkpoint, data, tmp_path):
    import eval as eval_script

    numbers = tmp_path / "n.json"
    eval_script.main([str(checkpoint), "--json", str(numbers), "--workers", "0"])
    draw("confusion", checkpoint, "--output", tmp_path / "a")
    draw("confusion", "--json", numbers, "--output", tmp_path / "b")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert "either" in refusal("confusion")
    assert "either" in refusal("confusion", checkpoint, "--json", numbers)


@pytest.mark.parametrize(
    "content",
    [[], {}, {"confusion_counts": "x"}, {"confusion_counts": [[1, 2]], "classes": ["a", "b"]}],
    ids=["list", "empty", "text", "shape"],
)
def test_other_json_is_refused(content, tmp_path):
    path = tmp_path / "n.json"
    names = {"checkpoint": "x", "dataset": "y", "split": "z"}
    path.write_text(json.dumps({**content, **names} if isinstance(content, dict) else content))
    assert str(path) in refusal("confusion", "--json", path)


def test_bad_flags_are_refused(checkpoint):
    assert "--count is 0" in refusal("fig1", checkpoint, "--count", 0)
    assert "--image-size is 5" in refusal("fig1", checkpoint, "--image-size", 5)
    assert "fig9" in refusal("fig9")
