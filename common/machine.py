"""What this machine has free: cores and memory."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import torch

#: Seconds over which `busy_cores` counts.
LOOK = 0.3
#: From this share of the cores on, other work slows a run down noticeably.
BUSY_SHARE = 0.4


def available_cores() -> list[int]:
    """The numbers of the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def use_threads(threads: int, device: torch.device) -> None:
    """Give torch that many threads (0: its default), and say so if the cores are already busy.

    Call this before the work of the run itself, which would count as well.
    """
    if threads:
        torch.set_num_threads(threads)
    cores, busy = len(available_cores()), busy_cores() if device.type == "cpu" else 0.0
    left = max(1, round(cores - busy))
    if busy >= BUSY_SHARE * cores and torch.get_num_threads() > left:
        print(
            f"{busy:.1f} of {cores} cores are busy with other work: --threads {left} makes this "
            "run and the others faster"
        )


def busy_cores() -> float:
    """How many of the available cores work on something at present; 0 where Linux does not say."""
    before = _core_times()
    if not before:
        return 0.0
    time.sleep(LOOK)
    after = _core_times()
    shares = []
    for core, (idle, total) in before.items():
        passed = after[core][1] - total
        shares.append(1 - (after[core][0] - idle) / passed if passed else 0.0)
    return sum(shares)


def _core_times(statistics: Path = Path("/proc/stat")) -> dict[int, tuple[int, int]]:
    """Per available core its idle time (waiting for disks included) and all time, in ticks."""
    try:
        lines = statistics.read_text().splitlines()
    except OSError:
        return {}
    times = {}
    for line in lines:
        if found := re.match(r"cpu(\d+) (.*)", line):
            # user nice system idle iowait irq softirq steal; guests are counted in user.
            ticks = [int(number) for number in found[2].split()[:8]]
            times[int(found[1])] = (ticks[3] + ticks[4], sum(ticks))
    return {core: times[core] for core in available_cores() if core in times}


def free_memory() -> int:
    """Bytes that new data may take before Linux, or the process's cgroup, runs out of memory."""
    available = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    free = 1024 * int(available[1])
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())
        free = min(free, limit - int((group / "memory.current").read_text()))
    except (OSError, ValueError):  # no such group, or no limit: "max"
        pass
    return max(0, free)
