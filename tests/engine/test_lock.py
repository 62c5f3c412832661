"""One run per folder: whose lock holds, and whose does not any more."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from engine.lock import NAME, is_stale, run_lock, this_process

from common.errors import InputError
from engine import lock
from tests.support.scripts import ROOT, snapshot


def test_a_lock_holds_and_goes(tmp_path):
    with run_lock(tmp_path):
        assert json.loads((tmp_path / NAME).read_text()) == this_process()
        with (
            pytest.raises(InputError, match=f"process {os.getpid()} on") as error,
            run_lock(tmp_path),
        ):
            pass
        assert str(tmp_path / NAME) in str(error.value)
        assert list(snapshot(tmp_path)) == [NAME]
    assert snapshot(tmp_path) == {}


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


def test_an_error_releases_the_lock(tmp_path):
    with pytest.raises(ZeroDivisionError), run_lock(tmp_path):
        raise ZeroDivisionError
    assert snapshot(tmp_path) == {}


def test_a_folder_that_vanished_is_no_second_error(tmp_path):
    folder = tmp_path / "run"
    with run_lock(folder):
        (folder / NAME).unlink()
        folder.rmdir()


STALE = {
    "ended": {"pid": 2**22 + 1},
    "another process with its number": {"started": "1"},
    "the machine was restarted": {"boot": "another"},
}
HELD = {
    "this process": {},
    "another machine": {"host": "elsewhere", "pid": 2**22 + 1},
    "another container": {"namespace": "pid:[1]", "pid": 2**22 + 1},
}


@pytest.mark.parametrize("change", STALE.values(), ids=STALE)
def test_the_lock_of_a_dead_process_is_taken_over(change, tmp_path):
    holder = {**this_process(), **change}
    assert is_stale(holder)
    (tmp_path / NAME).write_text(json.dumps(holder))
    with run_lock(tmp_path):
        assert json.loads((tmp_path / NAME).read_text()) == this_process()
    assert snapshot(tmp_path) == {}


@pytest.mark.parametrize("change", HELD.values(), ids=HELD)
def test_a_lock_that_may_be_alive_is_refused_and_stays(change, tmp_path):
    content = json.dumps({**this_process(), **change})
    (tmp_path / NAME).write_text(content)
    with pytest.raises(InputError, match="in use"), run_lock(tmp_path):
        pass
    assert snapshot(tmp_path) == {NAME: content.encode()}


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff", b"{}", b"[1]", b'{"host": 1}', b'{"host": "a", "pid": -1}', b"9" * 5000],
)
def test_a_lock_that_says_nothing_is_refused(content, tmp_path):
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(InputError, match="another process"), run_lock(tmp_path):
        pass
    assert snapshot(tmp_path) == {NAME: content}


def test_a_killed_process_leaves_a_lock_that_is_recognised(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from engine.lock import run_lock\n"
        "with run_lock(Path(sys.argv[1])): print('up', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"up\n"
    with pytest.raises(InputError, match=f"process {process.pid} on"), run_lock(tmp_path):
        pass
    process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie: ended, not yet told
    with run_lock(tmp_path):
        pass
    process.communicate()


def test_of_many_that_find_a_dead_lock_one_at_a_time_gets_it(tmp_path):
    dead = json.dumps({**this_process(), "started": "1"})
    inside, most = [], []

    def attempt(_number):
        try:
            with run_lock(tmp_path):
                inside.append(1)
                most.append(len(inside))
                inside.pop()
                return 1
        except InputError:
            return 0

    for _ in range(30):
        (tmp_path / NAME).write_text(dead)
        with ThreadPoolExecutor(4) as pool:
            assert sum(pool.map(attempt, range(4))) >= 1
        assert snapshot(tmp_path) == {}
    assert set(most) == {1}


def test_a_file_system_without_hard_links_will_do(tmp_path, monkeypatch):
    def no_links(*_paths):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    with run_lock(tmp_path):
        with pytest.raises(InputError, match="in use"), run_lock(tmp_path):
            pass
        assert list(snapshot(tmp_path)) == [NAME]
    assert snapshot(tmp_path) == {}


def test_without_proc_a_process_that_answers_is_alive(monkeypatch, tmp_path):
    monkeypatch.setattr(lock.Path, "exists", lambda path: False)
    assert lock._start_time(os.getpid()) == "?"
    assert lock._start_time(2**22 + 1) == ""
