"""Action units of the expressions, and those that a caller gives."""

from __future__ import annotations

import numpy as np
import pytest

from common.errors import InputError
from datasets.demo import ACTION_UNITS, EXPRESSIONS, PROTOTYPES
from datasets.demo.action_units import given_units, random_units


def test_every_expression_has_prototypes_of_known_units():
    assert set(PROTOTYPES) == set(EXPRESSIONS)
    for variants in PROTOTYPES.values():
        for variant in variants:
            assert set(variant) <= set(ACTION_UNITS)
            assert all(0 < intensity <= 1 for intensity in variant.values())


def test_given_units_are_taken_as_they_are():
    units = given_units({"AU12": 0.5, "AU14": (0.2, 1.0)})
    assert (units.left["AU12"], units.right["AU12"], units.mean["AU12"]) == (0.5, 0.5, 0.5)
    assert (units.left["AU14"], units.right["AU14"], units.mean["AU14"]) == (0.2, 1.0, 0.6)
    assert sum(units.mean.values()) == pytest.approx(1.1)


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ({"AU99": 1.0}, r"unknown action units \['AU99'\]; known: AU1, "),
        ({"AU1": 2.0}, r"AU1 has the intensity \[2.0, 2.0\]; expected 0..1"),
        ({"AU1": (0.5, -0.1)}, "AU1 has the intensity"),
        ({"AU1": float("nan")}, "AU1 has the intensity"),
    ],
)
def test_wrong_units_are_named(units, message):
    with pytest.raises(InputError, match=message):
        given_units(units)


def test_contempt_is_one_sided():
    def gaps(expression: str) -> list[float]:
        """How far AU12 differs between the halves, as a share."""
        found = []
        for seed in range(20):
            units = random_units(expression, np.random.default_rng(seed))
            sides = units.left["AU12"], units.right["AU12"]
            found.append(abs(sides[0] - sides[1]) / max(sides))
        return found

    assert min(gaps("Contempt")) > 0.5 > max(gaps("Happiness"))


def test_some_faces_are_faint():
    """Hardly any expression: without them the classes would not overlap as real ones do."""
    strongest = [
        max(random_units("Anger", np.random.default_rng(seed)).mean.values()) for seed in range(400)
    ]
    assert 0.02 < np.mean(np.array(strongest) < 0.4) < 0.09
