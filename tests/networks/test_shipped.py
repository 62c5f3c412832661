"""The weights that come with this project: intact, described, and of use to the scripts.

How good they are is measured on real faces, not here: models/README.md.
"""

from __future__ import annotations

import json
import re

import pytest
import torch

import eval as eval_script
from common.download import file_sha256
from datasets import DATASETS
from networks import load_model
from networks.pretrained import SHIPPED, shipped_weights
from results.trained import read_trained
from tests.support.layouts import write_ferplus_images
from tests.support.scripts import load, run_script

LISTED = {
    name: digest
    for digest, name in re.findall(
        r"^([0-9a-f]{64})  (\S+)$", (SHIPPED / "README.md").read_text(), re.MULTILINE
    )
}


def test_every_file_is_listed_with_its_checksum():
    assert LISTED
    assert {path.name: file_sha256(path) for path in SHIPPED.glob("*.pth")} == LISTED


@pytest.mark.parametrize("name", LISTED)
def test_a_file_says_what_it_is(name):
    content = load(SHIPPED / name)
    trained = read_trained(SHIPPED / name)
    assert tuple(trained.class_names()) == DATASETS[trained.dataset].classes
    assert len(content["metrics"]) == trained.epoch == content["settings"]["epochs"]
    assert re.fullmatch("[0-9a-f]{12}", content["commit"])
    assert (SHIPPED / name).stat().st_size < 40e6
    image = torch.randn(1, 3, trained.image_size, trained.image_size)
    with torch.no_grad():
        assert torch.isfinite(load_model(SHIPPED / name)(image).logits).all()


@pytest.mark.parametrize("arch", ["dan", "resnet18"])
def test_torch_hub_gives_them(arch):
    model = torch.hub.load(str(SHIPPED.parent), arch, source="local", weights="ferplus")
    image, same = torch.randn(1, 3, 64, 64), load_model(SHIPPED / f"{arch}_ferplus.pth")
    with torch.no_grad():
        assert torch.equal(model(image).logits, same(image).logits)


@pytest.mark.slow
@pytest.mark.parametrize("name", LISTED)
def test_eval_takes_them_and_their_temperature(name, tmp_path):
    root, content = write_ferplus_images(tmp_path / "data"), load(SHIPPED / name)
    eval_script.main([str(SHIPPED / name), "--data", str(root), "--json", str(tmp_path / "n.json")])
    numbers = json.loads((tmp_path / "n.json").read_text())
    assert (numbers["images"], numbers["classes"]) == (2, list(DATASETS["ferplus"].classes))
    assert numbers["calibration"]["after"]["temperature"] == content["temperature"] < 1


@pytest.mark.slow
def test_they_are_what_predict_takes(data, tmp_path):
    faces = sorted((data / "Image/aligned").glob("*"))[:3]
    result = run_script("predict.py", *faces, "--detector", "none", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert str(shipped_weights()) in result.stderr
    assert "neutral" in result.stdout
