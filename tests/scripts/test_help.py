"""`--help` of every command: at once, so without the packages that take seconds to import."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.scripts import ROOT, script_environment

SLOW = ("torch", "torchvision", "pandas", "matplotlib", "scipy", "sklearn", "onnx", "onnxruntime")
COMMANDS = sorted(
    [path.stem for path in ROOT.glob("*.py")]
    + [f"tools.{path.stem}" for path in ROOT.glob("tools/*.py") if path.stem != "__init__"]
    + ["datasets.demo"]
)

# Runs a command as `python -m` does, then says which of the slow packages are there.
PROBE = """
import runpy, sys
command, *slow = sys.argv[1:]
sys.argv = [command, "--help"]
try:
    runpy.run_module(command, run_name="__main__", alter_sys=True)
except SystemExit as stop:
    print("status", stop.code)
print("imported", *(name for name in slow if name in sys.modules))
"""


def test_there_are_commands_to_look_at():
    assert {"eval", "train_rafdb", "tools.check_data"} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_imports_nothing_that_takes_seconds(command):
    result = subprocess.run(
        [sys.executable, "-c", PROBE, command, *SLOW],
        cwd=ROOT,
        env=script_environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    *shown, status, imported = result.stdout.splitlines()
    assert status == "status 0", result.stderr
    assert imported.strip() == "imported"
    assert shown[0].startswith("usage: ")
