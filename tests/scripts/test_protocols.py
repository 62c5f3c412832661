"""eval.py --subset, another --dataset, --corruptions: against predictions made here."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from networks import ResNet18
from tests.scripts.test_eval import OURS, evaluate, logits_of, refusal, save, varied
from tests.support.scripts import CLASSES, assert_refused, run_script

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def baseline(data) -> nn.Module:
    torch.manual_seed(0)
    return varied(ResNet18(CLASSES), data)


@pytest.fixture(scope="module")
def ours(baseline, tmp_path_factory) -> Path:
    """A checkpoint of ours for RAF-DB."""
    return save(tmp_path_factory.mktemp("weights") / "x.pth", baseline, **OURS)


# --------------------------------------------------------------------------------------------
# Subsets


def test_each_list_has_its_row_beside_the_whole_split(baseline, ours, data, tmp_path, capsys):
    occluded, turned = tmp_path / "occluded.txt", tmp_path / "turned.txt"
    occluded.write_text("".join(f"test_{i + 1:04}_aligned {i % 7} 1\n" for i in (1, 4, 4, 12)))
    turned.write_text("3 7\n6/test_0007_aligned.jpg\n5/test_0001_aligned.jpg\n1/other.jpg\n")
    flags = ("--subset", occluded, turned, "--report", tmp_path / "report")
    content = evaluate(ours, data, *flags)
    shown = capsys.readouterr().out
    logits, labels = logits_of(baseline, data)
    right = (logits.argmax(dim=1) == labels).double()
    for row, path, images in zip(
        content["subsets"], (occluded, turned), ([1, 4, 12], [0, 6]), strict=True
    ):
        assert row["list"] == str(path)
        assert row["images"] == len(images)
        assert row["accuracy"] == pytest.approx(right[images].mean().item())
        cells = next(line for line in shown.splitlines() if line.startswith(f"{path} ")).split()
        low, high = (f"{100 * end:.2f}" for end in row["accuracy_interval_95"])
        mean = f"{100 * row['mean_class_accuracy']:.2f}"
        assert cells[1:] == [
            f"{len(images)}",
            f"{100 * row['accuracy']:.2f}",
            low,
            "to",
            high,
            mean,
        ]
    assert content["images"] == 14
    assert content["accuracy"] == pytest.approx(right.mean().item())
    assert f"{occluded}: 1 of 4 lines name an image again" in shown
    assert f"{turned}: 1 of 3 lines name no image of this split; the first: line 4" in shown
    assert f"{turned}: 1 of 3 lines have another label" in shown
    page = (tmp_path / "report/index.html").read_text()
    assert "<h2>Subsets</h2>" in page
    assert "whole split" in page
    assert "1 name no image of this split" in page


def test_lists_of_other_data_sets_are_refused_in_one_line(ours, data, tmp_path):
    path = tmp_path / "ferplus.txt"
    path.write_text("3/fer0034656.png\n")
    result = run_script("eval.py", ours, "--data", data, "--subset", path, cwd=tmp_path)
    assert_refused(result, "none of the 1 lines", "fer0034656", "rafdb test", "test_0001")
    path.write_text("\n")
    assert "names no image" in refusal(ours, "--data", data, "--subset", path)
