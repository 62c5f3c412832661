"""A part of the check -> its outcome: a process of its own, under a time limit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
#: Seconds that a process has to end its own processes once its time is up.
GRACE = 5.0
#: Lines of its output that the report keeps of a part that failed.
TAIL = 30

#: The numbers of a part, from the folder that it wrote to, its output, and its seconds.
Reader = Callable[[Path, str, float], dict[str, Any]]


@dataclass(frozen=True)
class Part:
    """A part of the check: arguments of this Python, and what to read when they are done."""

    name: str
    command: tuple[str, ...]
    limit: float  # seconds
    read: Reader = lambda _work, _output, _seconds: {}
    environment: Mapping[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()  # parts that must run first


@dataclass(frozen=True)
class Result:
    """What became of a part."""

    name: str
    command: str
    limit: float
    seconds: float
    outcome: str  # passed, failed, timed out
    reason: str = ""  # in a line, where it did not pass
    numbers: dict[str, Any] = field(default_factory=dict)
    tail: str = ""  # the end of its output, where it did not pass


def run_part(part: Part, work: Path, log: Path) -> Result:
    """Run a part to its end or to its limit; its output goes to `log`, its files below `work`."""
    work.mkdir(parents=True)
    started = time.perf_counter()
    status = _run(part, log)
    seconds = time.perf_counter() - started
    output = log.read_text(encoding="utf-8", errors="replace")
    reason = ""
    if status is None:
        reason = f"over {part.limit:g} s"
    elif status != 0:
        reason = _last_line(output) or f"status {status}"
    try:
        numbers = part.read(work, output, seconds)
    except (OSError, ValueError, LookupError) as error:
        # A part that failed may have written nothing; one that passed has to.
        numbers, reason = {}, reason or f"no numbers: {type(error).__name__} {error}"
    outcome = "timed out" if status is None else "failed" if reason else "passed"
    tail = "\n".join(output.splitlines()[-TAIL:]) if reason else ""
    command = " ".join(("python", *part.command))
    return Result(part.name, command, part.limit, seconds, outcome, reason, numbers, tail)


def _run(part: Part, log: Path) -> int | None:
    """The exit status of a part, None where its time ran out."""
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, *part.command],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"} | part.environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            return process.wait(part.limit)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if process.returncode is None:
                _end(process)


def _end(process: subprocess.Popen) -> None:
    """End a process and those that it started, torchrun's too, which it ends on SIGTERM."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)


def _last_line(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""
