"""Images in memory equal those of the files; bfloat16 and the compiler where asked for."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from torchvision.transforms import v2

from common.errors import InputError
from datasets import RAFDB, transforms
from engine import speed
from engine.data import SeededImages, TrainingBatches, batches_on, make_loader, make_loaders
from engine.distributed import World
from engine.optim import shuffle
from engine.speed import (
    CachedImages,
    autocast,
    cache_bytes,
    cache_images,
    reporting_compiler_errors,
)
from tests.support.scripts import SIZE, differences, small_recipe, train_tiny

CPU = torch.device("cpu")
IMAGE_BYTES = SIZE * SIZE * 3

# --------------------------------------------------------------------------------------------
# Images in memory


def faces(data: Path) -> RAFDB:
    return RAFDB(data, "train", transforms.rafdb_train(SIZE))


def cached(data: Path) -> CachedImages:
    (dataset,), line = cache_images([(faces(data), range(21))])
    assert line.startswith("21 images are kept in memory: 0.1 MB of ")
    return dataset


def epochs(dataset: RAFDB | CachedImages, workers: int = 0) -> list[list[dict]]:
    """The batches of two epochs; a cache reads no file in the second."""
    sampler = TrainingBatches(21, 8, 0, lambda generator: shuffle([0] * 21, generator))
    loader = make_loader(SeededImages(dataset), sampler, workers=workers, device=CPU)
    loaded = []
    for sampler.epoch in (1, 2):
        loaded.append([vars(batch) for batch in batches_on(loader, CPU)])
    return loaded


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_bitwise_identical_from_memory_and_from_files(data, workers):
    assert differences(epochs(cached(data), workers), epochs(faces(data))) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_was_read_is_not_read_again(own_data, workers):
    """Whichever process read it."""
    sampler = TrainingBatches(21, 8, 0, lambda generator: shuffle([0] * 21, generator))
    dataset = cached(own_data)
    loader = make_loader(SeededImages(dataset), sampler, workers=workers, device=CPU)
    expected = [vars(batch) for batch in batches_on(loader, CPU)]
    for file in own_data.rglob("*.jpg"):
        file.unlink()
    assert differences([vars(batch) for batch in batches_on(loader, CPU)], expected) == []
    # Nor by workers that are started later.
    assert differences(epochs(dataset, workers)[0], expected) == []


def test_a_part_of_a_data_set_is_kept_under_its_own_indices(data):
    whole, indices = faces(data), [4, 17, 9]
    (part,), line = cache_images([(whole, indices)])
    assert line.startswith("3 images")
    assert cache_bytes(whole, 3) == 3 * IMAGE_BYTES
    for _ in range(2):
        one, other = (
            [images[(i, 5)] for i in range(3)]
            for images in (SeededImages(part, indices), SeededImages(whole, indices))
        )
        assert differences(one, other) == []


def test_a_cache_is_the_data_set_in_all_other_ways(data):
    dataset, plain = cached(data), faces(data)
    assert len(dataset) == len(plain) == 21
    for name in ("name", "classes", "labels", "split", "root", "layout"):
        assert getattr(dataset, name) == getattr(plain, name)
    assert dataset.describe(3) == plain.describe(3)
    with pytest.raises(AttributeError, match="unheard_of"):
        _ = dataset.unheard_of


class WithPose(RAFDB):
    """RAF-DB with a target for every image."""

    def targets(self, index: int) -> dict[str, torch.Tensor]:
        """The image's index."""
        return {"pose": torch.tensor([index])}


def test_targets_come_with_images_from_memory(data):
    dataset = WithPose(data, "train", transforms.rafdb_train(SIZE))
    (kept,), _ = cache_images([(dataset, range(21))])
    for _ in range(2):
        assert kept[7].targets == {"pose": torch.tensor([7])}
        assert kept[7].label == dataset.labels[7]


@pytest.mark.parametrize(
    ("free", "processes", "kept"),
    [(42, 1, True), (41.9, 1, False), (42, 2, False), (84, 2, True), (0, 1, False)],
)
def test_images_are_kept_where_they_take_at_most_half_of_what_is_free(
    data, monkeypatch, free, processes, kept
):
    """free: in images."""
    monkeypatch.setattr(speed, "free_memory", lambda: int(free * IMAGE_BYTES))
    (dataset,), line = cache_images([(faces(data), range(21))], processes=processes)
    assert isinstance(dataset, CachedImages) == kept
    if kept:
        assert line.startswith("21 images are kept in memory")
    else:
        assert line.startswith("images are read from their files every time: 21 would take")
        assert "more than 50% of the" in line


def test_all_splits_are_kept_or_none(data, monkeypatch):
    monkeypatch.setattr(speed, "free_memory", lambda: 3 * 21 * IMAGE_BYTES)
    parts = [(faces(data), range(21)), (faces(data), range(21))]
    datasets, _ = cache_images(parts)
    assert datasets == [dataset for dataset, _ in parts]


@pytest.mark.parametrize(
    "transform",
    [
        lambda image: torch.zeros(3),
        v2.Compose([v2.ToImage(), v2.Resize((32, 32))]),
        v2.Compose([v2.Resize(None, max_size=40), v2.ToImage()]),
        v2.Compose([v2.Resize(32), v2.ToImage()]),
    ],
    ids=["no resizing", "late", "longest side", "shortest side"],
)
def test_a_transform_that_does_not_begin_with_a_fixed_size_is_left_alone(data, transform):
    dataset = RAFDB(data, "train", transform)
    (found,), line = cache_images([(dataset, range(21))])
    assert found is dataset
    assert line.endswith("their transform resizes too late")
    with pytest.raises(ValueError, match="fixed size"):
        CachedImages(dataset, range(21))


def test_images_are_kept_on_linux_alone(data, monkeypatch):
    """Workers are not forked elsewhere, so each would have a cache of its own."""
    dataset = faces(data)
    monkeypatch.setattr("sys.platform", "darwin")
    (found,), line = cache_images([(dataset, range(21))])
    assert found is dataset
    assert line.endswith("workers share no memory")


@pytest.mark.parametrize(("flag", "kept"), [("auto", True), ("off", False)])
def test_the_flag_decides_and_the_log_says_so(data, tmp_path, capsys, flag, kept):
    loaders = make_loaders(small_recipe(data, tmp_path, "--cache", flag), CPU, World())
    assert ("35 images are kept in memory" in capsys.readouterr().out) == kept
    for loader in loaders:
        assert isinstance(loader.dataset.dataset, CachedImages) == kept


def test_evaluated_images_are_bitwise_identical_too(data, tmp_path):
    kept, read = (
        make_loaders(small_recipe(data, tmp_path, "--cache", flag), CPU, World())[1]
        for flag in ("auto", "off")
    )
    for _ in range(2):
        one, other = ([vars(b) for b in batches_on(loader, CPU)] for loader in (kept, read))
        assert differences(one, other) == []


# --------------------------------------------------------------------------------------------
# bfloat16


@pytest.mark.parametrize(("bf16", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_autocast_decides_the_type_of_products(bf16, dtype):
    matrix = torch.ones(2, 2)
    with autocast(CPU, bf16):
        assert (matrix @ matrix).dtype == dtype


# --------------------------------------------------------------------------------------------
# The compiler


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """torch.compile with nothing remembered from before, and nothing kept."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
@pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="torch.compile needs a C++ compiler"
)
def test_a_compiled_run_ends_as_one_that_is_not(data, tmp_path):
    flags = ("--limit", 14, "--batch-size", 14)  # one size to compile for: 14 are evaluated
    expected = train_tiny(data, tmp_path / "expected", *flags)
    compiled = train_tiny(data, tmp_path / "compiled", *flags, "--compile")
    assert list(compiled["model_state_dict"]) == list(expected["model_state_dict"])
    (mine,), (other,) = compiled["metrics"], expected["metrics"]
    assert mine["accuracy"] == other["accuracy"]
    assert mine["loss"] == pytest.approx(other["loss"], rel=1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
def test_a_compiler_that_is_not_there_is_an_error_of_one_line(data, tmp_path, monkeypatch):
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, str(tmp_path / "no-compiler")))
    with pytest.raises(InputError, match=r"--compile: torch cannot compile .*No working C\+\+"):
        train_tiny(data, tmp_path / "run", "--compile")


def test_other_errors_than_the_compilers_pass():
    with pytest.raises(RuntimeError, match="another") as caught, reporting_compiler_errors():
        raise RuntimeError("another")
    assert not isinstance(caught.value, InputError)
