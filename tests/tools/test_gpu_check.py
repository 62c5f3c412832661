"""tools.gpu_check: parts that fail or hang do not end it; the report has the outcome of all."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path

import pytest
import torch

from common.errors import InputError
from tools.gpu_check import __main__ as gpu_check
from tools.gpu_check import environment, running
from tools.gpu_check.parts import (
    Part,
    images_per_second,
    make_parts,
    read_json,
    read_run,
    read_tests,
)

HANGING = """
import subprocess, sys
child = "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); "
child += "print('locked', flush=True); time.sleep(600)"
subprocess.run([sys.executable, "-c", child, sys.argv[1]])
"""


def code(name: str, text: str, *arguments: object, limit: float = 60, read=None) -> Part:
    """A part that runs this text."""
    command = ("-c", text, *map(str, arguments))
    return Part(name, command, limit, read) if read else Part(name, command, limit)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run parts; returns the exit status, the report, and it as markdown."""
    monkeypatch.setattr(running, "GRACE", 0.2)

    def run(*parts: Part) -> tuple[int, dict, str]:
        (tmp_path / "logs").mkdir()
        status = gpu_check.run_all(parts, tmp_path, tmp_path / "work", dry_run=True)
        content = json.loads((tmp_path / "report.json").read_text())
        return status, content, (tmp_path / "report.md").read_text()

    return run


def test_parts_that_fail_or_hang_do_not_end_the_check(run, tmp_path, capsys):
    lock = tmp_path / "lock"
    write = "import sys; open(sys.argv[1], 'w').write('{\"images/s\": 1234.5}'); print('fine')"
    status, report, markdown = run(
        code("broken", "import sys; print('one'); sys.exit('no such kernel')"),
        Part("missing", ("-m", "no_such_package"), 60),
        code("hanging", HANGING, lock, limit=2),
        code("empty", "", read=read_json),
        code("good", write, tmp_path / "work/good/numbers.json", read=read_json),
    )
    assert status == 1
    parts = {part["name"]: part for part in report["parts"]}
    outcomes = {name: (part["outcome"], part["reason"]) for name, part in parts.items()}
    reason = outcomes.pop("empty")[1]
    assert "no numbers: FileNotFoundError" in reason
    python = running.sys.executable
    assert outcomes == {
        "broken": ("failed", "no such kernel"),
        "missing": ("failed", f"{python}: No module named no_such_package"),
        "hanging": ("timed out", "over 2 s"),
        "good": ("passed", ""),
    }
    assert parts["good"]["numbers"] == {"images/s": 1234.5}
    assert parts["broken"]["tail"] == "one\nno such kernel"
    assert "| images/s | 1,234 |" in markdown
    assert "| hanging | timed out | 2." in markdown
    assert "broken" in capsys.readouterr().out
    # The hanging part was inside a process of its own process, which has to be gone as well.
    assert (tmp_path / "logs/hanging.txt").read_text() == "locked\n"
    with lock.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_all_passed_is_status_0(run):
    status, report, _ = run(code("one", ""), code("two", ""))
    assert status == 0
    assert [part["outcome"] for part in report["parts"]] == ["passed", "passed"]
    assert report["torch"] == torch.__version__


def test_without_a_gpu_there_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"no CUDA GPU: torch .* sees none; --dry-run"):
        gpu_check.main(["--output", str(tmp_path / "check")])
    assert not (tmp_path / "check").exists()


def test_the_limits_add_up_to_8_minutes_at_most():
    parts = make_parts(Path("out"), Path("work"))
    assert sum(part.limit for part in parts) <= 8 * 60
    assert len({part.name for part in parts}) == len(parts)
    assert all("cpu" not in part.command for part in parts)


def test_parts_are_chosen_by_name_with_what_they_need():
    parts = make_parts(Path("out"), Path("work"))
    assert gpu_check.chosen(parts, []) == parts
    names = [part.name for part in gpu_check.chosen(parts, ["train", "numbers"])]
    assert names == ["numbers", "faces", "train"]
    with pytest.raises(InputError, match="no part is called 'all'; expected some of environment, "):
        gpu_check.chosen(parts, ["all"])


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    assert {"torch", "filelock", "scikit-learn"} <= set(environment.required())
    monkeypatch.setattr(environment, "required", lambda: ["torch", "no-such-package"])
    with pytest.raises(InputError, match="missing: no-such-package; pip install"):
        environment.main([str(tmp_path / "facts.json"), "--device", "cpu"])
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["no-such-package"] is None
    assert facts["torch"] == environment.version("torch")


def test_help_names_the_parts(capsys):
    with pytest.raises(SystemExit) as end:
        gpu_check.main(["--help"])
    assert end.value.code == 0
    assert "environment, numbers, runs, distributed, bench-64" in capsys.readouterr().out


# --------------------------------------------------------------------------------------------
# Numbers


@pytest.mark.parametrize(
    ("what", "expected"),
    [("train step, batch 256", 5120.0), ("inference, batch 1, float32", 20.0), ("loading", None)],
)
def test_images_per_second(what, expected):
    assert images_per_second(what, 50.0) == expected


def test_outcomes_of_tests(tmp_path):
    (tmp_path / "junit.xml").write_text(
        '<testsuites><testsuite><testcase name="a" time="1.5"><properties>'
        '<property name="error" value="1e-7"/></properties></testcase>'
        '<testcase name="b" time="0.5"><failure message="assert 2\n == 1">...</failure></testcase>'
        '<testcase name="c" time="0"><skipped message="needs two"/></testcase>'
        "</testsuite></testsuites>"
    )
    found = read_tests(tmp_path, "", 0.0)
    assert (found["passed"], found["failure"], found["skipped"]) == (1, 1, 1)
    assert found["tests"][0]["numbers"] == {"error": 1e-7}
    assert [test["message"] for test in found["tests"]] == ["", "assert 2 == 1", "needs two"]


def test_a_run_that_was_ended_has_numbers(tmp_path):
    (tmp_path / "run").mkdir()
    config = {"training_images": 12271, "evaluated_images": 3068}
    (tmp_path / "run/config.json").write_text(json.dumps(config))
    (tmp_path / "run/metrics.csv").write_text("epoch,accuracy\n1,0.25\n2,0.5\n3,0.75\n")
    printed = "".join(
        f"epoch {n}/40  lr 0.1  loss 1.0  accuracy 1.00 %  {speed} images/s  {s} s, 9 min left\n"
        for n, speed, s in ((1, 1000, 12), (2, 6000, 2), (3, 7000, 3))
    )
    assert read_run(tmp_path, "warning: x\n" + printed, 17.5) == {
        "training images": 12271,
        "evaluated images": 3068,
        "epochs": 3,
        "seconds in all": 17.5,
        "seconds an epoch, median": 3,
        "training images/s, median": 6000,
        "training images/s, first epoch": 1000,
        "accuracy, last epoch": 0.75,
    }


# --------------------------------------------------------------------------------------------
# The whole


@pytest.mark.slow
def test_the_dry_run_passes_every_part(tmp_path, capsys):
    assert gpu_check.main(["--dry-run", "--output", str(tmp_path)]) == 0, capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text())
    numbers = {part["name"]: part["numbers"] for part in report["parts"]}
    assert list(numbers) == [
        "environment", "numbers", "runs", "distributed", "bench-64", "profile-64", "faces", "train"
    ]  # fmt: skip
    assert all(part["outcome"] == "passed" for part in report["parts"])
    assert [numbers[name]["passed"] for name in ("numbers", "runs", "distributed")] == [7, 6, 3]
    assert all(row["ratio"] > 0 for row in numbers["bench-64"]["rows"])
    assert all(row["images/s"] > 0 for row in numbers["profile-64"]["profiles"])
    assert (numbers["train"]["epochs"], numbers["train"]["training images"]) == (1, 42)
    assert numbers["environment"]["device"] == "cpu"
    markdown = (tmp_path / "report.md").read_text()
    assert all(f"## {name}\n" in markdown for name in numbers)
    assert not list(tmp_path.glob("work-*"))
