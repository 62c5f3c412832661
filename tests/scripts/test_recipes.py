"""The recipes against the paper and the release, and short runs of each."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from functools import partial

import pandas as pd
import pytest
import torch
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import ExponentialLR, StepLR

import eval as eval_script
import train_affectnet
import train_fer2013
import train_rafdb
import train_sfew
from common.errors import InputError
from common.flags import parse_flags, settings
from datasets import DATASETS, FER2013, RAFDB, SFEW, AffectNet7, AffectNet8, FERPlus, transforms
from engine.checkpoint import load_checkpoint
from engine.data import chosen_images
from engine.optim import shuffle
from engine.recipe import Recipe, flags_that_may_change
from engine.train import train
from networks import Method
from networks.backbone import MSCELEB
from networks.rivals import RIVALS
from results import published_for
from results.trained import open_dataset, read_trained
from tests.support.layouts import (
    write_annotations,
    write_class_folders,
    write_csv,
    write_ferplus_images,
    write_sfew,
)
from tools.calibrate import held_out_images

pytestmark = pytest.mark.filterwarnings("ignore:.*published are", "ignore:DAN from random")

RAFDB_RECIPE, AFFECTNET = train_rafdb.RECIPE, train_affectnet.RECIPE
SFEW_RECIPE, FER2013_RECIPE = train_sfew.RECIPE, train_fer2013.RECIPE

# ---- what the paper and the release say

#: What differs between the recipes: the table of the paper and the release, as settings.
PINNED = {
    "rafdb": {
        "epochs": 40,
        "batch_size": 256,
        "lr": 0.1,
        "optimizer": "SGD(momentum=0.9, weight_decay=0.0001)",
        "scheduler": "StepLR(step_size=10, gamma=0.1)",
        "sampling": "shuffle",
        "image_size": 224,
        "amp": "off",
    },
    "affectnet": {
        "epochs": 40,
        "batch_size": 256,
        "lr": 1e-4,
        "optimizer": "Adam(weight_decay=0.0)",
        "scheduler": "ExponentialLR(gamma=0.6)",
        "sampling": "balanced",
        "image_size": 224,
        "amp": "off",
        "classes": "8",
        "layout": "auto",
        "box_margin": 0.0,
    },
    "sfew": {
        "epochs": 40,
        "batch_size": 16,
        "lr": 1e-3,
        "optimizer": "Adam(weight_decay=0.0)",
        "scheduler": "ExponentialLR(gamma=0.6)",
        "sampling": "shuffle",
        "image_size": 224,
        "amp": "off",
    },
    "fer2013": {
        "epochs": 6,
        "batch_size": 128,
        "lr": 3e-4,
        "optimizer": "AdamW(weight_decay=0.05)",
        "scheduler": "cosine",
        "sampling": "shuffle",
        "image_size": 64,
        "amp": "auto",
        "labels": "fer2013",
        "votes": "majority",
        "augmentation": "basic",
    },
}
#: What all recipes share: the paper's method, and no ablation.
SHARED = {
    "arch": "dan",
    "heads": 4,
    "fusion": "log-softmax",
    "head_scale": "none",
    "pretrained": MSCELEB,
    "fcn_loss": "affinity",
    "partition": "eq6",
    "lambda1": 1.0,
    "lambda2": 1.0,
    "center_weight": 0.002,
    "label_smoothing": 0.0,
    "mixup": 0.0,
    "warmup": 0,
    "backbone_lr": 1.0,
    "ema": 0.0,
    "grow": "",
    **{name: value for kind in RIVALS.values() for name, value in settings(kind()).items()},
    "holdout": 0.0,
    "fold": "",
    "limit": 0,
    "label_noise": 0.0,
    "noise_seed": 0,
    "noisy_labels": "",
    "seed": 0,
}


@pytest.mark.parametrize("recipe", [RAFDB_RECIPE, AFFECTNET, SFEW_RECIPE, FER2013_RECIPE])
def test_recipes_are_the_papers_and_the_releases(recipe):
    theirs = settings(recipe)
    assert {name: theirs[name] for name in theirs if name not in flags_that_may_change()} == {
        **PINNED[recipe.name],
        **SHARED,
        **({"layout": "auto"} if recipe.name == "affectnet" else {}),
    }


def test_recipes_name_their_data_and_their_transforms():
    found = [(recipe.dataset, recipe.train_transform) for recipe in (RAFDB_RECIPE, SFEW_RECIPE)]
    assert found == [(RAFDB, transforms.rafdb_train), (SFEW, transforms.sfew_train)]
    for recipe, kind in ((AFFECTNET, AffectNet8), (FER2013_RECIPE, FER2013)):
        assert recipe.dataset.dataset is kind
    assert AFFECTNET.train_transform is transforms.affectnet_train
    made, expected = FER2013_RECIPE.train_transform(64), transforms.fer2013_train(64)
    assert repr(made) == repr(expected)


def test_optimisers_and_schedules_are_torchs_with_the_releases_values():
    parameter = torch.nn.Parameter(torch.zeros(1))
    sgd = RAFDB_RECIPE.optimizer([parameter], lr=0.1)
    adam = AFFECTNET.optimizer([parameter], lr=0.1)
    assert (type(sgd), type(adam)) == (SGD, Adam)
    assert adam.defaults["betas"] == (0.9, 0.999)
    assert type(RAFDB_RECIPE.make_scheduler(sgd)) is StepLR
    assert type(AFFECTNET.make_scheduler(adam)) is ExponentialLR


def test_every_data_set_has_a_name_and_the_papers_numbers():
    assert set(DATASETS) == {"rafdb", "affectnet7", "affectnet8", "sfew", "fer2013", "ferplus"}
    expected = {"affectnet8": 62.09, "affectnet7": 65.69, "sfew": 57.88}
    for name, percent in expected.items():
        assert [number.percent for number in published_for(name, "DAN")] == [percent]


# ---- flags


@pytest.mark.parametrize(("given", "kind"), [("7", AffectNet7), ("8", AffectNet8)])
def test_classes_choose_the_data_set(given, kind):
    recipe = parse_flags(AFFECTNET, "", ["--classes", given, "--layout", "csv"])
    assert recipe.dataset.dataset is kind
    assert recipe.dataset.layout == "csv"
    assert settings(recipe)["classes"] == given
    assert "layout" not in settings(recipe, result_only=True)


@pytest.mark.slow
def test_sampling_is_a_flag():
    recipe = parse_flags(AFFECTNET, "", ["--sampling", "shuffle"])
    assert recipe.sampling is shuffle
    assert settings(recipe)["sampling"] == "shuffle"
    with pytest.raises((InputError, SystemExit)):
        parse_flags(AFFECTNET, "", ["--sampling", "sorted"])


# ---- short runs

SMALL = (
    *("--arch", "resnet18", "--pretrained", "none", "--image-size", "32", "--epochs", "1"),
    *("--batch-size", "8", "--workers", "0", "--device", "cpu"),
)


def run(recipe: Recipe, *flags: object) -> dict:
    """Train; returns the checkpoint."""
    chosen = parse_flags(recipe, "", [*SMALL, *map(str, flags)])
    train(chosen)
    return load_checkpoint(chosen.run_folder() / "last.pth")


def evaluated(path, *flags: object) -> dict:
    """What eval.py writes as json."""
    result = path.parent / "result.json"
    eval_script.main([str(path), "--workers", "0", "--json", str(result), *map(str, flags)])
    return json.loads(result.read_text())


@pytest.mark.parametrize(
    ("write", "layout"),
    [(write_annotations, "annotations"), (write_class_folders, "folders"), (write_csv, "csv")],
)
@pytest.mark.slow
def test_train_affectnet_and_eval_read_every_layout(write, layout, tmp_path, capsys):
    root = write(tmp_path / "data")
    content = run(AFFECTNET, "--data", root, "--output", tmp_path / "run", "--box-margin", 0.25)
    assert content["dataset"] == "affectnet8"
    assert content["class_names"] == list(AffectNet8.classes)
    shown = capsys.readouterr().out
    assert f"10 training and 3 val images from the layout '{layout}'" in shown
    result = evaluated(tmp_path / "run/last.pth")
    assert (result["dataset"], result["split"], result["layout"]) == ("affectnet8", "val", layout)
    for key in ("accuracy", "mean_class_accuracy"):
        assert result[key] == content["metrics"][0][key]
    assert result["paper"] == []  # three images are not the published split


@pytest.mark.slow
def test_eval_cuts_faces_out_as_in_training(tmp_path):
    """--box-margin comes from the checkpoint, so that the faces are as large as then."""
    root = write_csv(tmp_path / "data")
    run(AFFECTNET, "--data", root, "--output", tmp_path / "run", "--box-margin", 0.25)
    assert open_dataset(read_trained(tmp_path / "run/last.pth")).box_margin == 0.25


@pytest.mark.slow
def test_seven_classes_train_and_evaluate(tmp_path):
    root = write_class_folders(tmp_path / "data")
    content = run(AFFECTNET, "--classes", 7, "--data", root, "--output", tmp_path / "run")
    assert content["model_state_dict"]["fc.weight"].shape == (7, 512)
    assert evaluated(tmp_path / "run/last.pth")["images"] == 2
    other = evaluated(tmp_path / "run/last.pth", "--dataset", "affectnet8")
    assert other["class_map"]["images_left_out"] == {"Contempt": 1}
    assert other["images"] == 2


@pytest.mark.slow
def test_train_sfew_and_eval(tmp_path):
    root = write_sfew(tmp_path / "data")
    content = run(SFEW_RECIPE, "--data", root, "--output", tmp_path / "run")
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert (config["evaluated_split"], config["layout"]) == ("val", "aligned faces")
    result = evaluated(tmp_path / "run/last.pth")
    assert (result["split"], result["images"]) == ("val", 7)
    assert result["accuracy"] == content["metrics"][0]["accuracy"]


@pytest.mark.parametrize("votes", ["majority", "soft"])
@pytest.mark.slow
def test_train_fer2013_on_ferplus_and_eval(votes, tmp_path):
    root = write_ferplus_images(tmp_path / "data")
    flags = ("--labels", "ferplus", "--votes", votes, "--data", root, "--output", tmp_path / "run")
    content = run(FER2013_RECIPE, *flags)
    assert content["dataset"] == "ferplus"
    with (tmp_path / "run/metrics.csv").open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert float(row["cls"]) > 0
    result = evaluated(tmp_path / "run/last.pth")
    assert (result["dataset"], result["split"], result["images"]) == ("ferplus", "test", 2)


@pytest.mark.slow
def test_dan_trains_on_soft_votes_with_all_losses(tmp_path):
    root = write_ferplus_images(tmp_path / "data")
    flags = ("--labels", "ferplus", "--votes", "soft", "--data", root, "--arch", "dan")
    content = run(FER2013_RECIPE, *flags, "--heads", 2, "--output", tmp_path / "run")
    assert {"cls", "affinity", "partition"} < set(content["metrics"][0])


@pytest.mark.slow
def test_held_out_images_without_a_majority_are_not_evaluated(tmp_path):
    root = write_ferplus_images(tmp_path / "data")
    table = pd.read_csv(root / "ferplus_votes.csv")
    row = table.columns.drop(["image", "usage"])
    table.loc[1, row] = table.loc[3, row]  # anger has most, but not half of the votes
    table.to_csv(root / "ferplus_votes.csv", index=False)
    flags = ("--labels", "ferplus", "--votes", "soft", "--data", root, "--holdout", 0.5)
    content = run(FER2013_RECIPE, *flags, "--output", tmp_path / "run")
    dataset = FERPlus(root, "train", votes="soft")
    chosen, held_out = chosen_images(dataset.labels, 0.5, 0)
    assert (len(chosen), held_out) == (2, [0, 1])
    evaluated = pd.read_csv(tmp_path / "run/predictions.csv")
    assert evaluated["index"].tolist() == [0]
    trained = read_trained(tmp_path / "run/last.pth")
    assert held_out_images(trained, dataset, 0.0, content["training_images"]) == [0]


@pytest.mark.slow
def test_a_released_file_is_evaluated_on_its_data_set(tmp_path, monkeypatch):
    """Named as released, 'affecnet' spelled so; only the weights are in it."""
    monkeypatch.setattr(AffectNet7, "published_counts", {"val": ((1, 1, 0, 0, 0, 0, 0),)})
    torch.manual_seed(0)
    network = Method(pretrained="none").network(7)
    path = tmp_path / "affecnet7_epoch6_acc0.6569.pth"
    torch.save({"iter": 6, "model_state_dict": network.state_dict()}, path)
    root = write_annotations(tmp_path / "data")
    result = evaluated(path, "--data", root, "--image-size", 32)
    assert (result["dataset"], result["epoch"], result["images"]) == ("affectnet7", 6, 2)
    assert result["paper"][0]["paper_percent"] == 65.69


@pytest.mark.slow
def test_eval_takes_a_layout(tmp_path):
    root = write_annotations(write_class_folders(tmp_path / "data"))
    flags = ("--data", root, "--layout", "folders", "--output", tmp_path / "run")
    run(AFFECTNET, *flags)
    path = tmp_path / "run/last.pth"
    assert evaluated(path)["layout"] == "folders"  # as trained
    assert evaluated(path, "--layout", "annotations")["layout"] == "annotations"
    with pytest.raises(InputError, match="choose one with --layout"):
        evaluated(path, "--data", root)
    with pytest.raises(InputError, match="has no layouts to choose from"):
        open_dataset(
            replace(read_trained(path), dataset="sfew", classes=[*SFEW.classes]), layout="x"
        )


def test_a_partial_stands_for_the_flag_in_the_settings():
    """Settings are plain, so that a checkpoint holds no code."""
    plain = settings(AFFECTNET)
    assert plain["optimizer"] == "Adam(weight_decay=0.0)"
    assert plain["sampling"] == "balanced"
    assert isinstance(AFFECTNET.optimizer, partial)
