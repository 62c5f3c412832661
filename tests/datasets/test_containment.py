"""To be deleted: the test belongs to tests/engine/test_speed.py."""

from __future__ import annotations

import os

import torch

from engine.speed import choose_kernels
from tests.support.scripts import Forked


def test_deterministic_refuses_what_is_not():
    def main():
        choose_kernels(deterministic=True)
        print(torch.are_deterministic_algorithms_enabled(), os.environ["CUBLAS_WORKSPACE_CONFIG"])

    process = Forked(main)
    out, _ = process.communicate()
    process.end()
    assert out == b"True :4096:8\n"
