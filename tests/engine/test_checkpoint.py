"""Checkpoints: written whole or not at all, resumed to the last bit, refused where they differ."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import train_rafdb
from common.errors import InputError
from common.flags import flag
from engine import checkpoint as checkpoints
from engine import train as engine_train
from engine.checkpoint import load_checkpoint, save_checkpoint
from engine.run_folder import FILES
from engine.train import build, train
from tests.support.scripts import (
    CLASSES,
    TINY,
    Forked,
    PowerCut,
    TinyMethod,
    assert_same_run,
    differences,
    load,
    scramble_random_generators,
    small_recipe,
    snapshot,
    train_tiny,
    train_until,
    write_rafdb,
)

FLAGS = ("--epochs", 3)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory) -> Path:
    """A run of three epochs that nothing interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train_tiny(data, folder, *FLAGS)
    return folder


@pytest.fixture(scope="module")
def cut_after_one(data, tmp_path_factory) -> Path:
    """That run, cut in its second epoch; to be left as it is."""
    folder = tmp_path_factory.mktemp("runs") / "one"
    train_until(small_recipe(data, folder, *FLAGS), 1)
    return folder


@pytest.fixture
def cut(cut_after_one, tmp_path) -> Path:
    """A copy of that folder."""
    return shutil.copytree(cut_after_one, tmp_path / "cut")


def resume(data: Path, folder: Path, *flags: object) -> dict:
    return train_tiny(data, folder, *FLAGS, "--resume", *flags)


def refusal(data: Path, folder: Path, *flags: object) -> str:
    """The line with which resuming is refused; the folder must stay as it is."""
    before = snapshot(folder)
    with pytest.raises(InputError) as error:
        resume(data, folder, *flags)
    assert snapshot(folder) == before
    assert str(error.value).isprintable()
    return str(error.value)


# --------------------------------------------------------------------------------------------
# Files


def test_a_checkpoint_is_read_as_it_was_written(tmp_path):
    content = {"iter": 3, "model_state_dict": {"a": torch.rand(3), "b": torch.tensor(2)}}
    save_checkpoint(tmp_path / "x.pth", content)
    assert differences(load_checkpoint(tmp_path / "x.pth"), content) == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"iter": 1, "state_dict": {}}, "it has iter, state_dict, but no dict model_state_dict"),
        ({}, "it has nothing, but no dict model_state_dict"),
        ({"model_state_dict": [1]}, "model_state_dict"),
    ],
)
def test_a_file_without_a_model_is_not_a_checkpoint(tmp_path, content, words):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(InputError, match=f"x.pth is not a checkpoint: .*{words}"):
        load_checkpoint(tmp_path / "x.pth")


def in_second_epoch(data: Path, folder: Path, fault: Callable[[], None]) -> tuple[int, str]:
    """Train in a process in which something happens after the first epoch: (status, last line)."""
    run_epoch = engine_train.run_epoch

    def run_epoch_after_fault(run: engine_train.Run) -> None:
        if run.epoch == 1:
            fault()
        run_epoch(run)

    def main() -> None:
        engine_train.run_epoch = run_epoch_after_fault
        train(small_recipe(data, folder, *FLAGS))

    process = Forked(main)
    errors = process.communicate()[1].decode()
    status = process.returncode
    process.end()
    assert "Traceback" not in errors
    return status, errors.splitlines()[-1]


def test_a_full_disk_leaves_the_last_checkpoint(data, whole, tmp_path):
    """As `ulimit -f`, and as a quota: writing beyond some kilobytes fails."""
    folder, limits = tmp_path / "run", (20_000, 20_000)
    status, line = in_second_epoch(
        data, folder, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    )
    assert status == 2
    assert line.startswith(f"error: cannot write {folder}/")
    assert "the previous file is unchanged" in line
    for name in ("last.pth", "best.pth"):
        assert load(folder / name)["iter"] == 1
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(FILES)
    resume(data, folder)
    assert_same_run(folder, whole)


# --------------------------------------------------------------------------------------------
# A resumed run ends as an uninterrupted one


@pytest.mark.parametrize(
    ("optimizer", "scheduler", "done"),
    [
        ("sgd", "step", 1),
        ("sgd", "cosine", 3),
        ("adam", "cosine", 1),
        ("adamw", "exponential", 1),
        ("adamw", "step", 3),
    ],
)
def test_a_resumed_run_ends_as_an_uninterrupted_one(data, tmp_path, done, optimizer, scheduler):
    flags = ["--epochs", 4, "--scheduler", scheduler, "--optimizer", optimizer]
    train_tiny(data, tmp_path / "whole", *flags)
    train_until(small_recipe(data, tmp_path / "cut", *flags), done)
    scramble_random_generators()
    train_tiny(data, tmp_path / "cut", *flags, "--resume")
    assert_same_run(tmp_path / "cut", tmp_path / "whole")


TRICKS = {
    "--mixup": 0.2,
    "--label-smoothing": 0.1,
    "--ema": 0.9,
    "--warmup": 1,
    "--backbone-lr": 0.5,
    "--grow": "32x2",
    "--image-size": 40,
}


@pytest.mark.parametrize("done", [1, 2, 3])
def test_a_run_with_every_trick_resumes_to_the_bit(data, tmp_path, done):
    """Before, at and after the change of the image size."""
    flags = ["--epochs", 4, "--scheduler", "cosine", *itertools.chain(*TRICKS.items())]
    train_tiny(data, tmp_path / "whole", *flags)
    train_until(small_recipe(data, tmp_path / "cut", *flags), done)
    scramble_random_generators()
    train_tiny(data, tmp_path / "cut", *flags, "--resume")
    assert_same_run(tmp_path / "cut", tmp_path / "whole")


def test_the_raw_weights_are_stored_beside_their_average(data, tmp_path):
    average = train_tiny(data, tmp_path / "ema", "--epochs", 2, "--ema", 0.9)
    without = train_tiny(data, tmp_path / "raw", "--epochs", 2)
    assert differences(average["raw_state_dict"], without["model_state_dict"]) == []
    assert differences(average["model_state_dict"], average["raw_state_dict"]) != []
    assert "raw_state_dict" not in without
    del average["raw_state_dict"]
    run = build(small_recipe(data, tmp_path, "--epochs", 2, "--ema", 0.9))
    with pytest.raises(InputError, match="raw_state_dict is not what this version writes"):
        checkpoints.restore(run, average)


@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 1)])
def test_the_number_of_workers_may_change(data, whole, tmp_path, before, after):
    """Nor do random states depend on whether and how often workers are started."""
    train_until(small_recipe(data, tmp_path / "run", *FLAGS, "--workers", before), 1)
    resume(data, tmp_path / "run", "--workers", after)
    assert_same_run(tmp_path / "run", whole)


@pytest.mark.slow
def test_dan_resumes_to_the_bit_with_other_workers(data, tmp_path):
    def recipe(folder: str, *flags: object) -> Any:
        flags = ("--heads", 2, "--epochs", 2, "--optimizer", "sgd", *flags)
        return small_recipe(data, tmp_path / folder, *flags, recipe=train_rafdb.RECIPE)

    train(recipe("whole"))
    train_until(recipe("cut"), 1)
    scramble_random_generators()
    train(recipe("cut", "--resume", "--workers", 2))
    assert_same_run(tmp_path / "cut", tmp_path / "whole")
    centers = load(tmp_path / "cut/last.pth")["criterion_state_dict"]["affinity.centers"]
    assert centers.shape == (CLASSES, 512)
    for folder in ("whole", "cut"):
        shutil.rmtree(tmp_path / folder)  # 120 MB a file


@pytest.mark.parametrize("name", ["metrics.csv", "best.pth", "last.pth"])
def test_a_cut_between_the_files_of_an_epoch_leaves_nothing_out(
    data, whole, cut, name, monkeypatch
):
    """The power goes in the second epoch, just before one of its files is written."""

    def until(write: Callable) -> Callable:
        def write_or_stop(place: Path, content: Any) -> None:
            if name in (place.name, "metrics.csv" if place == cut else ""):
                raise PowerCut
            write(place, content)

        return write_or_stop

    with monkeypatch.context() as patch:
        for function in ("save_checkpoint", "write_metrics"):
            patch.setattr(checkpoints, function, until(getattr(checkpoints, function)))
        # Every epoch is the best so far, so that best.pth is written.
        patch.setattr(engine_train.Run, "best_row", lambda run: run.rows[-1])
        with pytest.raises(PowerCut):
            resume(data, cut)
    resume(data, cut)
    assert (cut / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
    last, expected = load(cut / "last.pth"), load(whole / "last.pth")
    for part in ("model_state_dict", "optimizer_state_dict", "random_states", "metrics"):
        assert differences(last[part], expected[part]) == []


def test_resume_with_nothing_there_starts(data, whole, tmp_path):
    resume(data, tmp_path / "new")
    assert_same_run(tmp_path / "new", whole)


def test_resume_after_a_first_epoch_that_was_cut_starts_again(data, whole, tmp_path):
    train_until(small_recipe(data, tmp_path / "run", *FLAGS), 0)
    assert list(snapshot(tmp_path / "run")) == ["config.json"]
    resume(data, tmp_path / "run")
    assert_same_run(tmp_path / "run", whole)


def test_a_finished_run_says_so_and_stays_as_it_is(data, whole, capsys):
    before = snapshot(whole)
    resume(data, whole)
    assert "is finished: 3 epochs; nothing to resume" in capsys.readouterr().out
    assert snapshot(whole) == before


def test_best_alone_is_resumed(data, whole, cut, capsys):
    """A first epoch that was cut between best.pth and last.pth; or last.pth was lost."""
    (cut / "last.pth").unlink()
    resume(data, cut)
    assert "from epoch 2" in capsys.readouterr().out
    assert_same_run(cut, whole)


def test_the_newer_of_best_and_last_is_resumed(data, whole, cut, tmp_path, capsys):
    train_until(small_recipe(data, tmp_path / "later", *FLAGS), 2)
    shutil.copy(tmp_path / "later/last.pth", cut / "best.pth")
    resume(data, cut)
    assert "from epoch 3" in capsys.readouterr().out
    assert (cut / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
    weights = (load(folder / "last.pth")["model_state_dict"] for folder in (cut, whole))
    assert differences(*weights) == []


def test_a_whole_run_without_last_is_finished(data, tmp_path, capsys):
    train_tiny(data, tmp_path / "run")
    (tmp_path / "run/last.pth").unlink()
    train(small_recipe(data, tmp_path / "run", "--resume"))
    assert "is finished: 1 epochs" in capsys.readouterr().out


# --------------------------------------------------------------------------------------------
# Other settings, other data, other files


def test_every_setting_that_differs_is_named(data, cut):
    message = refusal(
        data, cut, "--epochs", 4, "--lr", 0.5, "--heads", 2, "--optimizer", "sgd", "--workers", 1
    )
    for words in (
        "--epochs was 3, is now 4",
        "--lr was 0.001, is now 0.5",
        "--heads was 4, is now 2",
        "--optimizer was AdamW(weight_decay=0.05), is now SGD(momentum=0.9, weight_decay=0.0001)",
    ):
        assert words in message
    assert "--seed" not in message
    assert "--workers" not in message


def test_what_does_not_decide_the_result_may_change(data, whole, cut):
    resume(data, cut, "--fast", "--cache", "off", "--on-bad-image", "skip")
    assert (cut / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()


def test_the_run_of_another_recipe_is_refused(data, cut):
    recipe = dataclasses.replace(TINY, name="ferplus")
    with pytest.raises(InputError, match="the recipe was rafdb, is now ferplus"):
        train(small_recipe(data, cut, *FLAGS, "--resume", recipe=recipe))


@dataclasses.dataclass(frozen=True, kw_only=True)
class YoungerMethod(TinyMethod):
    """A later version with another flag."""

    strength: float = flag(0.5, help="of something new")


def test_a_flag_that_is_younger_than_the_checkpoint_had_its_default(data, whole, cut):
    # The recipe's own value is not what runs had before there was the flag.
    younger = dataclasses.replace(TINY, method=YoungerMethod(strength=2.0))
    flags = (*FLAGS, "--resume")
    with pytest.raises(InputError, match=r"--strength was 0\.5, is now 2\.0"):
        train_tiny(data, cut, *flags, recipe=younger)
    content = train_tiny(data, cut, *flags, "--strength", 0.5, recipe=younger)
    assert content["settings"]["strength"] == 0.5
    expected = load(whole / "last.pth")["model_state_dict"]
    assert differences(content["model_state_dict"], expected) == []


def test_other_types_of_settings_differ(data, cut):
    """A bool is not a number, and a tensor compares to neither (found by tests/fuzz.py)."""
    checkpoint, recipe = load(cut / "last.pth"), small_recipe(data, cut, *FLAGS)
    assert checkpoints.differences(checkpoint, recipe) == []
    for value in (torch.zeros(2), True, "4", 4.0):
        checkpoint["settings"]["heads"] = value
        (difference,) = checkpoints.differences(checkpoint, recipe)
        assert difference == f"--heads was {value}, is now 4"


def test_a_flag_that_this_version_has_not_is_refused(data, cut):
    change(cut, lambda content: content["settings"].update(mix_up=0.2))
    assert "--mix-up is not a flag of this version" in refusal(data, cut)


def test_a_flag_that_is_gone_and_was_off_is_no_difference(data, cut):
    """Runs from before have `plain`, which is gone."""
    change(cut, lambda content: content["settings"].update(plain=False))
    assert resume(data, cut)["iter"] == 3


def test_a_run_that_ended_between_its_two_checkpoints_gets_the_second(data, tmp_path):
    whole = train_tiny(data, tmp_path / "run", "--epochs", 1)
    (tmp_path / "run/last.pth").unlink()
    train_tiny(data, tmp_path / "run", "--epochs", 1, "--resume")
    again = load(tmp_path / "run/last.pth")
    assert differences(again["model_state_dict"], whole["model_state_dict"]) == []
    assert again["iter"] == 1


def test_data_of_another_size_are_refused(tmp_path):
    before = write_rafdb(tmp_path / "before", train=14, test=7)
    train_until(small_recipe(before, tmp_path / "run", *FLAGS), 1)
    after = write_rafdb(tmp_path / "after", train=21, test=7)
    message = refusal(after, tmp_path / "run")
    assert f"was trained on 14 images, {after} now gives 21" in message


@pytest.mark.parametrize("name", ["last.pth", "best.pth"])
def test_a_damaged_file_is_named(data, cut, name):
    content = (cut / name).read_bytes()
    (cut / name).write_bytes(content[:1000])
    message = refusal(data, cut)
    assert f"checkpoint {cut / name} cannot be read" in message


def test_released_files_cannot_be_resumed(data, cut):
    content = load(cut / "last.pth")
    released = ("iter", "model_state_dict", "optimizer_state_dict")
    torch.save({name: content[name] for name in released}, cut / "last.pth")
    assert "last.pth cannot be resumed: training_images should be int" in refusal(data, cut)


# --------------------------------------------------------------------------------------------
# Names, shapes and types


def change(folder: Path, edit: Callable[[dict], Any]) -> None:
    """Edit last.pth."""
    content = load(folder / "last.pth")
    edit(content)
    torch.save(content, folder / "last.pth")


# (the keys that lead to a value, another value, what the message says of the place)
OPTIMIZER, RANDOM = "optimizer_state_dict", "random_states"
DAMAGE: dict[str, tuple[tuple, Any, str]] = {
    "iter as text": (("iter",), "2", "iter should be int"),
    "iter as a truth": (("iter",), True, "iter should be int"),
    "another iter": (("iter",), 2, "its metrics are not one row per epoch"),
    "no metrics": (("metrics",), {}, "metrics should be list"),
    "rows of no kind": (("metrics",), [[]], "its metrics are not"),
    "rows without names": (("metrics",), [{}], "its metrics are not"),
    "a metric as text": (("metrics", 0, "lr"), "\x1b[2J", "its metrics are not"),
    "a metric that is nan": (("metrics", 0, "accuracy"), float("nan"), "its metrics are not"),
    "settings of no kind": (("settings",), [1], "settings should be dict"),
    "no weight": (("model_state_dict", "fc.bias"), None, "model_state_dict fc.bias"),
    "weights of another shape": (
        ("model_state_dict", "fc.bias"),
        torch.zeros(8),
        "model_state_dict fc.bias",
    ),
    "weights of another type": (
        ("model_state_dict", "fc.bias"),
        torch.zeros(7, dtype=torch.float64),
        "model_state_dict fc.bias",
    ),
    "another weight": (("model_state_dict", "other"), torch.zeros(1), "model_state_dict"),
    "centers of another shape": (
        ("criterion_state_dict", "affinity.centers"),
        torch.zeros(3, 3),
        "criterion_state_dict affinity.centers",
    ),
    "no optimiser": ((OPTIMIZER,), {}, "param_groups"),
    "groups of no kind": ((OPTIMIZER, "param_groups"), [1], "does not fit"),
    "two groups": ((OPTIMIZER, "param_groups"), [{}, {}], "param_groups"),
    "learning rate as text": ((OPTIMIZER, "param_groups", 0, "lr"), "high", "param_groups 0 lr"),
    "one beta": ((OPTIMIZER, "param_groups", 0, "betas"), [0.9], "param_groups 0 betas"),
    "states of others": ((OPTIMIZER, "state"), {5: {}}, "state belongs to other parameters"),
    "states of no kind": ((OPTIMIZER, "state"), 5, "does not fit"),
    "a state of no kind": ((OPTIMIZER, "state", 1), ["step"], "does not fit"),
    "a moment of another shape": (
        (OPTIMIZER, "state", 0, "exp_avg"),
        torch.zeros(5),
        "parameter 0 has another layout",
    ),
    "a moment as text": ((OPTIMIZER, "state", 0, "exp_avg"), "x", "parameter 0 has another layout"),
    "half a state": (
        (OPTIMIZER, "state", 2),
        {"step": torch.tensor(1.0)},
        "parameter 2 has another layout",
    ),
    "a method of the scheduler": (("scheduler_state_dict", "step"), 3, "scheduler_state_dict"),
    "the scheduler's rates": (
        ("scheduler_state_dict", "base_lrs"),
        "x",
        "scheduler_state_dict base_lrs",
    ),
    "no generators": ((RANDOM,), {}, RANDOM),
    "torch's generator": ((RANDOM, "torch"), torch.zeros(3), f"{RANDOM} torch"),
    "torch's state": ((RANDOM, "torch"), torch.zeros(5056, dtype=torch.uint8), "does not fit"),
    "numpy's position": ((RANDOM, "numpy", 2), 10**9, "does not fit"),
    "numpy's keys": (
        (RANDOM, "numpy", 1),
        torch.zeros(3, dtype=torch.int64),
        f"{RANDOM} numpy 1",
    ),
    "python's generator": ((RANDOM, "python"), [3, [1, 2], None], f"{RANDOM} python 1"),
    "python's state": ((RANDOM, "python", 1, 5), -1, "does not fit"),
}


@pytest.mark.parametrize(("keys", "value", "words"), DAMAGE.values(), ids=DAMAGE)
def test_invalid_checkpoint_content_is_refused_and_named(data, cut, keys, value, words):
    def edit(content: Any) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    change(cut, edit)
    message = refusal(data, cut)
    assert "cannot be resumed" in message or "does not fit the run" in message
    assert words in message


@pytest.mark.parametrize("name", ["a,b\n", 1])
def test_metrics_with_other_names_are_refused_before_anything_is_written(data, cut, name):
    change(cut, lambda content: content["metrics"][0].update({name: 1.0}))
    message = refusal(data, cut)
    assert "has the metrics ['epoch', 'lr', 'loss', 'cls', " in message
    assert "this version ['epoch', 'lr', " in message


def test_a_missing_name_and_another_order_of_names_are_refused(data, cut):
    original = load(cut / "last.pth")
    weights = original["model_state_dict"]
    for names in (list(weights)[1:], list(weights)[::-1]):
        content = copy.copy(original)
        content["model_state_dict"] = {name: weights[name] for name in names}
        torch.save(content, cut / "last.pth")
        assert "model_state_dict is not what this version writes" in refusal(data, cut)


# --------------------------------------------------------------------------------------------
# Random generators


def test_a_run_starts_from_its_seed(data, tmp_path):
    scramble_random_generators()
    one = build(small_recipe(data, tmp_path, "--seed", 3)).network.state_dict()
    two, three = (
        build(small_recipe(data, tmp_path, "--seed", seed)).network.state_dict() for seed in (3, 4)
    )
    assert differences(dict(one), dict(two)) == []
    assert differences(dict(one), dict(three)) != []
