"""bfloat16 and the compiler where they are asked for."""

from __future__ import annotations

import os
import shutil

import pytest
import torch

from common.errors import InputError
from engine.speed import (
    autocast,
    reporting_compiler_errors,
)
from tests.support.scripts import SIZE, train_tiny

CPU = torch.device("cpu")
IMAGE_BYTES = SIZE * SIZE * 3

# --------------------------------------------------------------------------------------------
# bfloat16


@pytest.mark.parametrize(("bf16", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_autocast_decides_the_type_of_products(bf16, dtype):
    matrix = torch.ones(2, 2)
    with autocast(CPU, bf16):
        assert (matrix @ matrix).dtype == dtype


# --------------------------------------------------------------------------------------------
# The compiler


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """torch.compile with nothing remembered from before, and nothing kept."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
@pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="torch.compile needs a C++ compiler"
)
def test_a_compiled_run_ends_as_one_that_is_not(data, tmp_path):
    flags = ("--limit", 14, "--batch-size", 14)  # one size to compile for: 14 are evaluated
    expected = train_tiny(data, tmp_path / "expected", *flags)
    compiled = train_tiny(data, tmp_path / "compiled", *flags, "--compile")
    assert list(compiled["model_state_dict"]) == list(expected["model_state_dict"])
    (mine,), (other,) = compiled["metrics"], expected["metrics"]
    assert mine["accuracy"] == other["accuracy"]
    assert mine["loss"] == pytest.approx(other["loss"], rel=1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
def test_a_compiler_that_is_not_there_is_an_error_of_one_line(data, tmp_path, monkeypatch):
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, str(tmp_path / "no-compiler")))
    with pytest.raises(InputError, match=r"--compile: torch cannot compile .*No working C\+\+"):
        train_tiny(data, tmp_path / "run", "--compile")


def test_other_errors_than_the_compilers_pass():
    with pytest.raises(RuntimeError, match="another") as caught, reporting_compiler_errors():
        raise RuntimeError("another")
    assert not isinstance(caught.value, InputError)
