"""The scripts as a user runs them: exit statuses, what is printed, what is on the disk after."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import eval as eval_script
from datasets import RAFDB
from engine.run_folder import FILES
from tests.support.scripts import (
    PATIENCE,
    ROOT,
    SIZE,
    assert_refused,
    load,
    run_script,
    script_command,
    script_environment,
    snapshot,
    write_fer2013_csv,
    write_rafdb,
)

pytestmark = [pytest.mark.filterwarnings("ignore:.*published are"), pytest.mark.slow]

SMALL = ("--image-size", SIZE, "--batch-size", 8, "--device", "cpu", "--pretrained", "none")
BASELINE = (*SMALL, "--arch", "resnet18", "--epochs", 1, "--workers", 0)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A working folder with RAF-DB where the script looks for it by default."""
    place = tmp_path_factory.mktemp("place")
    write_rafdb(place / "datasets/raf-basic")
    return place


@pytest.fixture(scope="module")
def dan_run(place) -> subprocess.CompletedProcess[str]:
    """An epoch of DAN with two heads, in the default run folder."""
    flags = ("--heads", 2, "--epochs", 1, "--optimizer", "adamw", "--lr", 0.001, "--workers", 2)
    return run_script("train_rafdb.py", *SMALL, *flags, cwd=place)


def test_train_rafdb_trains_and_says_what_it_did(dan_run, place):
    assert dan_run.returncode == 0, dan_run.stderr
    folder = place / "runs/rafdb-seed0"
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(FILES)
    with (folder / "metrics.csv").open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    shown = dan_run.stdout
    for words in (
        "21 training and 14 test images",
        "DAN on cpu",
        "seed 0",
        "epoch 1/1",
        f"cls {float(row['cls']):.4f}",
        f"affinity {float(row['affinity']):.4f}",
        f"partition {float(row['partition']):.4f}",
        f"accuracy {100 * float(row['accuracy']):.2f} %",
        "python eval.py runs/rafdb-seed0/last.pth",
    ):
        assert words in shown
    command = json.loads((folder / "config.json").read_text())["command"]
    assert "train_rafdb.py" in command
    assert "--heads 2" in command


def test_stderr_in_a_log_file_holds_warnings_alone(dan_run):
    """Each is one line; a run this short has no progress bar where nobody looks."""
    lines = dan_run.stderr.splitlines()
    assert [line[:20] for line in lines] == ["warning: rafdb train", "warning: rafdb test:"]
    assert all("published are" in line for line in lines)


def test_eval_reads_the_run_and_writes_json_and_report(dan_run, place):
    checkpoint = "runs/rafdb-seed0/last.pth"
    flags = ("--json", "out.json", "--report", "report", "--workers", 2)
    result = run_script("eval.py", checkpoint, *flags, cwd=place)
    assert result.returncode == 0, result.stderr
    content = json.loads((place / "out.json").read_text())
    assert {
        "accuracy",
        "mean_class_accuracy",
        "per_class_recall",
        "confusion_matrix",
        "dataset",
        "classes",
        "checkpoint",
    } <= set(content)
    assert content["checkpoint"] == checkpoint
    assert content["dataset"] == "rafdb"
    assert content["classes"] == list(RAFDB.classes)
    assert all(sum(row) == pytest.approx(1) for row in content["confusion_matrix"])
    (row,) = load(place / checkpoint)["metrics"]
    for key in ("accuracy", "mean_class_accuracy", "macro_f1"):
        assert content[key] == row[key]
    assert "not beside the paper" in result.stdout
    assert "89.70" not in result.stdout
    assert json.loads((place / "report/report.json").read_text()) == content
    with Image.open(place / "report/confusion_matrix.png") as picture:
        assert picture.format == "PNG"
        assert len(picture.convert("L").getcolors()) > 50


def test_a_second_run_into_the_folder_is_refused(dan_run, place):
    folder = place / "runs/rafdb-seed0"
    before = snapshot(folder)
    result = run_script("train_rafdb.py", *BASELINE, cwd=place)
    assert_refused(result, "runs/rafdb-seed0 already holds a run", "--resume", "--output")
    assert snapshot(folder) == before


def test_train_fer2013_reads_csv_and_eval_reads_its_run(tmp_path, monkeypatch):
    write_fer2013_csv(tmp_path / "datasets/fer2013")
    result = run_script("train_fer2013.py", *BASELINE, "--seed", 3, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "16 training and 14 test images" in result.stdout
    checkpoint = "runs/fer2013-seed3/best.pth"
    monkeypatch.chdir(tmp_path)
    eval_script.main([checkpoint, "--split", "private", "--json", "x", "--workers", "0"])
    content = json.loads((tmp_path / "x").read_text())
    assert content["dataset"] == "fer2013"
    assert content["images"] == 7
    assert content["classes"][0] == "Angry"


def test_a_broken_image_ends_the_run_with_its_name(tmp_path):
    """Met by a worker process, behind a progress bar."""
    root = write_rafdb(tmp_path / "data")
    image = root / "Image/aligned/train_00003_aligned.jpg"
    image.write_bytes(image.read_bytes()[:200])
    flags = (*BASELINE, "--data", root, "--output", "run", "--workers", 2)
    result = run_script("train_rafdb.py", *flags, cwd=tmp_path)
    assert_refused(result, str(image), "cannot be decoded")
    assert not (tmp_path / "run/last.pth").exists()


@pytest.mark.parametrize(
    ("script", "flags", "words"),
    [
        ("train_rafdb.py", ("--frobnicate", "1"), ("--frobnicate",)),
        ("train_fer2013.py", (), ("data folder datasets/fer2013 does not exist", "fer2013.csv")),
        ("eval.py", ("noise.pth",), ("noise.pth",)),
    ],
)
def test_bad_input_is_one_line_and_status_2(script, flags, words, tmp_path):
    (tmp_path / "noise.pth").write_bytes(bytes(range(256)))
    result = run_script(script, *flags, cwd=tmp_path)
    assert_refused(result, *words)
    assert result.stdout == ""
    assert snapshot(tmp_path) == {"noise.pth": bytes(range(256))}


def test_ctrl_c_ends_with_a_line_and_a_run_that_can_go_on(tmp_path):
    root = write_rafdb(tmp_path / "data")
    flags = (*BASELINE, "--data", root, "--output", tmp_path / "run", "--workers", 2)
    # A new session, so that the signal reaches the workers too, as from a terminal.
    process = subprocess.Popen(
        script_command("train_rafdb.py", *flags, "--epochs", 10_000),
        cwd=tmp_path,
        env=script_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        # Shells start what runs in the background with Ctrl-C ignored, these tests perhaps too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    try:
        while b"epoch 2/" not in (line := process.stdout.readline()):
            assert line, process.stderr.read()
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode == 130
    assert b"Traceback" not in errors
    # After a progress bar, if there was one.
    line = errors.replace(b"\r", b"\n").splitlines()[-1]
    assert line.startswith(b"stopped by Ctrl-C; ")
    assert line.endswith(b"to continue, repeat the command with --resume")
    content = load(tmp_path / "run/last.pth")
    assert content["iter"] == len(content["metrics"]) >= 2
    assert not list((tmp_path / "run").glob(".*"))


def test_a_closed_pipe_gives_no_traceback():
    """`python eval.py ... | head -1`, without the seconds that torch takes to import."""
    code = "from common.cli import call_main; call_main(lambda: print('line\\n' * 200_000))"
    result = subprocess.run(
        ["/bin/bash", "-c", '"$0" -c "$1" | head -1; exit ${PIPESTATUS[0]}', sys.executable, code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (result.stdout, result.stderr, result.returncode) == ("line\n", "", 141)


def run_main(main: str) -> subprocess.CompletedProcess[str]:
    """A script of one expression under `call_main`, without torch."""
    code = f"from pathlib import Path; from common.cli import call_main; call_main({main})"
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_a_path_that_the_system_refuses_is_one_line():
    """Folders one may not enter and names that are too long; pathlib raises for them anywhere."""
    assert_refused(run_main("lambda: Path('x' * 300).is_dir()"), "xxx", "File name too long")


def test_a_bug_of_ours_keeps_its_traceback():
    result = run_main("lambda: 1 / 0")
    assert result.returncode == 1
    assert "Traceback" in result.stderr
    assert "ZeroDivisionError" in result.stderr


def test_what_main_returns_is_the_status():
    assert [run_main(f"lambda: {value}").returncode for value in (None, 0, 3)] == [0, 0, 3]
