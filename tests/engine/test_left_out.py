"""--on-bad-image: images that cannot be used are named, and counted where they are left out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from engine.loading import OrderedBatches, SeededImages, TrainingBatches, batches_on, make_loader

import eval as eval_script
from common.errors import InputError
from engine.train import make_loaders, train
from tests.support.scripts import assert_same_run, load, small_recipe, write_rafdb

pytestmark = pytest.mark.filterwarnings("ignore:.*published are")
SKIP = ("--on-bad-image", "skip")


@pytest.fixture
def data(tmp_path) -> Path:
    return write_rafdb(tmp_path / "data", train=21, test=14)


def image(data: Path, name: str) -> Path:
    return data / f"Image/aligned/{name}_aligned.jpg"


def damage(data: Path, *names: str) -> None:
    for name in names:
        path = image(data, name)
        path.write_bytes(path.read_bytes()[:200])


@pytest.mark.parametrize("split", ["train_00003", "test_0002"])
@pytest.mark.parametrize("workers", [0, 1])
def test_by_default_it_ends_the_run_by_name(data, tmp_path, split, workers):
    damage(data, split)
    with pytest.raises(InputError, match=f"{split}_aligned.jpg cannot be decoded"):
        train(small_recipe(data, tmp_path / "run", "--workers", workers))


def test_skipped_images_are_listed_at_the_end_of_every_epoch(data, tmp_path, capsys):
    damage(data, "train_00003", "train_00020", "test_0002")
    train(small_recipe(data, tmp_path / "run", *SKIP, "--epochs", 2))
    out = capsys.readouterr().out
    for epoch in (1, 2):
        assert f"2 training and 1 evaluated images were left out of epoch {epoch}" in out
        for name, part in (
            ("train_00003", "training"),
            ("train_00020", "training"),
            ("test_0002", "evaluation"),
        ):
            assert f"left out of {part} in epoch {epoch}: image {image(data, name)} cannot" in out
    written = (tmp_path / "run/left_out.txt").read_text()
    assert written.count("epoch 2") == 3
    assert load(tmp_path / "run/last.pth")["iter"] == 2


def test_many_are_counted_on_the_screen_and_listed_in_the_file(data, tmp_path, capsys):
    damage(data, *(f"train_{i:05d}" for i in range(1, 13)))
    train(small_recipe(data, tmp_path / "run", *SKIP))
    out = capsys.readouterr().out
    assert out.count("left out of training") == 10
    assert "12 training and 0 evaluated images" in out
    assert (tmp_path / "run/left_out.txt").read_text().count("left out of training") == 12


def test_without_bad_images_skip_changes_nothing(data, tmp_path):
    train(small_recipe(data, tmp_path / "skip", *SKIP))
    train(small_recipe(data, tmp_path / "stop"))
    for name in ("skip", "stop"):
        path = tmp_path / name / "last.pth"
        content = load(path)
        del content["settings"]["on_bad_image"]
        for file in ("last.pth", "best.pth"):
            torch.save(content, path.parent / file)
    assert_same_run(tmp_path / "skip", tmp_path / "stop")
    assert not (tmp_path / "skip/left_out.txt").exists()


def test_a_run_that_stopped_goes_on_with_skip(data, tmp_path):
    train(small_recipe(data, tmp_path / "run", "--epochs", 1))
    content = load(tmp_path / "run/last.pth")
    content["settings"]["epochs"] = 2
    for name in ("last.pth", "best.pth"):
        torch.save(content, tmp_path / "run" / name)
    damage(data, "train_00003")
    with pytest.raises(InputError, match="cannot be decoded"):
        train(small_recipe(data, tmp_path / "run", "--epochs", 2, "--resume"))
    train(small_recipe(data, tmp_path / "run", "--epochs", 2, "--resume", *SKIP))
    assert load(tmp_path / "run/last.pth")["iter"] == 2


def test_the_images_that_are_left_are_those_of_the_batch(data):
    recipe = small_recipe(data, "run", "--cache", "off")
    loader, _ = make_loaders(recipe, torch.device("cpu"))
    before = [(x, y, i) for x, y, i in batches_on(loader, torch.device("cpu"))]
    damage(data, "train_00003", "train_00009")
    bad: list[str] = []
    after = list(batches_on(loader, torch.device("cpu"), bad))
    assert len(bad) == 2
    for (x, y, i), (kept, labels, indices) in zip(before, after, strict=True):
        good = [n for n, index in enumerate(i.tolist()) if index not in (2, 8)]
        assert torch.equal(x[good], kept)
        assert torch.equal(y[good], labels)
        assert i[good].tolist() == indices.tolist()


def test_a_batch_with_one_image_left_is_no_step_and_is_told(data, tmp_path, capsys):
    first = next(iter(TrainingBatches(21, 8, 0)))
    damage(data, *(f"train_{position + 1:05d}" for position, _ in first[1:]))
    train(small_recipe(data, tmp_path / "run", *SKIP))
    out = capsys.readouterr().out
    assert f"{image(data, f'train_{first[0][0] + 1:05d}')} alone in its batch" in out
    assert "8 training and 0 evaluated" in out


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_split_without_one_usable_image_ends_the_run(data, tmp_path, split):
    for path in (data / "Image/aligned").glob(f"{split}_*"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match="can be used"):
        train(small_recipe(data, tmp_path / "run", *SKIP))
    assert not (tmp_path / "run/last.pth").exists()


def test_data_that_vanish_under_a_loader_are_an_error_even_with_skip(data):
    loader, _ = make_loaders(small_recipe(data, "run", "--cache", "off"), torch.device("cpu"))
    shutil.rmtree(data)
    bad: list[str] = []
    assert list(batches_on(loader, torch.device("cpu"), bad)) == []
    assert len(bad) == 21
    with pytest.raises(InputError, match="does not exist"):
        next(batches_on(loader, torch.device("cpu")))


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """ResNet-18 with random weights for RAF-DB, as eval.py reads it."""
    from networks import ResNet18

    torch.manual_seed(0)
    path = tmp_path / "rafdb_random.pth"
    torch.save({"model_state_dict": ResNet18(7).state_dict()}, path)
    return path


def evaluate(checkpoint: Path, data: Path, *flags: object) -> dict:
    path = checkpoint.parent / "out.json"
    where = ("--data", data, "--json", path, "--workers", 0, "--image-size", 32, "--device", "cpu")
    eval_script.main([str(checkpoint), *map(str, (*where, *flags))])
    return json.loads(path.read_text())


def test_eval_leaves_nothing_out_without_counting_it(checkpoint, data, capsys):
    whole = evaluate(checkpoint, data, *SKIP)
    assert whole["left_out"] == []
    damage(data, "test_0002", "test_0005")
    with pytest.raises(InputError, match="test_0002"):
        evaluate(checkpoint, data)
    capsys.readouterr()
    numbers = evaluate(checkpoint, data, *SKIP)
    out = capsys.readouterr().out
    assert "2 of 14 images were left out of all numbers" in out
    assert [
        str(image(data, n)) in text
        for n, text in zip(("test_0002", "test_0005"), numbers["left_out"], strict=True)
    ] == [True, True]
    assert numbers["images"] == 12
    assert numbers["published_images"] is False
    assert "12 images" in out


def test_loading_one_by_one_finds_each_bad_image(data):
    damage(data, "test_0002", "test_0003")
    recipe = small_recipe(data, "run", "--cache", "off")
    _, loader = make_loaders(recipe, torch.device("cpu"))
    images = SeededImages(loader.dataset.dataset)
    single = make_loader(images, OrderedBatches(14, 1), workers=0, device=torch.device("cpu"))
    bad: list[str] = []
    seen = [int(i) for _, _, i in batches_on(single, torch.device("cpu"), bad)]
    assert seen == [i for i in range(14) if i not in (1, 2)]
    assert len(bad) == 2
