"""Order, seeds, batches and subsets of the images; images and workers that fail."""

from __future__ import annotations

import dataclasses
import math
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.batch import Batch
from common.errors import InputError
from common.signals import Stopped
from datasets import RAFDB, transforms
from engine.data import (
    OrderedBatches,
    SeededImages,
    TrainingBatches,
    batch_sizes,
    batches_on,
    evaluation_loader,
    make_loader,
    make_loaders,
    reporting_worker_crashes,
    stratified_order,
    worker_count,
)
from engine.distributed import World
from engine.folds import fold_checksum, fold_images
from engine.optim import SAMPLINGS, shuffle
from engine.recipe import Recipe
from tests.support.scripts import (
    CLASSES,
    LABEL_FILE,
    SIZE,
    assert_same_run,
    damage,
    differences,
    face,
    load,
    scramble_random_generators,
    small_recipe,
    train_tiny,
    write_labelled,
    write_rafdb,
)

CPU = torch.device("cpu")
ALONE = World()
SKIP = ("--on-bad-image", "skip")


def training_images(data: Path) -> SeededImages:
    return SeededImages(RAFDB(data, "train", transforms.rafdb_train(SIZE)))


def batches_of(num_images: int, batch_size: int = 8, seed: int = 0) -> TrainingBatches:
    return TrainingBatches(num_images, batch_size, seed, partial(shuffle, [0] * num_images))


def load_epochs(data: Path, *, workers: int, epochs=(1, 2), seed: int = 0) -> list[list[dict]]:
    """Per epoch the batches, augmented, as dicts."""
    images = training_images(data)
    sampler = batches_of(len(images), seed=seed)
    loader = make_loader(images, sampler, workers=workers, device=CPU)
    loaded = []
    for epoch in epochs:
        sampler.epoch = epoch
        loaded.append([vars(batch) for batch in batches_on(loader, CPU)])
    return loaded


@pytest.fixture(scope="module")
def epochs(data) -> list[list[dict]]:
    """Two epochs, loaded without workers."""
    return load_epochs(data, workers=0)


# --------------------------------------------------------------------------------------------
# Order and augmentation depend on the seed alone


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_depend_on_the_seed_alone(data, epochs, workers):
    scramble_random_generators()
    assert differences(load_epochs(data, workers=workers), epochs) == []


def test_an_epoch_can_be_loaded_on_its_own(data, epochs):
    assert differences(load_epochs(data, workers=0, epochs=(2,)), epochs[1:]) == []


def test_loading_leaves_the_random_generator_alone(data):
    images = training_images(data)
    before = torch.get_rng_state()
    first = images[(0, 42)]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert differences(images[(0, 42)], first) == []
    assert differences(images[(0, 43)], first) != []


def test_another_seed_and_another_epoch_change_order_and_augmentation(data, epochs):
    def by_image(epoch: list[dict]) -> dict[int, torch.Tensor]:
        return {
            index: image
            for batch in epoch
            for image, index in zip(batch["images"], batch["indices"].tolist(), strict=True)
        }

    first, second = map(by_image, epochs)
    other_seed = by_image(load_epochs(data, workers=0, epochs=(1,), seed=1)[0])
    for other in (second, other_seed):
        assert list(other) != list(first)
        same = [torch.equal(other[i], first[i]) for i in first]
        # Not flipped, not rotated and not erased in both has a chance of about 1/10.
        assert sum(same) < len(same) / 2


def test_an_epoch_has_every_image_once_with_its_label(data, epochs):
    labels = RAFDB(data, "train").labels
    for epoch in epochs:
        indices = torch.cat([batch["indices"] for batch in epoch]).tolist()
        assert sorted(indices) == list(range(21))
        assert torch.cat([batch["labels"] for batch in epoch]).tolist() == [
            labels[i] for i in indices
        ]
        assert [len(batch["labels"]) for batch in epoch] == [8, 8, 5]


@pytest.mark.parametrize("name", SAMPLINGS)
def test_batches_follow_the_sampling_and_the_epoch(name):
    labels = [0] * 60 + [1] * 20 + [2] * 20

    def epoch(number: int, seed: int = 7) -> list[tuple[int, int]]:
        batches = TrainingBatches(100, 16, seed, partial(SAMPLINGS[name], labels))
        batches.epoch = number
        return [draw for batch in batches for draw in batch]

    first = epoch(1)
    assert len(first) == 100
    assert epoch(1) == first
    assert epoch(2) != first
    assert epoch(1, seed=8) != first
    positions = [position for position, _ in first]
    if name == "shuffle":
        assert sorted(positions) == list(range(100))
    else:
        # An image that is drawn twice is augmented in two ways.
        assert len(set(first)) == 100 > len(set(positions))


def test_balanced_epochs_have_the_classes_that_occur_alike(tmp_path):
    """400 draws a class of 5: a standard deviation of 18."""
    training = [0] * 1 + [2] * 10 + [3] * 3 + [4] * 4 + [6] * 2
    root = write_labelled(tmp_path / "data", training, range(CLASSES))
    recipe = small_recipe(root, tmp_path, "--sampling", "balanced", "--cache", "off")
    loader, _ = make_loaders(recipe, CPU, ALONE)
    labels = torch.tensor(loader.dataset.labels)
    counts = torch.zeros(CLASSES)
    for epoch in range(1, 101):
        loader.batch_sampler.epoch = epoch
        drawn = [position for batch in loader.batch_sampler for position, _ in batch]
        assert len(drawn) == 20
        counts += torch.bincount(labels[drawn], minlength=CLASSES)
    assert counts[[1, 5]].tolist() == [0, 0]
    assert counts[[0, 2, 3, 4, 6]].tolist() == pytest.approx([400] * 5, abs=72)


# --------------------------------------------------------------------------------------------
# Batches


class WithTargets(RAFDB):
    """RAF-DB with a target for every image."""

    def targets(self, index: int) -> dict[str, torch.Tensor]:
        """Numbers that only this image has."""
        return {"pose": torch.tensor([index, 0.5]), "mask": torch.full((2, 3), index)}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_is_its_samples_stacked_channels_last(data, workers):
    images = SeededImages(WithTargets(data, "train", transforms.rafdb_train(SIZE)))
    loader = make_loader(images, OrderedBatches(21, 4), workers=workers, device=CPU)
    loaded, errors = next(iter(loader))
    assert errors == []
    samples = [images[(position, 0)][0] for position in range(4)]
    for batch in (loaded, next(batches_on(loader, CPU))):
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(batch.images, torch.stack([sample.image for sample in samples]))
        assert batch.labels.tolist() == [sample.label for sample in samples]
        assert batch.indices.tolist() == [0, 1, 2, 3]
        assert batch.targets["pose"].tolist() == [[i, 0.5] for i in range(4)]
        assert torch.equal(batch.targets["mask"][3], torch.full((2, 3), 3))


def test_a_subset_keeps_the_indices_of_the_data_set(data):
    whole = RAFDB(data, "train", transforms.evaluation(SIZE))
    images = SeededImages(whole, [4, 17])
    assert (len(images), images.labels) == (2, [4, 3])
    (batch,) = batches_on(evaluation_loader(images, 8, workers=0, device=CPU), CPU)
    assert (batch.labels.tolist(), batch.indices.tolist()) == ([4, 3], [4, 17])
    assert torch.equal(batch.images, torch.stack([whole[4].image, whole[17].image]))


def test_batch_sizes_are_never_one_and_sum_to_the_images():
    for num_images in range(2, 140):
        for batch_size in range(2, 40):
            sizes = batch_sizes(num_images, batch_size)
            assert sum(sizes) == num_images
            assert 2 <= min(sizes) <= max(sizes) <= batch_size + 1
            assert len(sizes) <= math.ceil(num_images / batch_size)


def test_an_epoch_has_a_step_for_every_batch():
    for num_images in (2, 5, 8, 9, 17, 21):
        batches = batches_of(num_images)
        assert len(batches) == len(list(batches)) == len(batch_sizes(num_images, 8))


@pytest.mark.parametrize(("num_images", "batch_size"), [(1, 8), (0, 8), (20, 1)])
def test_batches_of_one_are_refused(num_images, batch_size):
    with pytest.raises(InputError, match="BatchNorm needs at least 2"):
        batches_of(num_images, batch_size)


def test_ordered_batches_are_in_order():
    draws = list(OrderedBatches(7, 3))
    assert [[position for position, _ in batch] for batch in draws] == [[0, 1, 2], [3, 4, 5], [6]]
    assert len(OrderedBatches(7, 3)) == 3


# 17 leaves a last batch of one, 5 fits into one batch, 2 is the least.
@pytest.mark.parametrize(("images", "sizes"), [(17, [8, 9]), (5, [5]), (2, [2])])
def test_odd_numbers_of_images_train(data, tmp_path, images, sizes):
    recipe = small_recipe(data, tmp_path, "--limit", images)
    training, _ = make_loaders(recipe, CPU, ALONE)
    assert [len(batch) for batch in batches_on(training, CPU)] == sizes
    content = train_tiny(data, tmp_path / "run", "--limit", images)
    assert content["optimizer_state_dict"]["state"][0]["step"] == len(sizes)
    assert content["training_images"] == images


def test_a_batch_size_beyond_the_data_takes_all_of_them(tmp_path):
    root = write_labelled(tmp_path / "data", [0, 1, 2, 3, 4], [0, 1, 2])
    five, beyond = (
        train_tiny(root, tmp_path / str(size), "--epochs", 2, "--batch-size", size)
        for size in (5, 4096)
    )
    assert five["optimizer_state_dict"]["state"][0]["step"] == 2
    for part in ("model_state_dict", "criterion_state_dict", "optimizer_state_dict", "metrics"):
        assert differences(five[part], beyond[part]) == []


def test_one_image_cannot_be_trained_on(tmp_path):
    root = write_rafdb(tmp_path / "one", train=1, test=7)
    with pytest.raises(InputError, match="training split holds 1 image; BatchNorm"):
        train_tiny(root, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_grey_images_train_too(own_data, tmp_path):
    image = face(own_data, "train_00001")
    Image.open(image).convert("L").save(image)
    assert train_tiny(own_data, tmp_path / "run")["training_images"] == 21


# --------------------------------------------------------------------------------------------
# DataLoader workers


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_no_worker_and_one_give_the_same_run(data, tmp_path, sampling):
    for workers in (0, 1):
        flags = ("--workers", workers, "--sampling", sampling, "--epochs", 2)
        train_tiny(data, tmp_path / str(workers), *flags)
    assert_same_run(tmp_path / "0", tmp_path / "1")


@pytest.mark.parametrize(
    ("requested", "cores", "processes", "expected"),
    [(0, 4, 1, 0), (3, 1, 1, 3), (-1, 4, 1, 4), (-1, 64, 1, 8), (-1, 8, 4, 2), (-1, 2, 4, 1)],
)
def test_workers_for_a_gpu_take_the_cores(requested, cores, processes, expected, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(cores)))
    assert worker_count(requested, torch.device("cuda"), processes) == expected


@pytest.mark.parametrize(
    ("requested", "threads", "expected"),
    [(0, 8, 0), (3, 1, 3), (-1, 1, 0), (-1, 3, 0), (-1, 4, 1), (-1, 16, 4), (-1, 64, 8)],
)
def test_workers_on_a_cpu_are_few_beside_the_threads(requested, threads, expected, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert worker_count(requested, CPU) == expected


class DeadlyImage(RAFDB):
    """RAF-DB with an image whose reader is killed."""

    def read_image(self, index: int) -> Image.Image:
        """Image `index`, unless it is number 5."""
        if index == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read_image(index)


ADVICE = "; use fewer --workers or a smaller --batch-size; a training run goes on with --resume"
KILLED = "a DataLoader worker died: killed by the system, as when memory runs out"


def test_a_worker_that_is_killed_is_reported_in_a_line(data):
    images = SeededImages(DeadlyImage(data, "train", transforms.evaluation(SIZE)))
    loader = evaluation_loader(images, 4, workers=1, device=CPU)
    with pytest.raises(InputError) as error, reporting_worker_crashes():
        list(batches_on(loader, CPU))
    assert str(error.value) == KILLED + ADVICE


def exited(cause: Exception | None = None) -> Exception:
    error = RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly")
    error.__cause__ = cause
    return error


SIGNALLED = "DataLoader worker (pid 7) is killed by signal: {}. "


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (RuntimeError(SIGNALLED.format("Killed")), KILLED),
        (exited(), KILLED),
        (exited(RuntimeError(SIGNALLED.format("Bus error"))), "as without shared memory"),
        (RuntimeError(SIGNALLED.format("Bus error")), "as without shared memory"),
        (RuntimeError(SIGNALLED.format("Segmentation fault")), "died: DataLoader worker (pid 7)"),
        # It died while a batch was handed over.
        (ConnectionResetError(104, "Connection reset by peer"), KILLED),
        (EOFError(), KILLED),
    ],
)
def test_every_way_in_which_torch_reports_a_death_is_known(error, found, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    with pytest.raises(InputError) as caught, reporting_worker_crashes():
        raise error
    assert found in str(caught.value)
    assert str(caught.value).endswith(ADVICE)


@pytest.mark.parametrize(
    "error", [RuntimeError(SIGNALLED.format("Terminated")), ConnectionResetError(104, "reset")]
)
def test_a_signal_that_ended_the_workers_too_is_a_stop(error, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    monkeypatch.setattr("engine.data.stop_asked", lambda: Stopped(signal.SIGTERM))
    with pytest.raises(Stopped), reporting_worker_crashes():
        raise error


def test_other_errors_than_a_workers_death_pass():
    with pytest.raises(RuntimeError, match="another") as caught, reporting_worker_crashes():
        raise RuntimeError("another")
    assert not isinstance(caught.value, InputError)


# --------------------------------------------------------------------------------------------
# Images that cannot be read


@pytest.mark.parametrize("name", ["train_00003", "test_0002"])
@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_decoded_ends_the_run_by_name(own_data, tmp_path, name, workers):
    damage(own_data, name)
    # Not pytest.raises, which would keep the loaders and with them the workers.
    try:
        train_tiny(own_data, tmp_path / "run", "--workers", workers)
        message = ""
    except InputError as error:
        message = str(error)
    assert message.startswith(f"image {face(own_data, name)} cannot be decoded")
    assert "Traceback" not in message
    assert "worker" not in message
    assert not (tmp_path / "run/last.pth").exists()
    assert multiprocessing.active_children() == []


def test_what_is_left_of_a_batch_is_as_without_the_skipped_images(own_data, tmp_path):
    loader, _ = make_loaders(small_recipe(own_data, tmp_path, "--cache", "off"), CPU, ALONE)
    before = list(batches_on(loader, CPU))
    damage(own_data, "train_00003", "train_00009")
    skipped: list[str] = []
    after = list(batches_on(loader, CPU, skipped=skipped))
    assert sorted(line.split()[1] for line in skipped) == [
        str(face(own_data, name)) for name in ("train_00003", "train_00009")
    ]
    for whole, left in zip(before, after, strict=True):
        good = [n for n, index in enumerate(whole.indices.tolist()) if index not in (2, 8)]
        assert torch.equal(whole.images[good], left.images)
        assert torch.equal(whole.labels[good], left.labels)
        assert torch.equal(whole.indices[good], left.indices)


def test_a_batch_with_one_image_left_is_skipped(own_data, tmp_path, capsys):
    first = next(iter(batches_of(21)))
    kept, *others = (f"train_{position + 1:05d}" for position, _ in first)
    damage(own_data, *others)
    content = train_tiny(own_data, tmp_path / "run", *SKIP)
    assert content["optimizer_state_dict"]["state"][0]["step"] == 2
    shown = capsys.readouterr().out
    assert f"{face(own_data, kept)} alone in its batch" in shown
    assert "8 training and 0 evaluated images were skipped in epoch 1" in shown


@pytest.mark.parametrize(
    ("split", "words"),
    [("train", "had two readable images"), ("test", "none of the images to evaluate can be used")],
)
def test_a_split_without_a_usable_image_ends_the_run(own_data, tmp_path, split, words):
    for path in (own_data / "Image/aligned").glob(f"{split}_*"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match=words):
        train_tiny(own_data, tmp_path / "run", *SKIP)
    assert not (tmp_path / "run/last.pth").exists()


def test_images_that_are_gone_are_skipped_or_named(own_data, tmp_path):
    loader, _ = make_loaders(small_recipe(own_data, tmp_path, "--cache", "off"), CPU, ALONE)
    shutil.rmtree(own_data)
    skipped: list[str] = []
    assert list(batches_on(loader, CPU, skipped=skipped)) == []
    assert len(skipped) == 21
    with pytest.raises(InputError, match="does not exist"):
        next(batches_on(loader, CPU))


def test_batches_of_one_find_each_bad_image(own_data):
    damage(own_data, "test_0002", "test_0003")
    images = SeededImages(RAFDB(own_data, "test", transforms.evaluation(SIZE)))
    skipped: list[str] = []
    loader = evaluation_loader(images, 1, workers=0, device=CPU)
    seen = [batch.indices.item() for batch in batches_on(loader, CPU, skipped=skipped)]
    assert seen == [i for i in range(14) if i not in (1, 2)]
    assert len(skipped) == 2


def test_a_run_that_an_image_ended_goes_on_with_skip(own_data, tmp_path):
    train_tiny(own_data, tmp_path / "run")
    content = load(tmp_path / "run/last.pth")
    content["settings"]["epochs"] = 2
    torch.save(content, tmp_path / "run/last.pth")
    (tmp_path / "run/best.pth").unlink()
    damage(own_data, "train_00003")
    more = ("--epochs", 2, "--resume")
    with pytest.raises(InputError, match="cannot be decoded"):
        train_tiny(own_data, tmp_path / "run", *more)
    assert train_tiny(own_data, tmp_path / "run", *more, *SKIP)["iter"] == 2


def test_without_bad_images_skip_changes_nothing(data, tmp_path):
    train_tiny(data, tmp_path / "skip", *SKIP)
    train_tiny(data, tmp_path / "stop")
    for name in ("skip", "stop"):
        for file in ("last.pth", "best.pth"):
            content = load(tmp_path / name / file)
            del content["settings"]["on_bad_image"]
            torch.save(content, tmp_path / name / file)
    assert_same_run(tmp_path / "skip", tmp_path / "stop")
    assert not (tmp_path / "skip/skipped.txt").exists()


def test_several_processes_cannot_skip_images(data, tmp_path):
    with pytest.raises(InputError, match="--on-bad-image skip is not supported with 2 processes"):
        make_loaders(small_recipe(data, tmp_path, *SKIP), CPU, World(size=2))


# --------------------------------------------------------------------------------------------
# Parts of a split


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
    order = stratified_order([0] * 40, 0)
    assert order == stratified_order([0] * 40, 0)
    assert order != stratified_order([0] * 40, 1)
    assert order != sorted(order)


def chosen(recipe: Recipe) -> tuple[set[str], set[str]]:
    """File names trained on, and evaluated."""
    loaders = make_loaders(recipe, CPU, ALONE)
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
    _, test = make_loaders(recipe, CPU, ALONE)
    assert sorted(test.dataset.labels) == list(range(7))
    for seed in (1, 2):
        assert chosen(dataclasses.replace(recipe, seed=seed)) == (trained, evaluated)


def test_held_out_images_are_not_augmented(data, tmp_path):
    _, loader = make_loaders(small_recipe(data, tmp_path, "--holdout", 0.34), CPU, ALONE)
    plain = RAFDB(data, "train", transforms.evaluation(SIZE))
    (batch,) = batches_on(loader, CPU)
    expected = torch.stack([plain[i].image for i in batch.indices.tolist()])
    assert torch.equal(batch.images, expected)


def test_holdout_needs_no_test_split(tmp_path):
    root = write_rafdb(tmp_path / "data", test=0)
    content = train_tiny(root, tmp_path / "run", "--holdout", 0.34)
    assert len(content["metrics"]) == 1
    assert '"evaluated_split": "holdout"' in (tmp_path / "run/config.json").read_text()


@pytest.mark.parametrize(
    ("labels", "share", "kept_out"), [([0, 1], 0.5, 1), ([0] * 21, 0.001, 0), ([0] * 21, 0.99, 21)]
)
def test_a_holdout_that_leaves_too_few_images_is_refused(tmp_path, labels, share, kept_out):
    root = write_labelled(tmp_path / "data", labels, [0])
    words = f"--holdout {share} keeps {kept_out} of {len(labels)} images out"
    with pytest.raises(InputError, match=words):
        make_loaders(small_recipe(root, tmp_path, "--holdout", share), CPU, ALONE)


def test_the_folds_are_trained_on_in_turn_and_the_same_for_every_seed(data, tmp_path):
    every, judged = set(), []
    for fold in ("1/3", "2/3", "3/3"):
        recipe = small_recipe(data, tmp_path, "--fold", fold)
        trained, evaluated = chosen(recipe)
        assert not trained & evaluated
        assert (len(trained), len(evaluated)) == (14, 7)
        assert chosen(dataclasses.replace(recipe, seed=1)) == (trained, evaluated)
        every |= evaluated
        judged += evaluated
    assert len(every) == len(judged) == 21


def test_fold_and_limit_together_stay_apart(data, tmp_path):
    recipe = small_recipe(data, tmp_path, "--fold", "2/3", "--limit", 7)
    trained, evaluated = chosen(recipe)
    assert (len(trained), len(evaluated)) == (7, 7)
    assert not trained & evaluated
    training, _ = make_loaders(recipe, CPU, ALONE)
    assert sorted(training.dataset.labels) == list(range(7))


def test_a_fold_is_recorded_and_needs_no_test_split(tmp_path):
    root = write_rafdb(tmp_path / "data", test=0)
    content = train_tiny(root, tmp_path / "run", "--fold", "2/3")
    assert content["settings"]["fold"] == "2/3"
    dataset = RAFDB(root, "train")
    _, held_out = fold_images(dataset, "2/3")
    assert content["fold_checksum"] == fold_checksum(dataset, held_out)
    assert '"evaluated_split": "fold 2/3"' in (tmp_path / "run/config.json").read_text()


@pytest.mark.parametrize("limit", [2, 7, 10, 14, 20, 21, 999])
def test_limit_takes_that_many_images_alike_from_every_class(data, tmp_path, limit):
    training, test = make_loaders(small_recipe(data, tmp_path, "--limit", limit), CPU, ALONE)
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
# Shares of several processes


@pytest.mark.parametrize("size", [2, 3])
def test_processes_share_every_batch_without_overlap(size):
    def draws(share: Callable[[int], Sequence[int]]) -> list[list[tuple[int, int]]]:
        order = partial(shuffle, [0] * 21)
        return list(TrainingBatches(21, 8, 5, order, share=share, min_size=2 * size))

    whole = draws(range)
    shares = [draws(World(rank, size).share) for rank in range(size)]
    for parts, batch in zip(zip(*shares, strict=True), whole, strict=True):
        assert [draw for part in parts for draw in part] == batch
    assert all(len(part) >= 2 for share in shares for part in share)


def test_more_processes_than_evaluated_images_are_refused(tmp_path):
    root = write_rafdb(tmp_path / "data", test=1)
    with pytest.raises(InputError, match="1 images to evaluate for 2 processes"):
        make_loaders(small_recipe(root, tmp_path), CPU, World(size=2))


def test_the_label_file_decides_the_labels(own_data, tmp_path):
    """The same pictures with other labels are other data."""
    labels = own_data / LABEL_FILE
    labels.write_text(labels.read_text().replace("train_00001.jpg 1", "train_00001.jpg 2"))
    training, _ = make_loaders(small_recipe(own_data, tmp_path), CPU, ALONE)
    batch = next(b for b in batches_on(training, CPU) if 0 in b.indices)
    assert isinstance(batch, Batch)
    assert batch.labels[batch.indices == 0].tolist() == [1]
