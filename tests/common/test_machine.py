"""Free cores and memory, by what the kernel says."""

from __future__ import annotations

import sys
import threading

import pytest
import torch

from common import machine
from common.machine import available_cores, busy_cores, free_memory, use_threads

CPU, GPU = torch.device("cpu"), torch.device("cuda")
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="asks the Linux kernel")


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def patched(monkeypatch, capsys):
    return monkeypatch, capsys


@LINUX
def test_busy_cores_are_counted_over_the_time_of_looking(monkeypatch):
    #             idle, total: core 0 works half of the time, core 3 all the time, core 5 never
    times = iter([{0: (10, 100), 3: (7, 50), 5: (0, 0)}, {0: (15, 110), 3: (7, 60), 5: (9, 9)}])
    monkeypatch.setattr(machine, "_core_times", lambda: next(times))
    monkeypatch.setattr(machine, "LOOK", 0)
    assert busy_cores() == 0.5 + 1 + 0


def test_the_kernel_s_counters_are_read_for_the_available_cores(monkeypatch, tmp_path):
    (tmp_path / "stat").write_text(
        "cpu  9 9 9 9 9 9 9 9 9 9\ncpu0 1 2 3 40 5 6 7 8 9 10\ncpu1 0 0 0 1 0 0 0 0 0 0\nintr 5\n"
    )
    monkeypatch.setattr(machine, "available_cores", lambda: [0])
    assert machine._core_times(tmp_path / "stat") == {0: (45, 72)}
    assert machine._core_times(tmp_path / "none") == {}


def test_without_the_kernel_s_counters_no_core_is_busy(monkeypatch):
    monkeypatch.setattr(machine, "_core_times", dict)
    assert busy_cores() == 0


@LINUX
def test_a_busy_thread_of_this_process_is_seen(monkeypatch):
    monkeypatch.setattr(machine, "LOOK", 0.3)
    stop = threading.Event()
    worker = threading.Thread(target=lambda: [None for _ in iter(stop.is_set, True)])
    worker.start()
    try:
        assert 0.2 < busy_cores() <= len(available_cores())
    finally:
        stop.set()
        worker.join()


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(
    ("cores", "busy", "asked", "advised"),
    [
        (2, 1.9, 0, 1),
        (16, 9.8, 0, 6),
        (2, 0.7, 0, None),  # one core is free enough
        (2, 1.9, 1, None),
        (4, 4.0, 2, 1),
    ],
)
def test_busy_cores_are_told_with_the_threads_to_use(patched, cores, busy, asked, advised):
    monkeypatch, capsys = patched
    monkeypatch.setattr(machine, "available_cores", lambda: list(range(cores)))
    monkeypatch.setattr(machine, "busy_cores", lambda: busy)
    torch.set_num_threads(cores)
    use_threads(asked, GPU)
    assert capsys.readouterr().out == ""
    use_threads(asked, CPU)
    assert torch.get_num_threads() == (asked or cores)
    shown = capsys.readouterr().out
    if advised is None:
        assert shown == ""
    else:
        assert shown.startswith(f"{busy} of {cores} cores are busy with other work: --threads ")
        assert f"--threads {advised} makes" in shown


@LINUX
def test_free_memory_is_what_the_kernel_and_the_cgroup_leave(tmp_path, monkeypatch):
    assert 2**20 < free_memory() < 2**50
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:     1000 kB\n")
    files = {"/proc/meminfo": tmp_path / "meminfo", "/sys/fs/cgroup": tmp_path}
    monkeypatch.setattr(machine, "Path", lambda name: files[name])
    assert free_memory() == 1_024_000  # no limit is known
    for limit, used, expected in (("max", 5, 1_024_000), (50_000, 20_000, 30_000), (5, 7, 0)):
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        (tmp_path / "memory.current").write_text(f"{used}\n")
        assert free_memory() == expected
