"""Synthetic faces that several tests read."""

from __future__ import annotations

from pathlib import Path

import pytest

from datasets.demo import write_rafdb


@pytest.fixture(scope="session")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 training and 14 test faces in RAF-DB's layout, from two processes; read only."""
    root = tmp_path_factory.mktemp("demo") / "raf-basic"
    write_rafdb(root, train=40, test=14, seed=3, workers=2)
    return root
