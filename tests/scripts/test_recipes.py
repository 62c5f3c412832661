"""AffectNet's and SFEW's recipes against the paper and the release, and short runs of each."""

from __future__ import annotations

import csv
import json
from dataclasses import fields
from functools import partial

import pytest
import torch
from engine.samplers import balanced, shuffle
from PIL import Image
from torch.optim import Adam
from torch.optim.lr_scheduler import ExponentialLR

import eval as eval_script
import train_affectnet
import train_fer2013
import train_sfew
from common.errors import InputError
from datasets import DATASETS, FER2013, SFEW, AffectNet7, AffectNet8, transforms
from engine.checkpoint import load_checkpoint
from engine.recipe import Recipe, parse_flags, settings
from engine.train import train
from networks import Method
from results import published_for
from tests.datasets.test_ferplus import write_images
from tests.support.layouts import write_annotations, write_class_folders, write_csv, write_sfew

pytestmark = pytest.mark.filterwarnings("ignore:.*published are", "ignore:DAN from random")

AFFECTNET, SFEW_RECIPE = train_affectnet.RECIPE, train_sfew.RECIPE

# ---- what the paper and the release say


def test_affectnet_is_the_papers_with_the_releases_details():
    recipe = AFFECTNET
    assert (recipe.lr, recipe.epochs, recipe.batch_size) == (1e-4, 40, 256)
    assert recipe.sampling is balanced
    assert recipe.image_size == 224
    optimizer = recipe.optimizer([torch.nn.Parameter(torch.zeros(1))], lr=recipe.lr)
    assert type(optimizer) is Adam
    assert optimizer.defaults["weight_decay"] == 0
    assert optimizer.defaults["betas"] == (0.9, 0.999)
    scheduler = recipe.make_scheduler(optimizer)
    assert type(scheduler) is ExponentialLR
    assert scheduler.gamma == 0.6
    assert recipe.method == Method()
    assert (recipe.dataset.dataset, recipe.dataset.layout) == (AffectNet8, "auto")


def test_sfew_differs_from_affectnet_in_what_the_paper_says():
    differing = {
        field.name
        for field in fields(Recipe)
        if getattr(AFFECTNET, field.name) != getattr(SFEW_RECIPE, field.name)
    }
    assert differing == {"name", "dataset", "train_transform", "batch_size", "lr", "sampling"}
    assert (SFEW_RECIPE.lr, SFEW_RECIPE.batch_size, SFEW_RECIPE.epochs) == (1e-3, 16, 40)
    assert SFEW_RECIPE.sampling is shuffle
    assert SFEW_RECIPE.dataset is SFEW


def test_the_other_recipes_shuffle():
    import train_rafdb

    assert train_rafdb.RECIPE.sampling is shuffle
    assert train_fer2013.RECIPE.sampling is shuffle
    assert train_fer2013.RECIPE.dataset.dataset is FER2013


@pytest.mark.parametrize(
    ("build", "probability", "erases"),
    [(transforms.affectnet_train, 0.7, True), (transforms.sfew_train, 0.5, False)],
)
def test_transforms_have_the_releases_values(build, probability, erases):
    resize, flip, apply, normalize, *erase = build().transforms
    (affine,) = apply.transforms
    assert tuple(resize.size) == (224, 224)
    assert (flip.p, apply.p) == (0.5, probability)
    assert tuple(affine.degrees) == (-20, 20)
    assert tuple(affine.translate) == (0.2, 0.2)
    assert tuple(affine.scale) == (0.8, 1.0)
    assert affine.shear is None
    assert isinstance(normalize, transforms.NormalizedTensor)
    assert len(erase) == erases
    if erases:
        assert (erase[0].p, tuple(erase[0].scale)) == (0.5, (0.02, 0.33))
        assert tuple(erase[0].ratio) == (0.3, 3.3)


@pytest.mark.parametrize(
    ("build", "moved", "erased"),
    [(transforms.affectnet_train, 0.7, 0.5), (transforms.sfew_train, 0.5, 0.0)],
)
def test_transforms_move_and_erase_as_often_as_they_say(build, moved, erased):
    """400 draws of a face that is white: the affine transform brings black in, erasing 0."""
    torch.manual_seed(0)
    transform, white = build(32), Image.new("RGB", (32, 32), "white")
    images = torch.stack([transform(white) for _ in range(400)])
    zeros = (images == 0).all(dim=1).flatten(1).any(dim=1)
    black = (images < 0).all(dim=1).flatten(1).any(dim=1)
    assert zeros.float().mean().item() == pytest.approx(erased, abs=0.08)
    # A few moves are too small to show.
    assert moved - 0.15 < black.float().mean().item() < moved + 0.08


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
    assert result["paper"][0]["paper_percent"] == 56.84


def test_eval_cuts_faces_out_as_in_training(tmp_path):
    """--box-margin comes from the checkpoint, so that the faces are as large as then."""
    root = write_csv(tmp_path / "data")
    run(AFFECTNET, "--data", root, "--output", tmp_path / "run", "--box-margin", 0.25)
    trained = eval_script.read_trained(tmp_path / "run/last.pth")
    args = eval_script.parse_arguments([str(tmp_path / "run/last.pth")])
    assert eval_script.open_dataset(trained, args).box_margin == 0.25


def test_seven_classes_train_and_evaluate(tmp_path):
    root = write_class_folders(tmp_path / "data")
    content = run(AFFECTNET, "--classes", 7, "--data", root, "--output", tmp_path / "run")
    assert content["model_state_dict"]["fc.weight"].shape == (7, 512)
    assert evaluated(tmp_path / "run/last.pth")["images"] == 2
    with pytest.raises(InputError, match="do not fit affectnet8"):
        evaluated(tmp_path / "run/last.pth", "--dataset", "affectnet8")


def test_train_sfew_and_eval(tmp_path):
    root = write_sfew(tmp_path / "data")
    content = run(SFEW_RECIPE, "--data", root, "--output", tmp_path / "run")
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert (config["evaluated_split"], config["layout"]) == ("val", "aligned faces")
    result = evaluated(tmp_path / "run/last.pth")
    assert (result["split"], result["images"]) == ("val", 7)
    assert result["accuracy"] == content["metrics"][0]["accuracy"]


@pytest.mark.parametrize("votes", ["majority", "soft"])
def test_train_fer2013_on_ferplus_and_eval(votes, tmp_path):
    root = write_images(tmp_path / "data")
    flags = ("--labels", "ferplus", "--votes", votes, "--data", root, "--output", tmp_path / "run")
    content = run(train_fer2013.RECIPE, *flags)
    assert content["dataset"] == "ferplus"
    with (tmp_path / "run/metrics.csv").open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert float(row["cls"]) > 0
    result = evaluated(tmp_path / "run/last.pth")
    assert (result["dataset"], result["split"], result["images"]) == ("ferplus", "test", 2)


def test_dan_trains_on_soft_votes_with_all_losses(tmp_path):
    root = write_images(tmp_path / "data")
    flags = ("--labels", "ferplus", "--votes", "soft", "--data", root, "--arch", "dan")
    content = run(train_fer2013.RECIPE, *flags, "--heads", 2, "--output", tmp_path / "run")
    assert {"cls", "affinity", "partition"} < set(content["metrics"][0])


def test_held_out_images_with_soft_votes_are_scored_by_their_majority(tmp_path):
    root = write_images(tmp_path / "data")
    flags = ("--labels", "ferplus", "--votes", "soft", "--data", root, "--holdout", 0.5)
    (row,) = run(train_fer2013.RECIPE, *flags, "--output", tmp_path / "run")["metrics"]
    assert 0 <= row["accuracy"] <= 1


def test_a_released_file_is_evaluated_on_its_data_set(tmp_path):
    """Named as released, 'affecnet' spelled so; only the weights are in it."""
    torch.manual_seed(0)
    network = Method(pretrained="none").network(7)
    path = tmp_path / "affecnet7_epoch6_acc0.6569.pth"
    torch.save({"iter": 6, "model_state_dict": network.state_dict()}, path)
    root = write_annotations(tmp_path / "data")
    result = evaluated(path, "--data", root, "--image-size", 32)
    assert (result["dataset"], result["epoch"], result["images"]) == ("affectnet7", 6, 2)
    assert result["paper"][0]["paper_percent"] == 65.69


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
        eval_script.dataset_options(SFEW, {}, eval_script.parse_arguments(["x", "--layout", "csv"]))


def test_a_partial_stands_for_the_flag_in_the_settings():
    """Settings are plain, so that a checkpoint holds no code."""
    plain = settings(AFFECTNET)
    assert plain["optimizer"] == "Adam(weight_decay=0.0)"
    assert plain["sampling"] == "balanced"
    assert isinstance(AFFECTNET.optimizer, partial)
