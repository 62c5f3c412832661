"""One run per folder: a lock file that names its process, so that a dead one's is recognised."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.files import make_folder

NAME = ".lock"


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold a run folder, which is made where it is missing, against other processes.

    A folder that was made and is still empty at the end is removed again.

    Raises InputError where a living process, or one that cannot be seen from here, holds it.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    make_folder(folder)
    lock = folder / NAME
    try:
        while not _create(lock):
            _remove_stale(lock)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                lock.unlink()
    finally:
        with contextlib.suppress(OSError):
            for path in made:
                path.rmdir()


def this_process() -> dict[str, Any]:
    """What tells this process from every other, now and after a restart of the machine."""
    return {
        "host": f"{platform.node() or 'unknown'} {_read('/etc/machine-id')}".strip(),
        "boot": _read("/proc/sys/kernel/random/boot_id"),
        "namespace": _namespace(),
        "pid": os.getpid(),
        "started": _start_time(os.getpid()),
    }


def is_stale(holder: dict[str, Any]) -> bool:
    """Whether the process that wrote a lock has certainly ended."""
    here = this_process()
    if holder["host"] != here["host"]:
        return False
    if holder["boot"] != here["boot"]:
        return True
    if holder["namespace"] != here["namespace"]:
        return False  # of another container on this machine: its processes cannot be seen
    return holder["started"] != _start_time(holder["pid"])


def _create(lock: Path) -> bool:
    """Make the lock file, at once with its content; False where it is there already."""
    try:
        handle, temporary = tempfile.mkstemp(prefix=f"{NAME}.", dir=lock.parent)
        try:
            with os.fdopen(handle, "w") as stream:
                json.dump(this_process(), stream)
            try:
                os.link(temporary, lock)
            except FileExistsError:
                return False
            except OSError:  # a file system without hard links
                if lock.exists():
                    return False
                Path(temporary).rename(lock)
        finally:
            Path(temporary).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {lock}: {error.strerror}") from error
    return True


def _remove_stale(lock: Path) -> None:
    """Remove the lock of a dead process; raises InputError where it may be alive."""
    try:
        with lock.open("rb") as stream:
            # Of two processes that find the same dead lock, one removes it and the other looks
            # again. Where files cannot be locked, that narrow race stays.
            with contextlib.suppress(OSError):
                fcntl.flock(stream, fcntl.LOCK_EX)
            if os.fstat(stream.fileno()).st_nlink == 0:
                return
            holder = _parse(stream.read(4096))
            if holder is None or not is_stale(holder):
                raise InputError(_refusal(lock, holder))
            lock.unlink()
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"cannot read {lock}: {error.strerror}") from error


def _refusal(lock: Path, holder: dict[str, Any] | None) -> str:
    who = f"process {holder['pid']} on {holder['host'].split()[0]}" if holder else "another process"
    return (
        f"{lock.parent} is in use by {who}; wait for it or choose another --output; if that "
        f"process is certainly gone, delete {lock}"
    )


def _parse(content: bytes) -> dict[str, Any] | None:
    """The holder that a lock file names; None where it is no lock file of ours."""
    try:
        holder = json.loads(content)
    except ValueError:
        return None
    kinds = {"host": str, "boot": str, "namespace": str, "pid": int, "started": str}
    if not isinstance(holder, dict) or not holder.get("host"):
        return None
    fits = all(isinstance(holder.get(name), kind) for name, kind in kinds.items())
    return holder if fits and holder["pid"] > 0 else None


def _start_time(pid: int) -> str:
    """When a process started, as the system counts; "" where there is none, "?" if not told."""
    if not Path("/proc/self/stat").exists():
        with contextlib.suppress(ProcessLookupError, PermissionError, OverflowError):
            os.kill(pid, 0)
            return "?"
        return ""
    # The name in parentheses may hold spaces and parentheses itself.
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    # A zombie has ended, whatever its parent does.
    return fields[19] if len(fields) > 19 and fields[0] not in ("Z", "X") else ""


def _namespace() -> str:
    with contextlib.suppress(OSError):
        return str(Path("/proc/self/ns/pid").readlink())
    return ""


def _read(path: str) -> str:
    """A small system file as text; "" where it cannot be read."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return Path(path).read_text().strip()
    return ""
