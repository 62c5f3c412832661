"""Processes of one run as torchrun starts them, but forked, without torch's slow start."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch.distributed as dist

from tests.support.scripts import Forked


@contextmanager
def processes(
    mains: Sequence[Callable[[], object]], *, machines: int = 1
) -> Iterator[list[Forked]]:
    """A process for each of `mains`, evenly on so many machines, with torchrun's environment."""
    # Without libuv, which would close files of its number in every process that is forked.
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, use_libuv=False)
    local = len(mains) // machines
    with tempfile.TemporaryDirectory() as place:
        gate = Path(place) / "open"

        def start(rank: int) -> None:
            while not gate.exists():
                time.sleep(0.01)
            names = {"RANK": rank, "LOCAL_RANK": rank % local, "LOCAL_WORLD_SIZE": local}
            names |= {"WORLD_SIZE": len(mains), "MASTER_PORT": store.port}
            os.environ.update({name: str(value) for name, value in names.items()})
            os.environ["MASTER_ADDR"] = "127.0.0.1"
            os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"
            mains[rank]()

        started = [Forked(lambda rank=rank: start(rank)) for rank in range(len(mains))]
        gate.touch()  # only now: forking beside a store that is at work can copy a held lock
        try:
            yield started
        finally:
            for process in started:
                process.end()
