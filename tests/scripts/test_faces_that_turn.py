"""FERAtt with masks, PhaNet-style with poses: trained, evaluated, drawn."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import eval as eval_script
from common.errors import InputError
from datasets.demo import write_feratt, write_rafdb
from engine.train import build, train_one_epoch
from networks import Method
from tests.support.scripts import assert_refused, run_script, small_recipe, train_tiny
from tools import figures
from train_rafdb import RECIPE

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*published are")]
RIVALS = replace(RECIPE, method=Method())


@pytest.fixture(scope="module")
def turned(tmp_path_factory) -> Path:
    """Synthetic faces with poses."""
    root = tmp_path_factory.mktemp("turned") / "data"
    write_rafdb(root, train=28, test=14, turn=80)
    return root


def test_phanet_trains_on_poses_and_is_evaluated_by_pose(turned, tmp_path, capsys):
    flags = ("--arch", "phanet", "--phanet-pose-edges", "30", "--epochs", 2)
    content = train_tiny(turned, tmp_path / "run", *flags, recipe=RIVALS)
    assert (content["criterion_state_dict"]["log_weights"] != 0).all()
    checkpoint = tmp_path / "run/last.pth"
    words = [checkpoint, "--data", turned, "--workers", 0, "--json", tmp_path / "numbers.json"]
    eval_script.main([str(word) for word in words])
    poses = json.loads((tmp_path / "numbers.json").read_text())["poses"]
    assert [row["degrees"] for row in poses["bins"]] == [[-90, -30], [-30, 30], [30, 90]]
    assert sum(row["images"] for row in poses["bins"]) == 14
    assert 0 <= poses["pose_accuracy"] <= 1
    assert "pose accuracy" in capsys.readouterr().out
    for kind in ("gradcam", "spatial"):
        sheet = tmp_path / f"{kind}"
        drawn = ["fig1", checkpoint, "--map", kind, "--count", 2, "--output", sheet]
        figures.main([str(word) for word in [*drawn, "--data", turned]])
        assert sheet.with_suffix(".png").stat().st_size > 1000


def test_poses_that_do_not_fit_end_the_run_in_one_line(turned, tmp_path):
    poses = turned / "poses.csv"
    text = poses.read_text()
    try:
        poses.write_text(text.replace(".jpg", ".png"))
        flags = ["--data", turned, "--arch", "phanet", "--pretrained", "none"]
        result = run_script("train_rafdb.py", *flags, cwd=tmp_path)
    finally:
        poses.write_text(text)
    assert_refused(result, "poses.csv has no yaw for 28 of 28 images")
    assert not list(tmp_path.rglob("*.pth"))


def test_feratt_trains_on_masks_and_is_drawn(tmp_path):
    """Without checkpoints in between: half a gigabyte each."""
    data = tmp_path / "data"
    write_feratt(data, train=28, test=14, size=64)
    flags = ("--arch", "feratt", "--image-size", 64)
    run = build(small_recipe(data, tmp_path / "run", *flags, recipe=RIVALS))
    first, last = (train_one_epoch(run, epoch) for epoch in (1, 2))
    assert list(first) == ["loss", "cls", "representation", "attention"]
    assert last["attention"] < first["attention"]
    settings = {"arch": "feratt", "image_size": 64, "data": str(data)}
    content = {"model_state_dict": run.network.state_dict(), "settings": settings, "iter": 2}
    torch.save({**content, "dataset": "rafdb"}, tmp_path / "last.pth")
    for kind in ("gradcam", "spatial"):
        words = ["fig1", tmp_path / "last.pth", "--map", kind, "--count", 2]
        figures.main([str(word) for word in [*words, "--output", tmp_path / kind]])
        assert (tmp_path / f"{kind}.png").stat().st_size > 1000


def test_a_missing_mask_ends_the_run_before_it_begins(tmp_path):
    data = tmp_path / "data"
    write_feratt(data, train=7, test=7, size=32)
    (data / "masks/Image/aligned/train_00003_aligned.png").unlink()
    with pytest.raises(InputError, match=r"masks.*00003_aligned.png does not exist"):
        build(small_recipe(data, tmp_path / "run", "--arch", "feratt", recipe=RIVALS))
