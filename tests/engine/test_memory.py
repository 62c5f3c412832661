"""Decoded images in memory: the same batches, fewer files read, and only where they fit."""

from __future__ import annotations

import mmap
import multiprocessing
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from engine.loading import OrderedBatches, SeededImages, TrainingBatches, batches_on, make_loader
from torchvision.transforms import v2

from datasets import RAFDB, transforms
from engine import memory
from engine.train import make_loaders
from tests.support.scripts import SIZE, differences, small_recipe, write_rafdb

pytestmark = pytest.mark.filterwarnings("ignore:.*published are")

CPU = torch.device("cpu")


@pytest.fixture
def data(tmp_path) -> Path:
    return write_rafdb(tmp_path / "raf-basic")


def faces(data: Path, indices: list[int] | None = None) -> SeededImages:
    return SeededImages(RAFDB(data, "train", transforms.rafdb_train(SIZE)), indices)


def epochs(images: SeededImages, workers: int) -> list[list]:
    """The batches of two epochs; with memory the second reads no file."""
    sampler = TrainingBatches(len(images), 8, 0)
    loader = make_loader(images, sampler, workers=workers, device=CPU)
    loaded = []
    for epoch in (1, 2):
        sampler.epoch = epoch
        loaded.append([tuple(batch) for batch in batches_on(loader, CPU)])
    return loaded


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_with_and_without_memory(data, workers):
    kept = faces(data)
    assert "21 images are kept in memory: 0.1 MB" in memory.keep_in_memory([kept])
    assert differences(epochs(kept, workers), epochs(faces(data), 0)) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_what_was_read_once_is_never_read_again(data, workers):
    """Whichever process read it."""
    kept = faces(data)
    memory.keep_in_memory([kept])
    expected = epochs(kept, workers)
    for file in data.rglob("*.jpg"):
        file.unlink()
    assert differences(epochs(kept, workers), expected) == []


def test_a_part_of_a_data_set_is_kept_under_its_own_numbers(data):
    part, plain = (faces(data, [4, 17, 9]) for _ in range(2))
    memory.keep_in_memory([part])
    for _ in range(2):
        assert (
            differences([part[(i, 5)] for i in range(3)], [plain[(i, 5)] for i in range(3)]) == []
        )
    # An image that there is no room for is read from its file.
    images = []
    for dataset in (part.dataset, plain.dataset):
        torch.manual_seed(3)
        images.append(dataset[3][0])
    assert torch.equal(*images)


def test_images_that_do_not_fit_are_read_from_their_files(data, monkeypatch):
    images = faces(data)
    needed = 21 * SIZE * SIZE * 3
    monkeypatch.setattr(memory, "free_memory", lambda: 2 * needed)
    assert "kept in memory" in memory.keep_in_memory([images])
    assert images.dataset.cache is not None
    for free, processes in ((2 * needed - 2, 1), (2 * needed, 2), (1, 1)):
        images = faces(data)
        monkeypatch.setattr(memory, "free_memory", lambda free=free: free)
        said = memory.keep_in_memory([images], processes=processes)
        assert "read from their files every time: 21 would take" in said
        assert "more than 50%" in said
        assert images.dataset.cache is None


def test_all_splits_fit_together_or_none_is_kept(data, monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda: 3 * 21 * SIZE * SIZE * 3)
    parts = [faces(data), faces(data)]
    memory.keep_in_memory(parts)
    assert [part.dataset.cache for part in parts] == [None, None]


def test_a_transform_that_does_not_resize_first_is_left_alone(data):
    images = SeededImages(RAFDB(data, "train", lambda image: torch.zeros(3)))
    assert "resizes too late" in memory.keep_in_memory([images])
    assert images.dataset.cache is None


def test_memory_that_nobody_knows_of_is_not_taken(data, monkeypatch):
    images = faces(data)
    monkeypatch.setattr(memory, "free_memory", lambda: 0)
    assert "how much memory is free is not known" in memory.keep_in_memory([images])
    assert images.dataset.cache is None


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_cache_takes_memory_as_it_is_filled_or_knows_its_room(data, method, monkeypatch):
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda: method)
    images = faces(data)
    expected = epochs(faces(data), 0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**21))
    assert (memory.free_memory() == 2**21) == (method == "spawn")
    assert "kept in memory" in memory.keep_in_memory([images])
    assert isinstance(images.dataset.cache._pixels, mmap.mmap) == (method == "fork")
    assert differences(epochs(images, 0), expected) == []


@pytest.mark.parametrize("resize", [v2.Resize(None, max_size=40), v2.Resize(32)])
def test_a_resizing_to_no_fixed_size_is_left_alone(data, resize):
    images = SeededImages(RAFDB(data, "train", v2.Compose([resize, v2.ToImage()])))
    assert "resizes too late" in memory.keep_in_memory([images])


@pytest.mark.skipif(sys.platform != "linux", reason="asks the Linux kernel")
def test_free_memory_is_there_and_below_a_petabyte():
    assert 2**20 < memory.free_memory() < 2**50


def test_the_flag_decides_and_the_size_is_said(data, tmp_path, capsys):
    for flag, said in (("auto", "35 images are kept in memory"), ("off", "")):
        recipe = small_recipe(data, tmp_path, "--cache", flag)
        training, evaluation = make_loaders(recipe, CPU)
        assert said in capsys.readouterr().out
        for loader in (training, evaluation):
            assert (loader.dataset.dataset.cache is not None) == (flag == "auto")


def test_evaluated_images_are_the_same_too(data, tmp_path):
    kept, plain = (
        make_loaders(small_recipe(data, tmp_path, "--cache", flag), CPU)[1]
        for flag in ("auto", "off")
    )
    assert isinstance(kept.batch_sampler, OrderedBatches)
    for _ in range(2):
        one, other = ([tuple(b) for b in batches_on(loader, CPU)] for loader in (kept, plain))
        assert differences(one, other) == []
