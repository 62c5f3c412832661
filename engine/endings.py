"""How a run in several processes ends where one of them fails: told once on every machine.

All of them end: torchrun signals the others, or they find their connections closed. The process
that fails first leaves a note with torchrun's store, so that whoever loses it knows why. A stop by
a signal is told by the first process, which knows what is written.
"""

from __future__ import annotations

import contextlib
import json
import platform
from typing import TYPE_CHECKING, NamedTuple

import torch.distributed as dist

from common.errors import InputError
from common.signals import Stopped, stop_asked

from .lock import is_stale, this_process

if TYPE_CHECKING:
    from .distributed import World

FAILED = 2  # exit status of a process that leaves the telling to another


class Note(NamedTuple):
    """What the process that failed first says of it."""

    rank: int
    host: str
    stopped: bool  # by a signal
    text: str


class Notes:
    """What the processes of one start tell each other when they end, in torchrun's store."""

    def __init__(self, store: dist.Store, world: World):
        self.store, self.world = store, world
        if world.first:
            store.set("first", json.dumps(this_process()))

    def leave(self, text: str, *, stopped: bool = False) -> None:
        """Say why this process ends, unless another one said so before."""
        note = Note(self.world.rank, platform.node(), stopped, text)
        with contextlib.suppress(RuntimeError):  # the store may be gone with its process
            self.store.compare_set("note", "", json.dumps(note))

    def found(self) -> Note | None:
        """The note that was left first, if there is one."""
        with contextlib.suppress(RuntimeError):
            if self.store.check(["note"]):
                return Note(*json.loads(self.store.get("note")))
        return None

    def to_tell(self) -> bool:
        """Whether this process is the first of its machine that asks to tell the end."""
        with contextlib.suppress(RuntimeError):
            return self.store.add(f"told on machine {self.world.machine}", 1) == 1
        return True

    def first_will_tell(self) -> bool:
        """Whether the first process is on this machine and alive."""
        with contextlib.suppress(RuntimeError):
            if self.world.machine == 0 and self.store.check(["first"]):
                return not is_stale(json.loads(self.store.get("first")))
        return False


def ending(error: BaseException, world: World, notes: Notes) -> BaseException:
    """What this process raises instead of `error`: the same, its cause, or SystemExit alone.

    error: its `advice`, where it has one, says how to go on.
    """
    stopped = error if isinstance(error, Stopped) else stop_asked()
    advice = getattr(error, "advice", "") or "start again with --resume"
    if stopped is not None:
        stopped.advice = getattr(error, "advice", "")
        return _stopped(stopped, world, notes)
    if isinstance(error, RuntimeError) and of_the_connection(error):
        return _lost(advice, world, notes)
    if isinstance(error, InputError):
        notes.leave(str(error))
        return error if notes.to_tell() else SystemExit(FAILED)
    if isinstance(error, Exception):
        notes.leave(f"{type(error).__name__}: {error}")
        notes.to_tell()
    return error


def of_the_connection(error: RuntimeError) -> bool:
    """Whether an error says that another process is gone; gloo has no type of its own for it."""
    words = ("gloo", "Gloo", "Connection", "connection", "NCCL", "ncclRemoteError", "Socket")
    return isinstance(error, dist.DistError) or any(word in str(error) for word in words)


def _stopped(stopped: Stopped, world: World, notes: Notes) -> BaseException:
    """The end of a process that got a signal, maybe from torchrun since another one failed."""
    notes.leave(str(Stopped(stopped.number)), stopped=True)
    note = notes.found()
    if note is not None and not note.stopped:
        return _lost(stopped.advice, world, notes)
    told = not world.first and notes.first_will_tell()
    return SystemExit(stopped.status) if told or not notes.to_tell() else stopped


def _lost(advice: str, world: World, notes: Notes) -> BaseException:
    """The end of a process that has lost another."""
    note = notes.found()
    told = note is not None and note.stopped and not world.first and notes.first_will_tell()
    if told or not notes.to_tell():
        return SystemExit(FAILED)
    if note is None:
        found = f"one of the {world.size} processes was killed, or its machine is lost"
    else:
        how = "was" if note.stopped else "ended:"
        found = f"process {note.rank} of {world.size} on {note.host} {how} {note.text}"
    return InputError(f"{found}; {advice}")
