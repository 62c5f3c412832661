"""The engine: flags over a recipe, seeded loading, the training loop, resume, what is written."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import os
import random
import shutil
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from engine.compiling import compiler_told
from engine.device import wants_bf16
from engine.loading import (
    OrderedBatches,
    SeededImages,
    TrainingBatches,
    batch_sizes,
    batches_on,
    make_loader,
    stratified_order,
)
from engine.schedules import SCHEDULES, cosine
from PIL import Image
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import StepLR

import train_fer2013
import train_rafdb
from common.devices import find_device
from common.errors import InputError
from datasets import FER2013, RAFDB, transforms
from engine import train as engine_train
from engine.distributed import Step
from engine.evaluate import confusion_of, predict
from engine.loss_log import Arriving, LossLog
from engine.optim import make_optimizer
from engine.recipe import OPTIMIZERS, flag_fields, parse_flags, settings
from engine.train import make_loaders, prepare, train, train_epoch
from networks import DAN, DANLoss, LossTerms
from networks.backbone import MSCELEB
from tests.support.scripts import (
    CLASSES,
    LABEL_FILE,
    ROOT,
    SIZE,
    TINY,
    assert_same_run,
    differences,
    load,
    small_recipe,
    snapshot,
    write_rafdb,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*published are"),
    pytest.mark.filterwarnings("ignore:DAN from random weights under SGD"),
]

CPU = torch.device("cpu")
GOLDEN_NAMES = ROOT / "tests/golden/state_dict_7classes_4heads.csv"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """21 training and 14 test images in RAF-DB's layout, the classes in equal parts."""
    return write_rafdb(tmp_path_factory.mktemp("data") / "raf-basic")


def run_tiny(data: Path, output: Path, *flags: object) -> dict:
    """Train the tiny network; returns last.pth."""
    train(small_recipe(data, output, *flags))
    return load(output / "last.pth")


def read_metrics(folder: Path) -> list[dict[str, float]]:
    with (folder / "metrics.csv").open(newline="") as stream:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(stream)]


# --------------------------------------------------------------------------------------------
# What makes it fast, and how to do without


def test_a_plain_run_has_none_of_what_makes_it_fast(data, tmp_path, capsys):
    fast = prepare(small_recipe(data, tmp_path / "fast", "--amp", "auto"))
    assert "35 images are kept in memory" in capsys.readouterr().out
    plain = prepare(small_recipe(data, tmp_path / "plain", "--amp", "auto", "--plain"))
    assert "memory" not in capsys.readouterr().out
    assert (fast.dataset.cache is None, plain.dataset.cache is None) == (False, True)
    assert (fast.bf16, plain.bf16) == (wants_bf16("auto", CPU), False)
    assert (fast.optimizer.defaults["fused"], plain.optimizer.defaults["fused"]) == (True, None)
    assert plain.optimizer.defaults["foreach"] is False
    layouts = []
    for run in (fast, plain):
        weight = run.network.features[0].weight
        images, _, _ = next(iter(batches_on(run.training, CPU, plain=run.recipe.plain)))
        channels_last = {"memory_format": torch.channels_last}
        layouts.append([t.is_contiguous(**channels_last) for t in (weight, images)])
    assert layouts == [[True, True], [False, False]]
    plain.folder.mkdir()
    train_epoch(plain)
    assert plain.network.features[0].weight.is_contiguous()


def assert_same_metrics(ours: dict, theirs: dict) -> None:
    """Of checkpoints of two runs, the loss but for rounding."""
    for mine, other in zip(ours["metrics"], theirs["metrics"], strict=True):
        assert mine["accuracy"] == other["accuracy"]
        assert mine["loss"] == pytest.approx(other["loss"], rel=1e-4)


def test_a_plain_run_ends_as_a_fast_one_in_float32(data, tmp_path):
    flags = ("--epochs", 3, "--lr", 0.005)
    fast = run_tiny(data, tmp_path / "fast", *flags)
    plain = run_tiny(data, tmp_path / "plain", *flags, "--plain")
    assert_same_metrics(fast, plain)


@pytest.mark.parametrize("flags", [("--compile",), ("--amp", "bf16")])
def test_plain_and_a_flag_for_speed_are_refused_together(data, tmp_path, flags):
    with pytest.raises(InputError, match=f"--plain and {' '.join(flags)} do not go together"):
        prepare(small_recipe(data, tmp_path, "--plain", *flags))


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """torch.compile with nothing remembered from before, and nothing kept."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.usefixtures("compiler")
def test_a_compiled_run_ends_as_one_that_is_not(data, tmp_path):
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        pytest.skip("torch.compile needs a C++ compiler")
    plain, compiled = (
        run_tiny(data, tmp_path / name, *flags)
        for name, flags in (("plain", ()), ("compiled", ("--compile",)))
    )
    assert list(compiled["model_state_dict"]) == list(plain["model_state_dict"])
    assert_same_metrics(compiled, plain)


@pytest.mark.usefixtures("compiler")
def test_a_compiler_that_is_not_there_is_told_in_a_line(data, tmp_path, monkeypatch):
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", (None, str(tmp_path / "no-compiler")))
    with pytest.raises(InputError, match=r"--compile: torch cannot compile .*No working C\+\+"):
        run_tiny(data, tmp_path / "run", "--compile")


def test_other_errors_than_the_compilers_pass():
    with pytest.raises(RuntimeError, match="another") as caught, compiler_told():
        raise RuntimeError("another")
    assert not isinstance(caught.value, InputError)


# --------------------------------------------------------------------------------------------
# Recipe and flags


def test_rafdb_recipe_is_the_papers_and_the_releases():
    recipe = train_rafdb.RECIPE
    assert (recipe.epochs, recipe.batch_size, recipe.lr, recipe.image_size) == (40, 256, 0.1, 224)
    optimizer = recipe.optimizer([torch.nn.Parameter(torch.zeros(1))], lr=recipe.lr)
    assert type(optimizer) is SGD
    assert recipe.optimizer.keywords == {"momentum": 0.9, "weight_decay": 1e-4}
    assert type(recipe.make_scheduler(optimizer)) is StepLR
    assert recipe.scheduler.keywords == {"step_size": 10, "gamma": 0.1}
    assert recipe.dataset is RAFDB
    assert recipe.train_transform is transforms.rafdb_train
    method = recipe.method
    assert (method.arch, method.heads, method.pretrained) == ("dan", 4, MSCELEB)
    assert (method.fcn_loss, method.partition) == ("affinity", "eq6")
    assert (method.lambda1, method.lambda2) == (1.0, 1.0)
    assert (recipe.holdout, recipe.limit, recipe.seed, recipe.amp) == (0.0, 0, 0, "off")


@pytest.mark.parametrize("recipe", [train_rafdb.RECIPE, train_fer2013.RECIPE])
def test_no_flags_leave_the_recipe_as_it_is(recipe):
    assert parse_flags(recipe, "", []) == recipe


# One value per flag that is none of the recipes' own.
OTHER_VALUES = {
    "epochs": 3,
    "batch_size": 17,
    "lr": 0.25,
    "optimizer": "adam",
    "scheduler": "exponential",
    "image_size": 96,
    "amp": "bf16",
    "holdout": 0.2,
    "limit": 11,
    "seed": 5,
    "data": "some/where",
    "output": "else/where",
    "workers": 3,
    "cache": "off",
    "device": "cpu",
    "arch": "resnet18",
    "heads": 2,
    "pretrained": "imagenet",
    "fcn_loss": "none",
    "partition": "released",
    "lambda1": 0.5,
    "lambda2": 0.75,
    "center_weight": 0.5,
}


def as_flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def flag_values(recipe) -> dict[str, object]:
    return {field.name: getattr(owner, field.name) for owner, field in flag_fields(recipe)}


def test_every_flag_has_another_value_to_test():
    assert {*OTHER_VALUES, "compile", "resume"} <= set(flag_values(train_rafdb.RECIPE))


@pytest.mark.parametrize("name", OTHER_VALUES)
def test_a_flag_changes_its_field_and_no_other(name):
    value = OTHER_VALUES[name]
    before = flag_values(train_rafdb.RECIPE)
    after = flag_values(parse_flags(train_rafdb.RECIPE, "", [as_flag(name), str(value)]))
    meaning = {"optimizer": OPTIMIZERS, "scheduler": SCHEDULES}.get(name, {}).get(value, value)
    assert before[name] != meaning
    assert after == {**before, name: meaning}


def test_resume_is_a_switch():
    assert not train_rafdb.RECIPE.resume
    assert parse_flags(train_rafdb.RECIPE, "", ["--resume"]).resume


@pytest.mark.parametrize(
    ("name", "kind", "keywords"),
    [
        ("sgd", SGD, {"momentum": 0.9, "weight_decay": 1e-4}),
        ("adam", Adam, {"weight_decay": 0.0}),
        ("adamw", AdamW, {"weight_decay": 0.05}),
    ],
)
def test_optimizer_names_stand_for_torchs_optimizers(name, kind, keywords):
    recipe = parse_flags(train_rafdb.RECIPE, "", ["--optimizer", name, "--lr", "0.5"])
    optimizer = recipe.optimizer([torch.nn.Parameter(torch.zeros(1))], lr=recipe.lr)
    assert type(optimizer) is kind
    group = optimizer.param_groups[0]
    assert group["lr"] == 0.5
    assert {key: group[key] for key in keywords} == keywords


def rates(scheduler: str, epochs: int) -> list[float]:
    """The learning rate of every epoch, from 1."""
    flags = ["--scheduler", scheduler, "--epochs", str(epochs), "--lr", "1"]
    recipe = parse_flags(train_rafdb.RECIPE, "", flags)
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=recipe.lr)
    schedule = recipe.make_scheduler(optimizer)
    seen = []
    for _ in range(epochs):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


def test_schedules_give_the_rates_that_their_names_say():
    def half_cosine(n: int, of: int) -> list[float]:
        return [(1 + math.cos(math.pi * i / of)) / 2 for i in range(n)]

    steps = [1.0] * 10 + [0.1] * 10 + [0.01] * 5
    assert rates("step", 25) == pytest.approx(steps)
    assert rates("exponential", 6) == pytest.approx([0.6**i for i in range(6)])
    assert rates("constant", 6) == [1.0] * 6
    # It ends with the recipe's epochs: it is given the number.
    assert rates("cosine", 8) == pytest.approx(half_cosine(8, 8))
    assert rates("cosine", 4) == pytest.approx(half_cosine(4, 4))


def test_schedules_by_name_are_callables():
    assert SCHEDULES["cosine"] is cosine
    assert train_fer2013.RECIPE.scheduler is cosine


BAD_FLAGS = [
    "--lr nan",
    "--lr inf",
    "--lr 0",
    "--lr -0.1",
    "--lr fast",
    "--epochs 0",
    "--epochs -1",
    "--epochs 1.5",
    "--epochs nan",
    "--batch-size 0",
    "--batch-size -8",
    "--heads 0",
    "--image-size 31",
    "--image-size 4097",
    "--holdout 1",
    "--holdout -0.1",
    "--holdout nan",
    "--limit -1",
    "--seed -1",
    "--seed 4294967296",
    "--workers -2",
    "--lambda1 -1",
    "--lambda1 nan",
    "--lambda2 inf",
    "--amp fp16",
    "--arch vit",
    "--partition eq7",
    "--fcn-loss island",
    "--center-weight -1",
    "--optimizer lion",
    "--scheduler linear",
    "--epoch 3",  # no abbreviations: a new flag would change their meaning
    "--frobnicate 1",
]


@pytest.mark.parametrize("flags", BAD_FLAGS)
def test_a_bad_flag_is_refused_by_name_and_value(flags):
    with pytest.raises(InputError) as error:
        parse_flags(train_rafdb.RECIPE, "", flags.split())
    for word in flags.split():
        assert word.lstrip("-").removesuffix(".0") in str(error.value)
    assert "\n" not in str(error.value)


def test_a_word_without_a_flag_is_refused():
    with pytest.raises(InputError, match="datasets/raf-basic"):
        parse_flags(train_rafdb.RECIPE, "", ["datasets/raf-basic"])


def test_help_shows_the_recipes_values(capsys):
    with pytest.raises(SystemExit) as stop:
        parse_flags(train_rafdb.RECIPE, "about RAF-DB", ["--help"])
    assert stop.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "about RAF-DB" in shown
    for value in (
        "[40]",
        "[256]",
        "[0.1]",
        "[SGD(momentum=0.9, weight_decay=0.0001)]",
        "[StepLR(step_size=10, gamma=0.1)]",
        "[224]",
        "[4]",
        f"[{MSCELEB}]",
        "[eq6]",
        "[affinity]",
    ):
        assert value in shown
    for name in flag_values(train_rafdb.RECIPE):
        assert as_flag(name) in shown


def test_run_folder_names_recipe_and_seed():
    assert train_rafdb.RECIPE.run_folder() == Path("runs/rafdb-seed0")
    seeded = parse_flags(train_fer2013.RECIPE, "", ["--seed", "3"])
    assert seeded.run_folder() == Path("runs/fer2013-seed3")
    assert seeded.data_root() == FER2013.default_root


@pytest.mark.parametrize("name", ["banana", "", "meta", "cuda:-1", "cuda:99"])
def test_a_device_that_is_not_there_is_refused(name):
    with pytest.raises(InputError, match="--device"):
        find_device(name)


# --------------------------------------------------------------------------------------------
# Loading


def training_images(data: Path) -> SeededImages:
    return SeededImages(RAFDB(data, "train", transforms.rafdb_train(SIZE)))


def load_epochs(data: Path, *, workers: int, epochs=(1, 2), seed: int = 0) -> list[list]:
    """Per epoch the batches (images, labels, indices), augmented."""
    images = training_images(data)
    sampler = TrainingBatches(len(images), 8, seed)
    loader = make_loader(images, sampler, workers=workers, device=CPU)
    loaded = []
    for epoch in epochs:
        sampler.epoch = epoch
        loaded.append([tuple(batch) for batch in batches_on(loader, CPU)])
    return loaded


@pytest.fixture(scope="module")
def batches(data) -> list[list]:
    """Two epochs, loaded without workers."""
    return load_epochs(data, workers=0)


def scramble_random_generators() -> None:
    torch.manual_seed(987)
    torch.rand(13)
    np.random.seed(654)
    random.seed(321)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_depend_on_the_seed_alone(data, batches, workers):
    scramble_random_generators()
    assert differences(load_epochs(data, workers=workers), batches) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_images_with_channels_last(data, workers):
    images = training_images(data)
    batches = OrderedBatches(len(images), 4)
    loaded = next(iter(make_loader(images, batches, workers=workers, device=CPU)))
    assert loaded[0].is_contiguous(memory_format=torch.channels_last)
    items = [images[(position, 0)] for position in range(4)]
    assert torch.equal(loaded[0], torch.stack([image for image, _, _ in items]))
    assert loaded[1].tolist() == [label for _, label, _ in items]
    assert loaded[2].tolist() == [index for _, _, index in items]


def test_an_epoch_can_be_loaded_on_its_own(data, batches):
    assert differences(load_epochs(data, workers=0, epochs=(2,)), batches[1:]) == []


def test_loading_leaves_the_networks_random_numbers_alone(data):
    images = training_images(data)
    torch.manual_seed(1)
    expected = torch.rand(4)
    torch.manual_seed(1)
    _ = images[(0, 42)]
    assert torch.equal(torch.rand(4), expected)


def test_another_seed_and_another_epoch_change_order_and_augmentation(data, batches):
    def order(epoch):
        return torch.cat([indices for _, _, indices in epoch]).tolist()

    def by_image(epoch):
        return {
            index: image
            for images, _, indices in epoch
            for image, index in zip(images, indices.tolist(), strict=True)
        }

    other_seed = load_epochs(data, workers=0, epochs=(1,), seed=1)[0]
    first = batches[0]
    for other in (batches[1], other_seed):
        assert order(other) != order(first)
        same = [torch.equal(by_image(other)[i], by_image(first)[i]) for i in by_image(first)]
        # Not flipped, not rotated and not erased in both has a chance of about 1/10.
        assert sum(same) < len(same) / 2


def test_an_epoch_has_every_image_once_with_its_label(data, batches):
    labels = RAFDB(data, "train").labels
    for epoch in batches:
        indices = torch.cat([batch[2] for batch in epoch]).tolist()
        assert sorted(indices) == list(range(21))
        assert torch.cat([batch[1] for batch in epoch]).tolist() == [labels[i] for i in indices]
        assert [len(batch[1]) for batch in epoch] == [8, 8, 5]


def test_a_subset_keeps_the_data_sets_numbers(data):
    images = SeededImages(RAFDB(data, "train", transforms.evaluation(SIZE)), [4, 17])
    assert (len(images), images.labels) == (2, [4, 3])
    loader = make_loader(images, OrderedBatches(2, 8), workers=0, device=CPU)
    ((pixels, labels, indices),) = batches_on(loader, CPU)
    assert (labels.tolist(), indices.tolist()) == ([4, 3], [4, 17])
    whole = RAFDB(data, "train", transforms.evaluation(SIZE))
    assert torch.equal(pixels, torch.stack([whole[4][0], whole[17][0]]))


def test_batch_sizes_are_never_one_and_sum_to_the_images():
    for num_images in range(2, 140):
        for batch_size in range(2, 40):
            sizes = batch_sizes(num_images, batch_size)
            assert sum(sizes) == num_images
            assert 2 <= min(sizes) <= max(sizes) <= batch_size + 1
            assert len(sizes) <= math.ceil(num_images / batch_size)


@pytest.mark.parametrize(("num_images", "batch_size"), [(1, 8), (0, 8), (20, 1)])
def test_batches_of_one_are_refused(num_images, batch_size):
    with pytest.raises(InputError, match="BatchNorm needs at least 2"):
        TrainingBatches(num_images, batch_size, 0)


def test_ordered_batches_are_in_order():
    draws = list(OrderedBatches(7, 3))
    assert [[index for index, _ in batch] for batch in draws] == [[0, 1, 2], [3, 4, 5], [6]]
    assert len(OrderedBatches(7, 3)) == 3


def test_every_beginning_of_the_stratified_order_has_the_classes_in_proportion():
    rng = np.random.default_rng(0)
    for counts in ([3, 3, 3], [50, 1, 7], [1290, 281, 717, 4772, 1982, 705, 2524], [5, 0, 9]):
        labels = rng.permutation(np.repeat(np.arange(len(counts)), counts)).tolist()
        order = stratified_order(labels, 0)
        assert sorted(order) == list(range(len(labels)))
        taken = np.eye(len(counts))[[labels[i] for i in order]].cumsum(0)
        length = np.arange(1, len(labels) + 1)[:, None]
        share = np.array(counts) / len(labels)
        # Each class is within half an image of its part of the same beginning, so the beginning
        # is within half an image per class, and a class's part of that comes on top.
        assert (np.abs(taken - length * share) <= 0.5 + len(counts) / 2 * share + 1e-9).all()


def test_the_stratified_order_is_random_within_a_class_and_set_by_its_seed():
    labels = [0] * 40
    assert stratified_order(labels, 0) == stratified_order(labels, 0)
    assert stratified_order(labels, 0) != stratified_order(labels, 1)
    assert stratified_order(labels, 0) != sorted(stratified_order(labels, 0))


@pytest.fixture
def broken(tmp_path) -> tuple[Path, Path]:
    """A data set of which one training image is no image: (root, that file)."""
    root = write_rafdb(tmp_path / "broken", train=16, test=7)
    image = root / "Image/aligned/train_00011_aligned.jpg"
    image.write_bytes(b"no image at all")
    return root, image


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_cannot_be_decoded_is_named(broken, tmp_path, workers):
    root, image = broken
    with pytest.raises(InputError, match="cannot be decoded") as error:
        run_tiny(root, tmp_path / "run", "--workers", workers)
    assert str(image) in str(error.value)
    assert "Traceback" not in str(error.value)
    assert "worker" not in str(error.value)


# --------------------------------------------------------------------------------------------
# Training


def test_training_lowers_the_loss_and_learns(data, tmp_path):
    run_tiny(data, tmp_path / "run", "--epochs", 6, "--lr", 0.02)
    rows = read_metrics(tmp_path / "run")
    assert rows[-1]["cls"] < 0.6 * rows[0]["cls"]
    assert max(row["accuracy"] for row in rows) > 0.8


def test_same_seed_same_run_and_another_seed_another(data, tmp_path):
    runs = {}
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        scramble_random_generators()
        runs[name] = run_tiny(data, tmp_path / name, "--epochs", 2, "--seed", seed)
    metrics = {name: (tmp_path / name / "metrics.csv").read_bytes() for name in runs}
    for part in ("model_state_dict", "criterion_state_dict", "optimizer_state_dict"):
        assert differences(runs["one"][part], runs["again"][part]) == []
        assert differences(runs["one"][part], runs["other"][part]) != []
    assert metrics["one"] == metrics["again"] != metrics["other"]


def test_every_epoch_of_a_run_has_an_order_of_its_own(data, tmp_path, monkeypatch):
    seen = []
    add = LossLog.add

    def noting(self, total, terms, indices):
        seen.append((self.epoch, indices.tolist()))
        add(self, total, terms, indices)

    monkeypatch.setattr(LossLog, "add", noting)
    run_tiny(data, tmp_path / "run", "--epochs", 3, "--seed", 4)
    expected = []
    sampler = TrainingBatches(21, 8, 4)
    for epoch in (1, 2, 3):
        sampler.epoch = epoch
        expected += [(epoch, [index for index, _ in batch]) for batch in sampler]
    assert seen == expected
    orders = [[i for e, batch in seen if e == epoch for i in batch] for epoch in (1, 2, 3)]
    assert orders[0] != orders[1] != orders[2]


class Stop(Exception):
    """In the place of a power cut."""


def stop_in_epoch(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Let a run take the steps of an epoch and end before any of it is written."""
    original = engine_train.optimize_epoch

    def optimize_epoch(current, epoch, lr):
        means = original(current, epoch, lr)
        if epoch == number:
            raise Stop
        return means

    monkeypatch.setattr(engine_train, "optimize_epoch", optimize_epoch)


def interrupted_and_resumed(recipe, epochs_done: int, **changes) -> None:
    """Run to the middle of the epoch after `epochs_done`, then resume with `changes`."""
    with pytest.MonkeyPatch.context() as patch:
        stop_in_epoch(patch, epochs_done + 1)
        with pytest.raises(Stop):
            train(recipe)
    scramble_random_generators()
    train(dataclasses.replace(recipe, resume=True, **changes))


@pytest.mark.parametrize("scheduler", ["step", "cosine", "exponential"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("done", [1, 3])
def test_a_resumed_run_ends_as_an_uninterrupted_one(data, tmp_path, done, optimizer, scheduler):
    flags = ["--epochs", 4, "--scheduler", scheduler, "--optimizer", optimizer]
    run_tiny(data, tmp_path / "whole", *flags)
    interrupted_and_resumed(small_recipe(data, tmp_path / "cut", *flags), done)
    assert_same_run(tmp_path / "cut", tmp_path / "whole")


@pytest.mark.parametrize("workers", [0, 2])
def test_random_states_do_not_tell_how_often_workers_were_started(data, tmp_path, workers):
    flags = ["--epochs", 3, "--workers", workers]
    run_tiny(data, tmp_path / "whole", *flags)
    interrupted_and_resumed(small_recipe(data, tmp_path / "cut", *flags), 1)
    states = [load(tmp_path / name / "last.pth")["random_states"] for name in ("cut", "whole")]
    assert differences(*states) == []


def test_dan_resumes_bit_for_bit_with_other_workers(data, tmp_path):
    def recipe(folder):
        flags = ("--heads", 2, "--epochs", 2, "--optimizer", "sgd", "--pretrained", "none")
        return small_recipe(data, tmp_path / folder, *flags, recipe=train_rafdb.RECIPE)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train(recipe("whole"))
        interrupted_and_resumed(recipe("cut"), 1, workers=2)
    assert_same_run(tmp_path / "cut", tmp_path / "whole")
    content = load(tmp_path / "cut/last.pth")
    assert content["criterion_state_dict"]["affinity.centers"].shape == (CLASSES, 512)
    for name in ("whole", "cut"):
        for file in ("last.pth", "best.pth"):  # 120 MB each
            (tmp_path / name / file).unlink()


@pytest.mark.parametrize("name", ["last.pth", "metrics.csv"])
def test_a_cut_between_the_files_of_an_epoch_leaves_nothing_out(data, tmp_path, name, monkeypatch):
    """The power goes in the last epoch, just before one of its files is written."""
    run_tiny(data, tmp_path / "whole", "--epochs", 2)

    def until_second(write):
        written = []

        def write_or_stop(path, content):
            written.append(path.name)
            if written.count(name) == 2:
                raise Stop
            write(path, content)

        return write_or_stop

    with monkeypatch.context() as patch:
        for function in ("save_checkpoint", "write_text"):
            patch.setattr(engine_train, function, until_second(getattr(engine_train, function)))
        with pytest.raises(Stop):
            run_tiny(data, tmp_path / "cut", "--epochs", 2)
    run_tiny(data, tmp_path / "cut", "--epochs", 2, "--resume")
    assert_same_run(tmp_path / "cut", tmp_path / "whole")


def test_resume_with_nothing_there_starts(data, tmp_path):
    run_tiny(data, tmp_path / "resumed", "--resume")
    run_tiny(data, tmp_path / "plain")
    assert_same_run(tmp_path / "resumed", tmp_path / "plain")


def test_resume_after_a_first_epoch_that_was_cut_starts_again(data, tmp_path):
    interrupted_and_resumed(small_recipe(data, tmp_path / "cut"), 0)
    run_tiny(data, tmp_path / "plain")
    assert_same_run(tmp_path / "cut", tmp_path / "plain")


def test_a_finished_run_says_so_and_stays_as_it_is(data, tmp_path, capsys):
    run_tiny(data, tmp_path / "run", "--epochs", 2)
    before = snapshot(tmp_path / "run")
    capsys.readouterr()
    train(small_recipe(data, tmp_path / "run", "--epochs", 2, "--resume"))
    assert "finished: 2 epochs" in capsys.readouterr().out
    assert snapshot(tmp_path / "run") == before


def test_a_folder_with_a_run_is_refused_and_stays_as_it_is(data, tmp_path):
    run_tiny(data, tmp_path / "run")
    before = snapshot(tmp_path / "run")
    with pytest.raises(InputError, match=r"already holds a run .*last\.pth.*--resume"):
        run_tiny(data, tmp_path / "run", "--seed", 1)
    assert snapshot(tmp_path / "run") == before


@pytest.mark.parametrize("name", ["config.json", "metrics.csv", "last.pth", "best.pth"])
def test_any_file_of_a_run_occupies_the_folder(data, tmp_path, name):
    (tmp_path / name).write_text("of another run")
    with pytest.raises(InputError, match=f"already holds a run \\({name}\\)"):
        run_tiny(data, tmp_path)
    assert snapshot(tmp_path) == {name: b"of another run"}


def test_resume_names_every_setting_that_differs(data, tmp_path):
    run_tiny(data, tmp_path / "run", "--epochs", 2)
    before = snapshot(tmp_path / "run")
    other = ["--resume", "--epochs", 3, "--lr", 0.5, "--heads", 2, "--optimizer", "sgd"]
    with pytest.raises(InputError) as error:
        run_tiny(data, tmp_path / "run", *other)
    for words in (
        "--epochs was 2, is now 3",
        "--lr was 0.001, is now 0.5",
        "--heads was 4, is now 2",
        "--optimizer was AdamW(weight_decay=0.05), is now SGD(momentum=0.9, weight_decay=0.0001)",
    ):
        assert words in str(error.value)
    assert "--seed" not in str(error.value)
    assert snapshot(tmp_path / "run") == before


def test_resume_refuses_the_run_of_another_recipe_and_what_is_no_run(data, tmp_path):
    run_tiny(data, tmp_path / "run")
    recipe = dataclasses.replace(TINY, name="ferplus")
    with pytest.raises(InputError, match="recipe was rafdb, is now ferplus"):
        train(small_recipe(data, tmp_path / "run", "--resume", recipe=recipe))
    content = load(tmp_path / "run/last.pth")
    torch.save({"model_state_dict": content["model_state_dict"]}, tmp_path / "run/last.pth")
    with pytest.raises(InputError, match="not a checkpoint of ours"):
        run_tiny(data, tmp_path / "run", "--resume")
    (tmp_path / "run/last.pth").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(InputError, match=r"last\.pth"):
        run_tiny(data, tmp_path / "run", "--resume")


def test_resume_refuses_data_of_another_size(tmp_path):
    before = write_rafdb(tmp_path / "before", train=14, test=7)
    with pytest.MonkeyPatch.context() as patch:
        stop_in_epoch(patch, 2)
        with pytest.raises(Stop):
            run_tiny(before, tmp_path / "cut", "--epochs", 2)
    files = snapshot(tmp_path / "cut")
    after = write_rafdb(tmp_path / "after", train=21, test=7)
    with pytest.raises(InputError, match=r"was trained on 14 images, .*after now gives 21"):
        run_tiny(after, tmp_path / "cut", "--epochs", 2, "--resume")
    assert snapshot(tmp_path / "cut") == files


@pytest.mark.parametrize("below", ["file", "file/run"])
def test_an_output_that_cannot_be_a_folder_is_refused(data, tmp_path, below):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="file"):
        run_tiny(data, tmp_path / below)
    assert snapshot(tmp_path) == {"file": b"mine"}


def test_nothing_is_made_for_a_run_that_cannot_start(data, tmp_path):
    for flags in (
        ["--data", tmp_path / "nowhere"],
        ["--device", "banana"],
        ["--batch-size", 1],
        ["--limit", 1],
        ["--holdout", 0.001],
        ["--holdout", 0.99],
    ):
        with pytest.raises(InputError):
            run_tiny(data, tmp_path / "run", *flags)
    flags = ["--pretrained", tmp_path / "nowhere.pth"]
    recipe = small_recipe(data, tmp_path / "run", *flags, recipe=train_rafdb.RECIPE)
    with pytest.raises(InputError, match=r"nowhere\.pth not found"):
        train(recipe)
    assert not (tmp_path / "run").exists()


# 17 leaves a last batch of one, 5 fits into one batch, 2 is the least.
@pytest.mark.parametrize(("images", "steps"), [(17, 2), (5, 1), (2, 1)])
def test_odd_numbers_of_images_train(data, tmp_path, images, steps):
    content = run_tiny(data, tmp_path / "run", "--limit", images)
    assert content["optimizer_state_dict"]["state"][0]["step"] == steps
    assert json.loads((tmp_path / "run/config.json").read_text())["training_images"] == images


def test_a_last_batch_of_one_does_not_stop_dan(data):
    recipe = small_recipe(data, Path("unused"), "--heads", 1, recipe=train_rafdb.RECIPE)
    current = prepare(dataclasses.replace(recipe, limit=9))
    means = engine_train.optimize_epoch(current, 1, recipe.lr)
    assert math.isfinite(means["loss"])
    assert [len(batch) for batch in current.training.batch_sampler] == [9]


def test_one_image_cannot_be_trained_on(tmp_path):
    root = write_rafdb(tmp_path / "one", train=1, test=7)
    with pytest.raises(InputError, match="training split holds 1 image; BatchNorm"):
        run_tiny(root, tmp_path / "run")


def test_steps_an_epoch_are_one_per_batch(data, tmp_path):
    content = run_tiny(data, tmp_path / "run", "--epochs", 2)
    assert content["optimizer_state_dict"]["state"][0]["step"] == 2 * 3  # 8 + 8 + 5 images


# --------------------------------------------------------------------------------------------
# The optimizer, the centers, the backbone


def test_one_optimizer_group_has_the_network_and_last_the_centers(data, tmp_path):
    recipe = small_recipe(data, tmp_path, recipe=train_rafdb.RECIPE)
    current = prepare(recipe)
    (group,) = current.optimizer.param_groups
    expected = [*current.network.parameters(), current.criterion.affinity.centers]
    assert [id(p) for p in group["params"]] == [id(p) for p in expected]
    assert len(expected) == 153
    with GOLDEN_NAMES.open(newline="") as stream:
        names = [row["name"] for row in csv.DictReader(stream)]
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    released = [name for name in names if not name.endswith(buffers)]
    assert [name for name, _ in current.network.named_parameters()] == released
    assert expected[-1].shape == (7, 512)


def test_the_baseline_has_no_centers(data, tmp_path):
    flags = ("--arch", "resnet18")
    current = prepare(small_recipe(data, tmp_path, *flags, recipe=train_rafdb.RECIPE))
    assert list(current.criterion.parameters()) == []
    assert len(current.optimizer.param_groups[0]["params"]) == 62
    current.network.eval()
    images = torch.randn(3, 3, SIZE, SIZE)
    labels = torch.tensor([0, 3, 6])
    loss = current.criterion(current.network(images), labels)
    logits = current.network(images).logits
    assert loss.total.item() == pytest.approx(
        torch.nn.functional.cross_entropy(logits, labels).item()
    )


def test_the_centers_are_trained(data, tmp_path):
    # Weight decay alone would shrink all centers by one factor.
    recipe = small_recipe(data, tmp_path / "run")
    before = prepare(recipe).criterion.affinity.centers.detach().clone()
    after = run_tiny(data, tmp_path / "run")["criterion_state_dict"]["affinity.centers"]
    ratio = (after / before).flatten()
    assert after.shape == (CLASSES, 512)
    assert ratio.std() > 1e-4


def test_without_the_affinity_loss_there_are_no_centers(data, tmp_path):
    content = run_tiny(data, tmp_path / "run", "--fcn-loss", "none", "--partition", "none")
    assert content["criterion_state_dict"] == {}
    assert set(content["metrics"][0]) >= {"loss", "cls"}
    assert not {"affinity", "partition"} & set(content["metrics"][0])


def test_the_loss_in_metrics_is_the_weighted_sum_of_its_terms(data, tmp_path):
    run_tiny(data, tmp_path / "run", "--lambda1", 0.5, "--lambda2", 0.25)
    (row,) = read_metrics(tmp_path / "run")
    total = row["cls"] + 0.5 * row["affinity"] + 0.25 * row["partition"]
    assert row["loss"] == pytest.approx(total, rel=1e-5)


def test_means_weigh_every_image_alike(data, tmp_path):
    """The means over an epoch of batches of 8, 8 and 5, against a loop over the same batches."""
    recipe = small_recipe(data, tmp_path, "--amp", "off")
    logged = engine_train.optimize_epoch(prepare(recipe), 1, recipe.lr)
    current = prepare(recipe)
    sums, images_seen = 0.0, 0
    for images, labels, _ in batches_on(current.training, CPU):
        loss = current.criterion(current.network(images), labels)
        sums += len(images) * loss.terms["cls"].item()
        images_seen += len(images)
        current.optimizer.zero_grad()
        loss.total.backward()
        current.optimizer.step()
    assert images_seen == 21
    assert logged["cls"] == pytest.approx(sums / images_seen, rel=1e-6)


def test_pretrained_from_a_run_of_ours_copies_its_backbone(data, tmp_path):
    baseline = ("--arch", "resnet18")
    train(small_recipe(data, tmp_path / "r18", *baseline, recipe=train_rafdb.RECIPE))
    flags = ("--heads", 1, "--pretrained", tmp_path / "r18/last.pth", "--seed", 9)
    network = prepare(small_recipe(data, tmp_path, *flags, recipe=train_rafdb.RECIPE)).network
    trained = load(tmp_path / "r18/last.pth")["model_state_dict"]
    backbone = network.features.state_dict()
    assert len(backbone) == 120
    for name, tensor in backbone.items():
        assert torch.equal(tensor, trained[f"features.{name}"])
    # Trained, so not what the seed alone would give.
    fresh = prepare(small_recipe(data, tmp_path, *baseline, recipe=train_rafdb.RECIPE)).network
    assert not torch.equal(fresh.features[0].weight, network.features[0].weight)


SGD_FLAGS = ("--optimizer", "sgd", "--lr", "0.1")


@pytest.mark.parametrize(
    ("flags", "warned"),
    [
        (SGD_FLAGS, True),
        (("--optimizer", "adamw"), False),
        (("--optimizer", "adam"), False),
        ((*SGD_FLAGS, "--arch", "resnet18"), False),
    ],
)
def test_dan_from_random_weights_under_sgd_is_warned(data, tmp_path, flags, warned):
    flags = ("--heads", 1, "--pretrained", "none", *flags)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        prepare(small_recipe(data, tmp_path, *flags, recipe=train_rafdb.RECIPE))
    advice = [str(w.message) for w in caught if "random weights" in str(w.message)]
    assert len(advice) == warned
    assert all("--arch resnet18 --pretrained none" in text for text in advice)


# --------------------------------------------------------------------------------------------
# What is trained on and what is evaluated


def chosen(recipe) -> tuple[set[str], set[str]]:
    """File names trained on, and evaluated."""
    loaders = make_loaders(recipe, CPU)
    return tuple(
        {loader.dataset.dataset.describe(i) for i in loader.dataset.indices} for loader in loaders
    )


def test_without_holdout_all_training_images_and_the_test_split(data, tmp_path):
    trained, evaluated = chosen(small_recipe(data, tmp_path))
    assert (len(trained), len(evaluated)) == (21, 14)
    assert all("train_" in name for name in trained)
    assert all("test_" in name for name in evaluated)


def test_holdout_evaluates_training_images_that_are_not_trained_on(data, tmp_path):
    recipe = small_recipe(data, tmp_path, "--holdout", 0.34)
    trained, evaluated = chosen(recipe)
    assert all("train_" in name for name in trained | evaluated)
    assert not trained & evaluated
    assert (len(trained), len(evaluated)) == (14, 7)
    _, test = make_loaders(recipe, CPU)
    assert sorted(test.dataset.labels) == list(range(7))
    # The held-out faces are seen as test faces are, without augmentation.
    assert test.dataset.dataset.transform.transforms[0].size == [SIZE, SIZE]
    assert len(test.dataset.dataset.transform.transforms) == 2
    for seed in (1, 2):
        assert chosen(dataclasses.replace(recipe, seed=seed)) == (trained, evaluated)


def test_holdout_needs_no_test_split(tmp_path):
    root = write_rafdb(tmp_path / "data", test=0)
    content = run_tiny(root, tmp_path / "run", "--holdout", 0.34)
    assert len(content["metrics"]) == 1
    assert json.loads((tmp_path / "run/config.json").read_text())["evaluated_split"] == "holdout"


@pytest.mark.parametrize("limit", [2, 7, 10, 14, 20, 21, 999])
def test_limit_takes_that_many_images_alike_from_every_class(data, tmp_path, limit):
    training, test = make_loaders(small_recipe(data, tmp_path, "--limit", limit), CPU)
    counts = np.bincount(training.dataset.labels, minlength=CLASSES)
    assert counts.sum() == len(training.dataset) == min(limit, 21)
    assert counts.max() - counts.min() <= 1
    assert len(set(training.dataset.indices)) == min(limit, 21)
    assert len(test.dataset) == 14


def test_limit_and_holdout_together_stay_apart(data, tmp_path):
    trained, evaluated = chosen(small_recipe(data, tmp_path, "--holdout", 0.34, "--limit", 7))
    assert (len(trained), len(evaluated)) == (7, 7)
    assert not trained & evaluated


# --------------------------------------------------------------------------------------------
# What a run writes


@pytest.fixture(scope="module")
def written(data, tmp_path_factory) -> Path:
    """The folder of a run of six epochs whose best is not the last."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    run_tiny(data, folder, "--epochs", 6, "--lr", 0.02, "--seed", 1)
    return folder


def test_a_run_folder_holds_four_files(written):
    assert sorted(path.name for path in written.iterdir()) == [
        "best.pth",
        "config.json",
        "last.pth",
        "metrics.csv",
    ]


def test_checkpoints_hold_the_released_keys_and_ours(written):
    content = load(written / "last.pth")
    assert list(content)[:3] == ["iter", "model_state_dict", "optimizer_state_dict"]
    assert set(content) == {
        "iter",
        "model_state_dict",
        "optimizer_state_dict",
        "criterion_state_dict",
        "scheduler_state_dict",
        "recipe",
        "settings",
        "dataset",
        "class_names",
        "training_images",
        "metrics",
        "random_states",
    }
    assert (content["iter"], content["recipe"], content["dataset"]) == (6, "rafdb", "rafdb")
    assert content["class_names"] == [
        "Surprise",
        "Fear",
        "Disgust",
        "Happiness",
        "Sadness",
        "Anger",
        "Neutral",
    ]
    assert content["settings"]["lr"] == 0.02
    (group,) = content["optimizer_state_dict"]["param_groups"]
    names = len(content["optimizer_state_dict"]["state"])
    assert group["params"] == list(range(names))


def test_metrics_have_a_row_an_epoch_and_agree_with_the_checkpoint(written):
    rows = read_metrics(written)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert list(rows[0]) == [
        "epoch",
        "lr",
        "loss",
        "cls",
        "affinity",
        "partition",
        "accuracy",
        "mean_class_accuracy",
        "macro_f1",
    ]
    assert rows == load(written / "last.pth")["metrics"]


def test_best_is_the_first_epoch_with_the_best_accuracy(written):
    accuracies = [row["accuracy"] for row in read_metrics(written)]
    epoch = 1 + accuracies.index(max(accuracies))
    best = load(written / "best.pth")
    assert (best["iter"], len(best["metrics"])) == (epoch, epoch)
    # Otherwise best and last could be the same file.
    assert epoch < 6
    assert differences(best["model_state_dict"], load(written / "last.pth")["model_state_dict"])


@pytest.mark.parametrize("name", ["best.pth", "last.pth"])
def test_the_numbers_of_a_checkpoint_are_those_of_its_weights(data, written, name):
    content = load(written / name)
    network = TINY.method.network(CLASSES)
    network.load_state_dict(content["model_state_dict"])
    images = SeededImages(RAFDB(data, "test", transforms.evaluation(SIZE)))
    loader = make_loader(images, OrderedBatches(len(images), 5), workers=0, device=CPU)
    metrics = confusion_of(*predict(network, loader, CPU)).metrics()
    row = content["metrics"][-1]
    assert {key: row[key] for key in metrics} == metrics


def test_config_says_what_was_run_on_what(written, data):
    config = json.loads((written / "config.json").read_text())
    recipe = small_recipe(data, written, "--epochs", 6, "--lr", 0.02, "--seed", 1)
    assert config["settings"] == settings(recipe)
    assert config["settings"]["optimizer"] == "AdamW(weight_decay=0.05)"
    assert (config["recipe"], config["dataset"]) == ("rafdb", "rafdb")
    assert (config["training_images"], config["evaluated_images"]) == (21, 14)
    assert config["class_names"] == list(RAFDB.classes)
    network = TINY.method.network(CLASSES)
    assert config["parameters"] == sum(p.numel() for p in network.parameters())
    assert config["versions"]["torch"] == torch.__version__


# --------------------------------------------------------------------------------------------
# A loss that is not finite


class Poisoned(torch.nn.Module):
    """A criterion whose n-th loss is not a number."""

    def __init__(self, criterion: torch.nn.Module, at_step: int):
        super().__init__()
        self.criterion, self.at_step, self.step = criterion, at_step, 0

    def forward(self, output, labels) -> LossTerms:
        loss = self.criterion(output, labels)
        self.step += 1
        if self.step != self.at_step:
            return loss
        return LossTerms(loss.total * math.nan, {**loss.terms, "affinity": loss.total * math.inf})


def test_a_loss_that_is_not_finite_stops_the_run_and_says_all_about_it(data, tmp_path):
    recipe = small_recipe(data, tmp_path / "run", "--epochs", 3)
    current = prepare(recipe)
    current.folder.mkdir()
    train_epoch(current)
    before = snapshot(current.folder)
    current.parallel.criterion = Poisoned(current.criterion, at_step=2)
    current.training.batch_sampler.epoch = 2
    second_batch = list(current.training.batch_sampler)[1]
    with pytest.raises(InputError) as error:
        train_epoch(current)
    message = str(error.value)
    for words in ("epoch 2, step 2", "loss nan", "affinity inf", "cls ", "learning rate 0.001"):
        assert words in message
    assert "last checkpoint is from epoch 1" in message
    named = {word for word in message.split() if word.endswith(".jpg")}
    samples = current.dataset.samples
    assert named == {str(samples[position][0]) for position, _ in second_batch}
    assert snapshot(current.folder) == before
    assert load(current.folder / "last.pth")["iter"] == 1


def test_a_learning_rate_beyond_reason_stops_with_one_line(data, tmp_path):
    with pytest.raises(InputError, match="not finite in epoch 1, step 2") as error:
        run_tiny(data, tmp_path / "run", "--lr", 1e30)
    assert "\n" not in str(error.value)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["config.json"]


def test_weights_that_are_not_finite_never_become_a_checkpoint(data, tmp_path):
    """One step an epoch: its loss is finite, the weights after it are not."""
    with pytest.raises(InputError, match="not finite"):
        run_tiny(data, tmp_path / "run", "--batch-size", 99, "--lr", 1e38, "--optimizer", "sgd")
    assert not (tmp_path / "run/last.pth").exists()


@pytest.mark.parametrize("every", [1, 2, 5])
def test_a_loss_is_watched_however_rarely_it_is_fetched(data, tmp_path, every, monkeypatch):
    """On a GPU losses are fetched in groups; the step that is named stays the same."""
    original = LossLog.__init__

    def rarely(self, current, epoch, lr):
        original(self, current, epoch, lr)
        self.every = every

    monkeypatch.setattr(LossLog, "__init__", rarely)
    current = prepare(small_recipe(data, tmp_path))
    current.parallel.criterion = Poisoned(current.criterion, at_step=2)
    with pytest.raises(InputError, match="epoch 1, step 2"):
        engine_train.optimize_epoch(current, 1, 0.001)


class Slow:
    """A GPU's event that comes `looks` looks later."""

    def __init__(self, looks: int):
        self.looks = looks

    def query(self) -> bool:
        self.looks -= 1
        return self.looks < 0

    def synchronize(self) -> None:
        self.looks = 0


@pytest.mark.parametrize("looks", [0, 1, 3, 100])
def test_losses_that_arrive_late_are_the_same(data, tmp_path, looks, monkeypatch):
    expected = engine_train.optimize_epoch(prepare(small_recipe(data, tmp_path)), 1, 0.001)
    original = Arriving.of.__func__
    read_at_once = []

    def of(cls, values, indices):
        return original(cls, values, indices)._replace(event=Slow(looks))

    def add(self, *step):
        adding(self, *step)
        read_at_once.append(self.steps)

    adding = LossLog.add
    monkeypatch.setattr(Arriving, "of", classmethod(of))
    monkeypatch.setattr(LossLog, "add", add)
    found = engine_train.optimize_epoch(prepare(small_recipe(data, tmp_path)), 1, 0.001)
    assert found == expected
    assert read_at_once == {0: [1, 2, 3], 1: [0, 1, 2]}.get(looks, [0, 0, 0])


def test_a_loss_that_arrives_at_the_end_is_watched(data, tmp_path, monkeypatch):
    original = Arriving.of.__func__

    def of(cls, values, indices):
        return original(cls, values, indices)._replace(event=Slow(100))

    monkeypatch.setattr(Arriving, "of", classmethod(of))
    current = prepare(small_recipe(data, tmp_path))
    current.parallel.criterion = Poisoned(current.criterion, at_step=2)
    with pytest.raises(InputError, match="epoch 1, step 2"):
        engine_train.optimize_epoch(current, 1, 0.001)


def test_a_step_asks_the_device_for_no_value():
    """Fake tensors have no values, so whatever would wait for one is an error."""
    from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

    with FakeTensorMode():
        step = Step(DAN(CLASSES, 2), DANLoss(CLASSES), False)
        parameters = [*step.parameters()]
        optimizer = make_optimizer(OPTIMIZERS["adamw"], parameters, lr=0.1)
        for _ in range(2):
            total, loss, _ = step(torch.randn(4, 3, 64, 64), torch.zeros(4, dtype=torch.long))
            optimizer.zero_grad(set_to_none=True)
            total.backward()
            optimizer.step()
        assert all(parameter.grad is not None for parameter in parameters)
        with pytest.raises(DataDependentOutputException):
            loss.item()


def test_a_partial_scheduler_that_asks_for_epochs_is_given_them():
    asked = []

    def schedule(optimizer, epochs, power):
        asked.append((epochs, power))

    recipe = dataclasses.replace(TINY, epochs=7, scheduler=partial(schedule, power=2))
    recipe.make_scheduler(None)
    assert asked == [(7, 2)]


def test_grey_images_train_too(tmp_path):
    root = write_rafdb(tmp_path / "grey")
    image = root / "Image/aligned/train_00001_aligned.jpg"
    Image.open(image).convert("L").save(image)
    lines = (root / LABEL_FILE).read_text().splitlines()
    assert len(lines) == 35
    run_tiny(root, tmp_path / "run")


def test_a_run_evaluates_by_the_methods_quicker_network(data, tmp_path):
    class Quicker(type(TINY.method)):
        def inference(self, network, device):
            asked.append(device)
            return network

    asked = []
    recipe = dataclasses.replace(TINY, method=Quicker())
    train(small_recipe(data, tmp_path / "run", recipe=recipe))
    assert asked == [CPU]
    train(small_recipe(data, tmp_path / "plain", "--plain", recipe=recipe))
    assert asked == [CPU]


def test_a_method_without_a_quicker_network_trains(data, tmp_path):
    class Bare:
        network, criterion, advice = (
            staticmethod(getattr(TINY.method, name)) for name in ("network", "criterion", "advice")
        )

    run = dataclasses.replace(
        prepare(small_recipe(data, tmp_path)), recipe=dataclasses.replace(TINY, method=Bare())
    )
    assert run.evaluating() is run.network
