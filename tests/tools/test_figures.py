"""tools.figures: every command draws, prints its numbers and refuses what does not fit."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from PIL import Image

import eval as eval_script
from common.errors import InputError
from common.flags import settings
from datasets import RAFDB
from networks import DAN, Method, ResNet18
from networks.rivals import RIVALS
from tests.networks.rivals.test_common import LIKE_ISLAND
from tests.support.run_folders import write_run
from tests.support.scripts import CLASSES
from tools import figures

pytestmark = [pytest.mark.filterwarnings("ignore:.*published are"), pytest.mark.slow]


@pytest.fixture(scope="module")
def checkpoint(data, tmp_path_factory) -> Path:
    torch.manual_seed(0)
    return save(tmp_path_factory.mktemp("dan") / "last.pth", DAN(CLASSES, 3), data)


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


@pytest.mark.slow
def test_fig1_draws_images_of_the_data_set_and_given_ones(checkpoint, data, tmp_path):
    draw("fig1", checkpoint, "--map", "spatial", "--count", 2, "--output", tmp_path / "a")
    faces = data / "Image/aligned"
    given = [faces / "test_0001_aligned.jpg", faces / "test_0002_aligned.jpg"]
    draw("fig1", checkpoint, *given, "--map", "spatial", "--output", tmp_path / "b")
    sizes = [Image.open(tmp_path / f"{name}.png").size for name in "ab"]
    assert sizes[0] == sizes[1]
    assert sizes[0][0] > 3 * sizes[0][1] / 2
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()
    assert "nowhere" in refusal("fig1", checkpoint, tmp_path / "nowhere", "--map", "spatial")


def test_fig1_refuses_a_network_without_heads(data, tmp_path):
    path = save(tmp_path / "r.pth", ResNet18(CLASSES), data)
    assert "no heads" in refusal("fig1", path, "--map", "spatial")


@pytest.mark.slow
def test_fig1_puts_another_networks_map_into_the_first_column(checkpoint, data, tmp_path):
    torch.manual_seed(0)
    beside = save_rival(tmp_path / "dacl.pth", "dacl", data)
    flags = ("--map", "spatial", "--count", 2)
    draw("fig1", checkpoint, *flags, "--output", tmp_path / "a")
    draw("fig1", checkpoint, "--beside", beside, *flags, "--output", tmp_path / "b")
    one, other = (Image.open(tmp_path / f"{name}.png") for name in "ab")
    assert other.width == pytest.approx(one.width * 5.2 / 4.2, rel=0.08)
    plain = save(tmp_path / "r.pth", ResNet18(CLASSES), data)
    assert "no spatial map" in refusal("fig1", checkpoint, "--beside", plain, *flags)


def save_rival(path: Path, arch: str, data: Path) -> Path:
    method = Method(arch=arch, pretrained="none")
    save(path, method.network(CLASSES, 64), data)
    content = torch.load(path, weights_only=True)
    torch.save({**content, "settings": {**settings(method), **content["settings"]}}, path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("arch", [arch for arch in RIVALS if arch not in LIKE_ISLAND])
def test_fig1_draws_every_rival(arch, data, tmp_path):
    path = save_rival(tmp_path / "x.pth", arch, data)
    flags = ("--count", 1, "--output", tmp_path / "x")
    if find_spec("pytorch_grad_cam"):
        draw("fig1", path, *flags)
        assert (tmp_path / "x.png").is_file()
    if arch in ("dacl", "eac", "feratt", "phanet", "ran"):
        draw("fig1", path, "--map", "spatial", *flags)
    else:
        assert "no spatial map" in refusal("fig1", path, "--map", "spatial", *flags)


def test_a_missing_package_is_one_line(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_grad_cam", None)
    message = refusal("fig1", checkpoint, "--count", 1, "--output", tmp_path / "x")
    assert "grad-cam" in message
    assert "requirements-figures.txt" in message
    assert "\n" not in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_fig3_draws_two_networks_and_prints_their_scores(checkpoint, tmp_path, capsys):
    draw("fig3", checkpoint, checkpoint, "--count", 14, "--output", tmp_path / "x")
    first, second = [line for line in capsys.readouterr().out.splitlines() if "silhouette" in line]
    assert first == second  # the same network, images and seed
    assert "FCN loss: affinity" in first
    assert (tmp_path / "x.pdf").is_file()


def test_fig3_refuses_two_data_sets(checkpoint, data, tmp_path):
    other = tmp_path / "other"
    (other / "Image").mkdir(parents=True)
    (other / "Image/aligned").symlink_to(data / "Image/aligned")
    labels = (data / "EmoLabel/list_patition_label.txt").read_text().splitlines()
    (other / "EmoLabel").mkdir()
    (other / "EmoLabel/list_patition_label.txt").write_text("\n".join(labels[:-1]) + "\n")
    path = save(tmp_path / "r.pth", ResNet18(CLASSES), other)
    assert "different data" in refusal("fig3", checkpoint, path)


def test_fig5_prints_what_it_draws(tmp_path, capsys):
    for heads, scores in ((1, [0.5, 0.4]), (4, [0.5, 0.6])):
        write_run(tmp_path / f"runs/{heads}", "fer2013", scores, heads=heads)
    draw("fig5", "--runs", tmp_path / "runs", "--output", tmp_path / "x")
    assert "last epoch: 1 head 40.00 (seeds: 1), 4 heads 60.00" in capsys.readouterr().out
    assert (tmp_path / "x.png").is_file()
    assert "--heads" in refusal("fig5", "--runs", tmp_path / "runs/1")
    assert "nowhere" in refusal("fig5", "--runs", tmp_path / "nowhere")


def test_curves_take_run_folders(tmp_path, capsys):
    folders = [write_run(tmp_path / name, "rafdb", [0.5, 0.6]) for name in "ab"]
    draw("curves", *folders, "--output", tmp_path / "x/y")
    assert str(tmp_path / "x/y.pdf") in capsys.readouterr().out
    assert (tmp_path / "x/y.pdf").is_file()
    assert "metrics.csv" in refusal("curves", tmp_path)


@pytest.mark.slow
def test_confusion_takes_a_checkpoint_or_its_numbers(checkpoint, tmp_path):
    numbers = tmp_path / "n.json"
    eval_script.main([str(checkpoint), "--json", str(numbers), "--workers", "0"])
    draw("confusion", checkpoint, "--output", tmp_path / "a")
    draw("confusion", "--json", numbers, "--output", tmp_path / "b")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert "either" in refusal("confusion")
    assert "either" in refusal("confusion", checkpoint, "--json", numbers)


def test_bad_flags_are_refused(checkpoint):
    assert "--count is 0" in refusal("fig1", checkpoint, "--count", 0)
    assert "--image-size is 5" in refusal("fig1", checkpoint, "--image-size", 5)
    assert "fig9" in refusal("fig9")
