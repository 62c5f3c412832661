"""What --resume goes on from: which file, with which settings, and what it refuses."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
import torch

from common.errors import InputError
from common.flags import flag
from engine import train as engine_train
from engine.train import train
from tests.support.scripts import (
    TINY,
    Forked,
    TinyMethod,
    assert_same_run,
    load,
    small_recipe,
    snapshot,
    write_rafdb,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*published are")
FLAGS = ("--epochs", 3)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_rafdb(tmp_path_factory.mktemp("data") / "raf-basic")


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory) -> Path:
    """A run of three epochs that nothing interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train(small_recipe(data, folder, *FLAGS))
    return folder


def cut(data: Path, folder: Path, *, epochs: int) -> None:
    """A run of three epochs that is gone after so many, lock and all."""
    original = engine_train.train_epoch

    def train_epoch(current):
        if current.epoch == epochs:
            os._exit(9)
        original(current)

    def main():
        engine_train.train_epoch = train_epoch
        train(small_recipe(data, folder, *FLAGS))

    process = Forked(main)
    process.communicate()
    assert process.returncode == 9
    process.end()
    assert load(folder / "last.pth")["iter"] == epochs


def resume(data: Path, folder: Path, *flags: object) -> None:
    train(small_recipe(data, folder, *FLAGS, "--resume", *flags))


def test_best_alone_is_gone_on_from(data, whole, tmp_path, capsys):
    """A first epoch that ended between best.pth and last.pth; or last.pth was lost."""
    cut(data, tmp_path / "run", epochs=1)
    (tmp_path / "run/last.pth").unlink()
    capsys.readouterr()
    resume(data, tmp_path / "run")
    assert "from epoch 2" in capsys.readouterr().out
    assert_same_run(tmp_path / "run", whole)


def test_the_newer_of_best_and_last_is_gone_on_from(data, whole, tmp_path, capsys):
    cut(data, tmp_path / "run", epochs=1)
    before = (tmp_path / "run/last.pth").read_bytes()
    content = load(tmp_path / "run/last.pth")
    cut(data, tmp_path / "later", epochs=2)
    (tmp_path / "run/best.pth").write_bytes((tmp_path / "later/last.pth").read_bytes())
    capsys.readouterr()
    resume(data, tmp_path / "run")
    assert "from epoch 3" in capsys.readouterr().out
    assert (tmp_path / "run/metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
    assert (
        load(tmp_path / "run/last.pth")["model_state_dict"].keys()
        == content["model_state_dict"].keys()
    )
    assert (tmp_path / "run/last.pth").read_bytes() != before


def test_a_last_epoch_that_ended_before_last_is_completed(data, tmp_path, capsys):
    train(small_recipe(data, tmp_path / "run"))
    expected = load(tmp_path / "run/last.pth")["iter"]
    (tmp_path / "run/last.pth").unlink()
    train(small_recipe(data, tmp_path / "run", "--resume"))
    assert "is finished: 1 epochs" in capsys.readouterr().out
    assert load(tmp_path / "run/last.pth")["iter"] == expected


def test_parts_that_a_killed_run_left_are_cleared_away(data, whole, tmp_path):
    cut(data, tmp_path / "run", epochs=1)
    for name in (".last.pth.abc", ".metrics.csv.x", ".best.pth.1", ".config.json.2"):
        (tmp_path / "run" / name).write_bytes(b"half")
    (tmp_path / "run/.mine").write_text("not ours")
    resume(data, tmp_path / "run")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {".mine", "best.pth", "last.pth", "metrics.csv", "config.json"}


def test_a_damaged_last_says_how_to_go_on_from_best(data, tmp_path):
    cut(data, tmp_path / "run", epochs=1)
    path = tmp_path / "run/last.pth"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"last\.pth .*to go on from best\.pth, delete it"):
        resume(data, tmp_path / "run")


@dataclasses.dataclass(frozen=True, kw_only=True)
class YoungerMethod(TinyMethod):
    """A later version with another flag."""

    strength: float = flag(0.5, help="of something new")


def test_a_flag_that_is_younger_than_the_checkpoint_had_its_default(data, whole, tmp_path):
    cut(data, tmp_path / "run", epochs=1)
    younger = dataclasses.replace(TINY, method=YoungerMethod(strength=2.0))
    # The recipe's own value is not what runs had before there was the flag.
    flags = (*FLAGS, "--resume")
    with pytest.raises(InputError, match=r"--strength was 0\.5, is now 2\.0"):
        train(small_recipe(data, tmp_path / "run", *flags, recipe=younger))
    train(small_recipe(data, tmp_path / "run", *flags, "--strength", 0.5, recipe=younger))
    assert load(tmp_path / "run/last.pth")["settings"]["strength"] == 0.5
    first, second = load(tmp_path / "run/last.pth"), load(whole / "last.pth")
    for name, tensor in second["model_state_dict"].items():
        assert torch.equal(first["model_state_dict"][name], tensor)


def test_a_flag_that_this_version_has_not_is_refused(data, tmp_path):
    cut(data, tmp_path / "run", epochs=1)
    content = load(tmp_path / "run/last.pth")
    content["settings"]["mixup"] = 0.2
    torch.save(content, tmp_path / "run/last.pth")
    with pytest.raises(InputError, match=r"--mixup was 0\.2, and is no flag of this version"):
        resume(data, tmp_path / "run")


def test_a_setting_that_is_a_tensor_is_another_setting(data, tmp_path):
    """Found by tests/fuzz.py: a tensor does not compare to True or False."""
    cut(data, tmp_path / "run", epochs=1)
    content = load(tmp_path / "run/last.pth")
    content["settings"]["heads"] = torch.zeros(2)
    torch.save(content, tmp_path / "run/last.pth")
    with pytest.raises(InputError, match="--heads was tensor"):
        resume(data, tmp_path / "run")


def set_at(*keys):
    """A change of the value at a path into a checkpoint."""

    def change(content, value):
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


NAN = float("nan")
#: name -> (where, value)
DAMAGE = {
    "iter as text": (set_at("iter"), "2"),
    "iter as a truth": (set_at("iter"), True),
    "another iter": (set_at("iter"), 2),
    "no metrics": (set_at("metrics"), {}),
    "metrics of no kind": (set_at("metrics"), [[]]),
    "metrics without names": (set_at("metrics"), [{}]),
    "a metric as text": (set_at("metrics", 0, "lr"), "\x1b[2J"),
    "a nan accuracy": (set_at("metrics", 0, "accuracy"), NAN),
    "another epoch": (set_at("metrics", 0, "epoch"), 7),
    "a metric's name": (set_at("metrics", 0, "a,b\n"), 1.0),
    "weights of another shape": (set_at("model_state_dict", "fc.bias"), torch.zeros(8)),
    "no weight": (set_at("model_state_dict", "fc.bias"), None),
    "centers of another shape": (
        set_at("criterion_state_dict", "affinity.centers"),
        torch.zeros(3, 3),
    ),
    "optimiser of nothing": (set_at("optimizer_state_dict"), {}),
    "learning rate as text": (set_at("optimizer_state_dict", "param_groups", 0, "lr"), "high"),
    "learning rate nan": (set_at("optimizer_state_dict", "param_groups", 0, "lr"), NAN),
    "betas": (set_at("optimizer_state_dict", "param_groups", 0, "betas"), [0.9]),
    "a moment of another shape": (
        set_at("optimizer_state_dict", "state", 0, "exp_avg"),
        torch.zeros(5),
    ),
    "a moment as text": (set_at("optimizer_state_dict", "state", 0, "exp_avg"), "x"),
    "half a state": (set_at("optimizer_state_dict", "state", 0), {"step": torch.tensor(1.0)}),
    "a method of the scheduler": (set_at("scheduler_state_dict", "step"), 3),
    "the scheduler's epoch": (set_at("scheduler_state_dict", "last_epoch"), 7),
    "the scheduler's rates": (set_at("scheduler_state_dict", "base_lrs"), "x"),
    "torch's generator": (set_at("random_states", "torch"), torch.zeros(5056, dtype=torch.uint8)),
    "torch's generator, short": (set_at("random_states", "torch"), torch.zeros(3)),
    "numpy's generator": (set_at("random_states", "numpy", 2), 10**9),
    "numpy's keys": (set_at("random_states", "numpy", 1), torch.zeros(3, dtype=torch.int64)),
    "python's generator": (set_at("random_states", "python"), [3, [1, 2], None]),
    "no generators": (set_at("random_states"), {}),
    "settings": (set_at("settings"), [1]),
}


@pytest.fixture(scope="module")
def short(data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "short"
    cut(data, folder, epochs=1)
    return folder


@pytest.mark.parametrize(("change", "value"), DAMAGE.values(), ids=DAMAGE)
def test_a_checkpoint_that_no_run_could_have_written_is_refused(
    data, short, tmp_path, change, value
):
    content = load(short / "last.pth")
    change(content, value)
    torch.save(content, tmp_path / "last.pth")
    (tmp_path / "config.json").write_text("{}")
    before = snapshot(tmp_path)
    with pytest.raises(InputError, match=r"cannot be resumed|does not fit the run") as error:
        resume(data, tmp_path)
    assert "\x1b" not in str(error.value)
    assert snapshot(tmp_path) == before
