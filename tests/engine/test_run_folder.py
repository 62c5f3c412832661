"""One process per run folder, what is in it, and the images that a run skipped."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from common.errors import InputError
from engine import train as engine_train
from engine.run_folder import (
    FILES,
    LOCK,
    SKIPPED,
    Skipped,
    announcement,
    refuse_existing_run,
    run_lock,
    write_metrics,
)
from engine.train import build, train
from tests.support.scripts import (
    Forked,
    damage,
    face,
    load,
    read_metrics,
    small_recipe,
    snapshot,
    train_tiny,
)

SKIP = ("--on-bad-image", "skip")
NO_PROCESS = 2**22 + 1  # above the largest number that Linux gives
HERE = socket.gethostname()


def refusal(folder: Path) -> str:
    """The line with which a lock is refused."""
    with pytest.raises(InputError) as error, run_lock(folder):
        pass
    assert "\n" not in str(error.value)
    return str(error.value)


# --------------------------------------------------------------------------------------------
# The lock


def test_a_second_run_is_refused_and_names_the_process_that_holds_the_folder(tmp_path):
    with run_lock(tmp_path):
        assert list(snapshot(tmp_path)) == [LOCK]
        message = refusal(tmp_path)
        assert f"{tmp_path} is in use by process {os.getpid()} on {HERE}" in message
        assert f"if you are sure that process is gone, delete {tmp_path / LOCK}" in message
        assert list(snapshot(tmp_path)) == [LOCK]
    assert snapshot(tmp_path) == {}


def test_a_lock_is_released_by_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), run_lock(tmp_path):
        raise ZeroDivisionError
    assert snapshot(tmp_path) == {}


@pytest.mark.slow
def test_a_running_training_holds_its_folder_and_a_killed_one_does_not(data, tmp_path):
    folder = tmp_path / "run"
    process = Forked(lambda: train(small_recipe(data, folder, "--epochs", 10_000)))
    process.wait_for("epoch 1/")
    try:
        assert f"in use by process {process.pid} on {HERE}" in refusal(folder)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        process.end()
    assert (folder / LOCK).exists()
    with run_lock(folder):
        assert str(os.getpid()) in (folder / LOCK).read_text()
    assert not (folder / LOCK).exists()


def test_the_lock_of_a_process_that_is_gone_is_taken_over(tmp_path):
    (tmp_path / LOCK).write_text(f"{NO_PROCESS}\n{HERE}\n")
    with run_lock(tmp_path):
        assert str(NO_PROCESS) not in (tmp_path / LOCK).read_text()
    assert snapshot(tmp_path) == {}


@pytest.mark.parametrize(
    ("content", "holder"),
    [
        (f"{NO_PROCESS}\nelsewhere\n".encode(), f"process {NO_PROCESS} on elsewhere"),
        (b"", "another process"),
        (b"\xff", "another process"),
    ],
    ids=["another machine", "empty", "no text"],
)
def test_a_lock_that_may_be_alive_is_refused_and_stays(tmp_path, content, holder):
    (tmp_path / LOCK).write_bytes(content)
    assert f"in use by {holder};" in refusal(tmp_path)
    assert snapshot(tmp_path) == {LOCK: content}


def test_of_many_that_find_a_dead_lock_one_at_a_time_gets_it(tmp_path):
    inside, most = [], []

    def attempt(_number: int) -> bool:
        try:
            with run_lock(tmp_path):
                inside.append(1)
                most.append(len(inside))
                inside.pop()
                return True
        except InputError:
            return False

    for _ in range(5):
        (tmp_path / LOCK).write_text(f"{NO_PROCESS}\n{HERE}\n")
        with ThreadPoolExecutor(4) as pool:
            assert any(pool.map(attempt, range(4)))
        # filelock may leave the mark of this process, which is alive; a dead one's is taken over.
    assert set(most) == {1}


def test_a_folder_that_stays_empty_is_not_left_behind(tmp_path):
    with run_lock(tmp_path / "a/b"):
        assert (tmp_path / "a/b").is_dir()
    assert list(tmp_path.iterdir()) == []
    with run_lock(tmp_path / "a/b"):
        (tmp_path / "a/b/file").write_text("mine")
    assert snapshot(tmp_path) == {"a/b/file": b"mine"}
    (tmp_path / "there").mkdir()
    with run_lock(tmp_path / "there"):
        pass
    assert (tmp_path / "there").is_dir()


def test_a_folder_that_vanishes_adds_no_error(tmp_path):
    folder = tmp_path / "run"
    with run_lock(folder):
        shutil.rmtree(folder)


# --------------------------------------------------------------------------------------------
# Folders that cannot be used


@pytest.mark.parametrize("below", ["file", "file/run"])
def test_an_output_that_cannot_be_a_folder_is_refused(data, tmp_path, below):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="file"):
        train_tiny(data, tmp_path / below)
    assert snapshot(tmp_path) == {"file": b"mine"}


@pytest.mark.skipif(os.geteuid() != 0, reason="takes another user")
def test_a_read_only_folder_is_refused(data):
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        shutil.copytree(data, root / "data")
        (root / "run").mkdir()
        root.chmod(0o755)

        def main() -> None:
            os.setgid(65534)
            os.setuid(65534)
            train(small_recipe(root / "data", root / "run"))

        process = Forked(main)
        errors = process.communicate()[1].decode().splitlines()
        process.end()
        assert process.returncode == 2, errors
        assert errors[-1] == f"error: cannot write {root}/run/.lock: Permission denied"
        assert list((root / "run").iterdir()) == []


def test_a_folder_that_vanishes_during_the_run_is_one_line(data, tmp_path):
    folder, run_epoch = tmp_path / "run", engine_train.run_epoch

    def run_epoch_without_folder(run):
        if run.epoch == 1:
            shutil.rmtree(folder)
        run_epoch(run)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_train, "run_epoch", run_epoch_without_folder)
        with pytest.raises(InputError, match=r"^cannot write .*run/metrics\.csv: No such file"):
            train_tiny(data, folder, "--epochs", 3)


def test_a_folder_with_a_run_is_refused_and_stays_as_it_is(data, tmp_path):
    train_tiny(data, tmp_path / "run")
    before = snapshot(tmp_path / "run")
    with pytest.raises(InputError, match=r"already holds a run .*last\.pth.*--resume"):
        train_tiny(data, tmp_path / "run", "--seed", 1)
    assert snapshot(tmp_path / "run") == before


@pytest.mark.parametrize("name", FILES)
def test_any_file_of_a_run_occupies_the_folder(tmp_path, name):
    (tmp_path / name).write_text("of another run")
    with pytest.raises(InputError, match=f"already holds a run \\({re.escape(name)}\\)"):
        refuse_existing_run(tmp_path, resume=False)
    refuse_existing_run(tmp_path, resume=True)
    assert snapshot(tmp_path) == {name: b"of another run"}


def test_half_written_files_of_a_killed_run_are_cleared_away(tmp_path):
    for name in (".last.pth.abc", ".metrics.csv.x", ".best.pth.1", ".config.json.2"):
        (tmp_path / name).write_bytes(b"half")
    for name in (".mine", "last.pth"):
        (tmp_path / name).write_bytes(b"whole")
    refuse_existing_run(tmp_path, resume=True)
    assert snapshot(tmp_path) == {".mine": b"whole", "last.pth": b"whole"}


# --------------------------------------------------------------------------------------------
# metrics.csv and the announcement


def test_metrics_are_written_to_the_last_bit(tmp_path):
    rows = [{"epoch": 1, "lr": 0.1, "loss": 1 / 3}, {"epoch": 2, "lr": 1e-05, "loss": 0.1 + 0.2}]
    write_metrics(tmp_path, rows)
    assert (tmp_path / "metrics.csv").read_text() == (
        "epoch,lr,loss\n1,0.1,0.3333333333333333\n2,1e-05,0.30000000000000004\n"
    )
    assert read_metrics(tmp_path) == rows


def test_the_announcement_says_what_runs_on_what(data, tmp_path):
    run = build(small_recipe(data, tmp_path / "run", "--amp", "bf16", "--seed", 3))
    line = announcement(run)
    assert line.startswith("rafdb: 21 training and 14 test images")
    for words in ("at 32 px", "TinyNetwork on cpu (1 threads) in bfloat16, seed 3"):
        assert words in line
    assert line.endswith(f" -> {tmp_path / 'run'}")
    run.epoch = 4
    assert announcement(run) == f"{line}, from epoch 5"


def test_the_announcement_names_the_holdout(data, tmp_path):
    run = build(small_recipe(data, tmp_path, "--holdout", 0.34))
    assert "14 training and 7 holdout images" in announcement(run)


# --------------------------------------------------------------------------------------------
# Skipped images


def test_without_skipped_images_nothing_is_reported(tmp_path, capsys):
    Skipped().report(tmp_path, 1)
    assert capsys.readouterr().out == ""
    assert snapshot(tmp_path) == {}


def test_ten_skipped_images_are_shown_and_all_are_in_the_file(tmp_path, capsys):
    found = Skipped([f"image {i} is bad" for i in range(12)], ["a test image is bad"])
    found.report(tmp_path, 3)
    shown = capsys.readouterr().out.splitlines()
    written = (tmp_path / SKIPPED).read_text().splitlines()
    assert written[0] == "skipped in training, epoch 3: image 0 is bad"
    assert written[-1] == "skipped in evaluation, epoch 3: a test image is bad"
    assert len(written) == 13
    assert [line.strip() for line in shown[:-1]] == written[:10]
    assert shown[-1].strip() == (
        "12 training and 1 evaluated images were skipped in epoch 3; all of them are in "
        f"{tmp_path / SKIPPED}"
    )


def test_a_run_lists_its_skipped_images_after_every_epoch(own_data, tmp_path, capsys):
    bad = {"train_00003": "training", "train_00020": "training", "test_0002": "evaluation"}
    damage(own_data, *bad)
    content = train_tiny(own_data, tmp_path / "run", *SKIP, "--epochs", 2)
    shown = capsys.readouterr().out
    for epoch in (1, 2):
        assert f"2 training and 1 evaluated images were skipped in epoch {epoch}\n" in shown
        for name, part in bad.items():
            line = f"skipped in {part}, epoch {epoch}: image {face(own_data, name)} cannot be"
            assert line in shown
    assert (tmp_path / "run/skipped.txt").read_text().count("epoch 2") == 3
    assert content["iter"] == 2
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert config["settings"]["on_bad_image"] == "skip"
    assert load(tmp_path / "run/best.pth")["training_images"] == 21
