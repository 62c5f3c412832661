"""tools.calibrate: the faces it takes, what it writes, what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from common.errors import InputError
from datasets import RAFDB, transforms
from engine.data import chosen_images
from networks import ResNet18
from results.calibration import fit_temperature
from results.trained import read_trained
from tests.support.scripts import CLASSES, SIZE, differences, load
from tools import calibrate

OURS = {"dataset": "rafdb", "class_names": list(RAFDB.classes), "iter": 3}


def checkpoint(folder: Path, **settings: object) -> Path:
    """A ResNet-18 of a run on 21 training faces."""
    torch.manual_seed(0)
    network = ResNet18(CLASSES)
    network.fc.weight.data.mul_(20)
    held_out = round(21 * settings.get("holdout", 0.0))
    content = {"training_images": 21 - held_out, "settings": {"image_size": SIZE, **settings}}
    path = folder / "last.pth"
    torch.save({"model_state_dict": network.state_dict(), **OURS, **content}, path)
    return path


def run(path: Path, data: Path, *flags: object) -> None:
    always = ["--data", data, "--device", "cpu", "--workers", 0]
    calibrate.main([str(word) for word in (path, *always, *flags)])


def test_the_temperature_is_that_of_the_held_out_faces(data, tmp_path, capsys):
    path = checkpoint(tmp_path, holdout=0.4)
    before = load(path)
    run(path, data)
    after = load(path)
    dataset = RAFDB(data, "train", transforms.evaluation(SIZE))
    _, held_out = chosen_images(dataset.labels, 0.4, 0)
    assert len(held_out) == 8
    with torch.no_grad():
        images = torch.stack([dataset[i].image for i in held_out])
        logits = read_trained(path).network.eval()(images).logits
    labels = torch.tensor([dataset.labels[i] for i in held_out])
    temperature = after.pop("temperature")
    assert temperature == pytest.approx(fit_temperature(logits, labels), rel=1e-3)
    assert read_trained(path).temperature == temperature
    assert differences(before, after) == []
    shown = capsys.readouterr().out
    assert shown.startswith(f"8 faces of {data}\n")
    assert "seen" not in shown
    assert shown.index("before  calibration error") < shown.index("after   calibration error")


def test_faces_of_a_run_that_held_out_none_have_been_seen(data, tmp_path, capsys):
    path = checkpoint(tmp_path)
    run(path, data, "--holdout", 0.4)
    assert "8 faces" in capsys.readouterr().out.splitlines()[0]
    run(path, data, "--holdout", 0.4)
    assert "which the network has seen in training" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "flags", "words"),
    [
        ({}, (), "held out 0 of its training faces; give --holdout 0.1"),
        ({"holdout": 0.4}, ("--holdout", 0.1), "held out 0.4 .*; leave --holdout out"),
        ({}, ("--holdout", 1), "--holdout is 1.0; expected 0 up to, not including, 1"),
        ({}, ("--dataset", "sfew"), "do not fit sfew"),
        ({"fold": "1/3"}, (), "held fold 1/3 out to be evaluated on; a temperature needs faces"),
    ],
)
def test_what_does_not_fit_is_refused_and_the_file_left(data, tmp_path, settings, flags, words):
    path = checkpoint(tmp_path, **settings)
    before = path.read_bytes()
    with pytest.raises(InputError, match=words):
        run(path, data, *flags)
    assert path.read_bytes() == before


def test_other_data_than_the_runs_are_refused(data, tmp_path):
    path = checkpoint(tmp_path, holdout=0.4)
    torch.save({**load(path), "training_images": 100}, path)
    with pytest.raises(InputError, match=r"trained on 100 images, .* now gives 13; give the data"):
        run(path, data)
