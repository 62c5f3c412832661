"""SIGKILL at random moments, resumed: the quick version of tests/kill_resume.py."""

from __future__ import annotations

import re

import pytest
import torch

from tests import kill_resume
from tests.support.scripts import load

pytestmark = pytest.mark.slow


def test_a_run_that_is_killed_five_times_ends_as_one_that_is_not(tmp_path, capsys):
    flags = [str(tmp_path), "--kills", "5", "--epochs", "6", "--workers", "0"]
    status = kill_resume.main(flags)
    out = capsys.readouterr().out
    assert status == 0, out
    assert "5 kills by SIGKILL in a run of 6 epochs" in out
    assert "all the same, bit by bit" in out
    assert len(re.search("after epochs (.*)", out)[1].split()) == 5
    for part in ("model_state_dict", "criterion_state_dict", "optimizer_state_dict", "random"):
        assert part in out
    # And the comparison can fail: one bit of one weight.
    content = load(tmp_path / "killed/last.pth")
    bits = content["model_state_dict"]["fc.bias"].view(torch.int32)
    bits[0] ^= 1
    torch.save(content, tmp_path / "killed/last.pth")
    found, _ = kill_resume.differences(tmp_path / "whole", tmp_path / "killed")
    assert found == ["last.pth/model_state_dict/fc.bias"]
