"""Fields of a recipe as flags: which there are, what they change, and what is refused."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import train_fer2013
import train_rafdb
from common.errors import InputError
from common.flags import flag, flag_fields, parse_flags, positive, settings
from engine.optim import OPTIMIZERS, SAMPLINGS, SCHEDULES
from engine.recipe import Recipe, flags_that_may_change

RECIPE = train_rafdb.RECIPE

# One value per flag that is none of the recipes' own.
OTHER_VALUES = {
    "epochs": 3,
    "batch_size": 17,
    "lr": 0.25,
    "optimizer": "adam",
    "scheduler": "exponential",
    "sampling": "balanced",
    "image_size": 96,
    "amp": "bf16",
    "holdout": 0.2,
    "fold": "2/5",
    "limit": 11,
    "label_noise": 0.3,
    "noise_seed": 4,
    "noisy_labels": "some/list.txt",
    "seed": 5,
    "data": "some/where",
    "output": "else/where",
    "workers": 3,
    "threads": 2,
    "cache": "off",
    "device": "cpu",
    "on_bad_image": "skip",
    "arch": "resnet18",
    "heads": 2,
    "pretrained": "imagenet",
    "fusion": "sum",
    "head_scale": "map",
    "fcn_loss": "none",
    "partition": "released",
    "lambda1": 0.5,
    "lambda2": 0.75,
    "center_weight": 0.5,
    "label_smoothing": 0.1,
    "mixup": 0.2,
    "warmup": 2,
    "backbone_lr": 0.1,
    "ema": 0.99,
    "grow": "64x10,96x5",
}
SWITCHES = ("fast", "compile", "deterministic", "resume")
CHOICES = {"optimizer": OPTIMIZERS, "scheduler": SCHEDULES, "sampling": SAMPLINGS}


def as_flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def flag_values(recipe: Recipe) -> dict[str, Any]:
    return {field.name: getattr(owner, field.name) for owner, field in flag_fields(recipe)}


# --------------------------------------------------------------------------------------------
# What a flag changes


@pytest.mark.parametrize("recipe", [train_rafdb.RECIPE, train_fer2013.RECIPE])
def test_no_flags_leave_the_recipe_as_it_is(recipe):
    assert parse_flags(recipe, "", []) == recipe


def test_every_flag_of_a_recipe_is_tested():
    own = {field.name for field in dataclasses.fields(Recipe) if "help" in field.metadata}
    assert own <= {*OTHER_VALUES, *SWITCHES} <= set(flag_values(RECIPE))


@pytest.mark.parametrize("name", OTHER_VALUES)
def test_a_flag_changes_its_field_and_no_other(name):
    value, before = OTHER_VALUES[name], flag_values(RECIPE)
    after = flag_values(parse_flags(RECIPE, "", [as_flag(name), str(value)]))
    meaning = CHOICES.get(name, {}).get(value, value)
    assert before[name] != meaning
    assert after == {**before, name: meaning}


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_takes_no_value(name):
    before = flag_values(RECIPE)
    assert before[name] is False
    assert flag_values(parse_flags(RECIPE, "", [as_flag(name)])) == {**before, name: True}


@dataclasses.dataclass(frozen=True)
class NestedMethod:
    """A method with a flag of its own, and a part with another."""

    @dataclasses.dataclass(frozen=True)
    class Part:
        """Some part of it."""

        margin: float = flag(0.25, check=positive, expected="above 0", help="of the part")

    strength: int = flag(3, help="of the method")
    part: Part = dataclasses.field(default_factory=Part)
    not_a_flag: str = "x"


def test_fields_of_nested_dataclasses_are_flags():
    recipe = dataclasses.replace(RECIPE, method=NestedMethod())
    changed = parse_flags(recipe, "", ["--strength", "7", "--margin", "0.5"])
    assert changed.method == NestedMethod(7, NestedMethod.Part(0.5))
    assert dataclasses.replace(changed, method=recipe.method) == recipe
    with pytest.raises(InputError, match=r"--margin is 0\.0; expected above 0"):
        parse_flags(recipe, "", ["--margin", "0"])
    with pytest.raises(InputError, match="--not-a-flag"):
        parse_flags(recipe, "", ["--not-a-flag", "y"])


# --------------------------------------------------------------------------------------------
# Values that are refused

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
    "--batch-size 1",
    "--batch-size -8",
    "--heads 0",
    "--image-size 31",
    "--image-size 4097",
    "--holdout 1",
    "--fold 0/5",
    "--fold 1/1",
    "--fold 2/5 --holdout 0.1",
    "--holdout -0.1",
    "--holdout nan",
    "--limit -1",
    "--seed -1",
    "--seed 4294967296",
    "--workers -2",
    "--lambda1 -1",
    "--lambda1 nan",
    "--lambda2 inf",
    "--center-weight -1",
    "--amp fp16",
    "--arch vit",
    "--scn-beta 0.5",
    "--arch dacl --heads 2",
    "--ran-margin -1",
    "--partition eq7",
    "--fcn-loss unknown",
    "--fusion mean",
    "--head-scale sum",
    "--optimizer lion",
    "--scheduler linear",
    "--sampling sorted",
    "--cache on",
    "--on-bad-image ignore",
    "--resume yes",
    "--label-smoothing 1",
    "--mixup -0.1",
    "--warmup -1",
    "--backbone-lr 0",
    "--warmup 40",  # all the epochs
    "--ema 1",
    "--ema -0.5",
    "--grow 64",
    "--grow 64x",
    "--grow 64-10",
    "--grow 31x5",
    "--grow 225x5",  # beyond --image-size
    "--grow 96x5,64x5",
    "--grow 64x30,96x10",  # all the epochs
    "--epoch 3",  # no abbreviations: a new flag would change their meaning
    "--frobnicate 1",
]


@pytest.mark.parametrize("flags", BAD_FLAGS)
def test_a_bad_flag_is_refused_in_a_line_with_name_and_value(flags):
    with pytest.raises(InputError) as error:
        parse_flags(RECIPE, "", flags.split())
    assert "\n" not in str(error.value)
    words = flags.split() if flags != "--resume yes" else ["yes"]
    for word in words:
        assert word.lstrip("-").removesuffix(".0") in str(error.value)


@pytest.mark.parametrize("flags", ["--image-size 32", "--image-size 4096", "--seed 4294967295"])
def test_the_limits_themselves_are_taken(flags):
    parse_flags(RECIPE, "", flags.split())


def test_a_word_without_a_flag_is_refused():
    with pytest.raises(InputError, match="datasets/raf-basic"):
        parse_flags(RECIPE, "", ["datasets/raf-basic"])


# --------------------------------------------------------------------------------------------
# What is shown and written


def test_help_shows_the_recipes_values(capsys):
    with pytest.raises(SystemExit) as stop:
        parse_flags(RECIPE, "about RAF-DB", ["--help"])
    assert stop.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "about RAF-DB" in shown
    for name, value in settings(RECIPE).items():
        assert as_flag(name) in shown
        if value not in ("", False):
            assert f"[{value}]" in shown
    assert "[SGD(momentum=0.9, weight_decay=0.0001)]" in shown
    assert f"{{{','.join(SCHEDULES)}}}" in shown


def test_settings_are_plain_values_by_the_flags_names():
    recipe = parse_flags(RECIPE, "", ["--optimizer", "adamw", "--heads", "2"])
    plain = settings(recipe)
    assert list(plain) == list(flag_values(recipe))
    assert plain["optimizer"] == "AdamW(weight_decay=0.05)"
    assert (plain["sampling"], plain["heads"], plain["resume"]) == ("shuffle", 2, False)
    assert {type(value) for value in plain.values()} == {str, int, float, bool}


def test_settings_of_the_result_leave_out_what_may_change_on_resume():
    assert flags_that_may_change() == {
        *("data", "output", "workers", "threads", "cache", "device"),
        *("fast", "compile", "deterministic", "on_bad_image", "resume"),
    }
    result = settings(RECIPE, result_only=True)
    assert result == {k: v for k, v in settings(RECIPE).items() if k not in flags_that_may_change()}
    assert {"lr", "seed", "amp", "arch"} <= set(result)


def test_the_default_run_folder_names_recipe_and_seed():
    assert RECIPE.run_folder() == Path("runs/rafdb-seed0")
    seeded = parse_flags(train_fer2013.RECIPE, "", ["--seed", "3"])
    assert seeded.run_folder() == Path("runs/fer2013-seed3")
    chosen = parse_flags(RECIPE, "", ["--output", "else/where", "--data", "some/where"])
    assert (chosen.run_folder(), chosen.data_root()) == (Path("else/where"), Path("some/where"))


def test_the_default_data_folder_is_the_data_sets():
    assert RECIPE.data_root() == RECIPE.dataset.default_root
    assert train_fer2013.RECIPE.data_root() == Path("datasets/fer2013")


def test_a_scheduler_with_a_parameter_epochs_is_given_them():
    asked = []

    def schedule(optimizer, epochs, power):
        asked.append((epochs, power))

    def without(optimizer, power):
        asked.append(power)

    for make in (schedule, without):
        recipe = dataclasses.replace(RECIPE, epochs=7, scheduler=partial(make, power=2))
        recipe.make_scheduler(None)
    assert asked == [(7, 2), 2]


def test_images_grow_as_the_schedule_says():
    recipe = parse_flags(
        RECIPE, "", ["--grow", "64x2,96x1", "--image-size", "112", "--epochs", "5"]
    )
    assert [recipe.image_size_at(epoch) for epoch in range(1, 6)] == [64, 64, 96, 112, 112]
    assert {RECIPE.image_size_at(epoch) for epoch in range(1, 41)} == {224}
