"""A few random inputs of each kind; `make fuzz` runs many more (tests/fuzz.py)."""

from __future__ import annotations

import pytest

from tests import fuzz

EXAMPLES = {"torch_files": 60, "checkpoints": 25, "tables": 40}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_random_inputs_are_read_or_refused(name, tmp_path):
    inputs, refusals = fuzz.campaign(name, EXAMPLES.get(name, 100), tmp_path)
    assert inputs >= 20
    assert refusals > 0


def test_a_finding_is_not_hidden(tmp_path, monkeypatch):
    def broken(_root):
        def read(text: str) -> None:
            raise ZeroDivisionError

        return fuzz.st.text(), read

    monkeypatch.setitem(fuzz.TARGETS, "broken", broken)
    with pytest.raises(ZeroDivisionError):
        fuzz.campaign("broken", 5, tmp_path)
