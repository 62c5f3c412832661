"""`--help` of every command."""

from __future__ import annotations

import runpy
import sys

import pytest

from tests.support.scripts import ROOT

COMMANDS = sorted(
    [path.stem for path in ROOT.glob("*.py") if path.stem != "hubconf"]
    + [f"tools.{path.stem}" for path in ROOT.glob("tools/*.py") if path.stem != "__init__"]
    + ["datasets.demo"]
)


def test_there_are_commands_to_look_at():
    assert {"eval", "train_rafdb", "tools.check_data"} <= set(COMMANDS)


# Other tests have imported the commands, of which runpy warns.
@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_what_the_command_is_for(command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [command, "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module(command, run_name="__main__", alter_sys=True)
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith("usage: ")
    assert len(shown.splitlines()) > 8
