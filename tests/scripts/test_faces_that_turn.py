"""FERAtt with masks, PhaNet-style with poses: trained and evaluated."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import eval as eval_script
from common.errors import InputError
from datasets.demo import write_feratt, write_rafdb
from engine.train import build, train_one_epoch
from networks import Method
from tests.support.scripts import small_recipe, train_tiny
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


def test_poses_that_do_not_fit_end_the_run_before_it_begins(turned, tmp_path):
    data = shutil.copytree(turned, tmp_path / "data")
    poses = data / "poses.csv"
    poses.write_text(poses.read_text().replace(".jpg", ".png"))
    with pytest.raises(InputError, match=r"poses.csv has no yaw for 28 of 28 images"):
        build(small_recipe(data, tmp_path / "run", "--arch", "phanet", recipe=RIVALS))


def test_feratt_trains_on_masks(tmp_path):
    """One epoch without a checkpoint, which would have half a gigabyte."""
    data = tmp_path / "data"
    write_feratt(data, train=14, test=7, size=32)
    run = build(small_recipe(data, tmp_path / "run", "--arch", "feratt", recipe=RIVALS))
    means = train_one_epoch(run, 1)
    assert list(means) == ["loss", "cls", "representation", "attention"]
    parts = means["cls"] + means["representation"] + means["attention"]
    assert means["loss"] == pytest.approx(parts, rel=1e-5)
    assert 0 < means["attention"] < 10


def test_a_missing_mask_ends_the_run_before_it_begins(tmp_path):
    data = tmp_path / "data"
    write_feratt(data, train=7, test=7, size=32)
    (data / "masks/Image/aligned/train_00003_aligned.png").unlink()
    with pytest.raises(InputError, match=r"masks.*00003_aligned.png does not exist"):
        build(small_recipe(data, tmp_path / "run", "--arch", "feratt", recipe=RIVALS))
