"""Accuracy by pose: counted by hand, with and without a predicted pose."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from common.errors import InputError
from datasets import RAFDB
from engine.evaluate import Predictions
from results.poses import pose_logits_of, pose_metrics, pose_text, yaws_for
from tests.support.scripts import write_rafdb

pytestmark = pytest.mark.filterwarnings("ignore:.*published are")


class Output(NamedTuple):
    """With a pose."""

    logits: Tensor
    pose_logits: Tensor


class Posed(nn.Module):
    """Takes its input for both logits; its bins are -90..-20, -20..20, 20..90."""

    pose_edges = torch.tensor([-20.0, 20.0])

    def forward(self, logits: Tensor) -> Output:
        return Output(logits, logits[:, :3])


def poses(root: Path, yaws: list[float]) -> RAFDB:
    """A test split with these yaws."""
    data = write_rafdb(root, train=7, test=len(yaws))
    names = [f"Image/aligned/test_{i:04d}_aligned.jpg" for i in range(1, len(yaws) + 1)]
    rows = [f"{name},{yaw}" for name, yaw in zip(names, yaws, strict=True)]
    (data / "poses.csv").write_text("\n".join(["image,yaw", *rows]))
    return RAFDB(data, "test")


def test_images_and_accuracy_of_each_bin(tmp_path):
    dataset = poses(tmp_path / "data", [-50, -30, 0, 10, 19, 20, 0])
    # Image 6 was skipped; the third of the others is wrong.
    logits = torch.eye(7)[[0, 1, 0, 3, 4, 5]]
    predictions = Predictions(logits, torch.arange(6), list(range(6)))
    network = Posed()
    with pose_logits_of(network) as found:
        network(logits[:4]), network(logits[4:])
    network(logits)  # not any more
    assert sum(map(len, found)) == 6
    content = pose_metrics(network, yaws_for(network, dataset), predictions, found)
    assert [row["degrees"] for row in content["bins"]] == [[-90, -20], [-20, 20], [20, 90]]
    assert [row["images"] for row in content["bins"]] == [2, 3, 1]
    shares = [row["accuracy"] for row in content["bins"]]
    assert shares == pytest.approx([1, 2 / 3, 1])
    # The poses 0 0 1 1 1 2, taken for 0 1 0 0 0 0.
    assert content["pose_accuracy"] == pytest.approx(1 / 6)
    text = pose_text(content)
    assert "pose accuracy        16.67 %" in text
    assert " -20 to 20         3   66.67 %" in text


def test_a_network_without_a_pose_has_the_usual_bins(tmp_path):
    dataset = poses(tmp_path / "data", [0, 0, 0, 0, 0, 0, 60])
    predictions = Predictions(torch.eye(7), torch.arange(7), list(range(7)))
    network = nn.Identity()
    with pose_logits_of(network) as found:
        network(torch.eye(7))
    content = pose_metrics(network, yaws_for(network, dataset), predictions, found)
    assert [row["images"] for row in content["bins"]] == [0, 0, 6, 0, 1]
    assert content["bins"][0]["accuracy"] is None
    assert "pose_accuracy" not in content
    assert "pose accuracy" not in pose_text(content)


def test_data_without_a_yaw_have_no_poses(tmp_path):
    dataset = RAFDB(write_rafdb(tmp_path / "data", train=7, test=7), "test")
    predictions = Predictions(torch.eye(7), torch.arange(7), list(range(7)))
    yaws = yaws_for(nn.Identity(), dataset)
    assert yaws is None
    assert pose_metrics(nn.Identity(), yaws, predictions, []) is None


def test_yaws_of_other_images_end_the_evaluation_of_a_network_with_poses_alone(tmp_path, capsys):
    dataset = poses(tmp_path / "data", [0] * 7)
    table = tmp_path / "data/poses.csv"
    table.write_text(table.read_text().replace("test_", "train_"))
    assert yaws_for(nn.Identity(), dataset) is None
    assert "no accuracy by pose: " in (said := capsys.readouterr().out)
    assert "no yaw for 7 of 7 images of the split test" in said
    with pytest.raises(InputError, match="no yaw for 7 of 7"):
        yaws_for(Posed(), dataset)
