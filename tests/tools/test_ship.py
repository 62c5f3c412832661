"""tools.ship: what is in the file, and that it evaluates as the run's own checkpoint."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch

import eval as eval_script
from common.errors import InputError
from networks import load_model
from tests.support.scripts import CLASSES, load, run_script
from tools import ship


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """The folder of a short run of a ResNet-18."""
    folder = tmp_path_factory.mktemp("run")
    flags = ["--arch", "resnet18", "--pretrained", "none", "--epochs", "1", "--image-size", "32"]
    result = run_script(
        "train_rafdb.py", "--data", data, "--output", folder / "run", *flags, cwd=folder
    )
    assert result.returncode == 0, result.stderr
    return folder / "run"


def test_the_file_is_small_and_says_how_it_was_made(run, tmp_path, capsys):
    ship.main([str(run / "last.pth"), str(tmp_path / "small.pth"), "--commit", "abc"])
    small, whole = load(tmp_path / "small.pth"), load(run / "last.pth")
    assert small["commit"] == "abc"
    assert small["pretrained"] == "none"
    made = ("iter", "recipe", "dataset", "class_names", "framing", "metrics", "training_images")
    for key in made:
        assert small[key] == whole[key]
    dropped = {"data", "output", "pretrained", "noisy_labels"}
    assert set(whole["settings"]) - set(small["settings"]) == dropped
    assert not {key for key in small if key.endswith("_state_dict")} - {"model_state_dict"}
    for name, weight in whole["model_state_dict"].items():
        kind = torch.float16 if weight.dim() > 1 else weight.dtype
        torch.testing.assert_close(small["model_state_dict"][name], weight.to(kind), rtol=0, atol=0)
    path = tmp_path / "small.pth"
    assert path.stat().st_size < 0.51 * 4 * sum(
        w.numel() for w in whole["model_state_dict"].values()
    )
    assert hashlib.sha256(path.read_bytes()).hexdigest() in capsys.readouterr().out


def test_temperature_fold_and_the_backbones_file_are_in_it(run):
    content = {**load(run / "last.pth"), "temperature": 1.5, "fold_checksum": 7}
    content["settings"] = {**content["settings"], "pretrained": str(run / "best.pth")}
    small = ship.shipped(content, "abc")
    assert (small["temperature"], small["fold_checksum"]) == (1.5, 7)
    checksum = hashlib.sha256((run / "best.pth").read_bytes()).hexdigest()
    assert small["pretrained"] == f"best.pth, sha256 {checksum}"


def test_it_evaluates_as_the_checkpoint_does(run, data, tmp_path):
    ship.main([str(run / "last.pth"), str(tmp_path / "small.pth")])
    found = []
    for path in (run / "last.pth", tmp_path / "small.pth"):
        eval_script.main([str(path), "--data", str(data), "--json", str(tmp_path / "r.json")])
        found.append(json.loads((tmp_path / "r.json").read_text())["confusion_counts"])
    assert found[0] == found[1]
    ours, theirs = (load_model(path) for path in (tmp_path / "small.pth", run / "last.pth"))
    assert {weight.dtype for weight in ours.parameters()} == {torch.float32}
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        expected = theirs(images).logits
        torch.testing.assert_close(ours(images).logits, expected, rtol=0.01, atol=0.01)


def test_what_cannot_be_shipped(run):
    content = load(run / "last.pth")
    with pytest.raises(InputError, match="has no settings, class_names; expected one that"):
        ship.shipped({**content, "settings": {}, "class_names": []}, "abc")
    weights = {**content["model_state_dict"], "fc.weight": torch.full((CLASSES, 512), 1e6)}
    with pytest.raises(InputError, match=r"fc\.weight has a weight of 1e\+06, beyond half"):
        ship.shipped({**content, "model_state_dict": weights}, "abc")


def test_no_commit_is_known_outside_git(tmp_path, monkeypatch):
    monkeypatch.setattr(ship, "ROOT", tmp_path)
    with pytest.raises(InputError, match="give the commit with --commit"):
        ship.current_commit()
