"""Reading /dev/kmsg, or a file or FIFO in its place, without a thread."""

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_READ: Final = 8192
"""The kernel gives one record a read, and EINVAL where it does not fit: CONSOLE_EXT_LOG_MAX is 8192."""
_BATCH: Final = 512
_POLL_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class Batch:
    """Lines as they came. `live` says that the reader had waited for them, so that they were written just now;
    `lost` counts gaps where the kernel was faster, `drained` that there is no more now."""

    lines: tuple[bytes, ...]
    live: bool
    lost: int = 0
    drained: bool = False


async def batches(path: Path) -> AsyncIterator[Batch]:
    """Yield what is in the log and then what comes, until the caller stops.

    Raises:
        OSError: the log cannot be opened or read.
    """
    log = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    device = stat.S_ISCHR(os.fstat(log).st_mode)
    try:
        left, live, lost = b"", False, 0
        lines: list[bytes] = []
        while True:
            try:
                chunk = os.read(log, _READ)
            except BlockingIOError:
                chunk = b""
            except BrokenPipeError:  # records were overwritten before they were read; the next read goes on after them
                lost += 1
                continue
            *whole, left = (left + chunk).split(b"\n")
            left = left[-_READ:]
            lines += whole
            if chunk and len(lines) < _BATCH:
                continue
            if lines or lost or not live:
                yield Batch(tuple(lines), live, lost, drained=not chunk)
                lines, lost = [], 0
            await asyncio.sleep(0)  # a storm must not keep the writer and the pages waiting
            if not chunk:
                live = True
                await (_readable(log) if device else asyncio.sleep(_POLL_SECONDS))
    finally:
        os.close(log)


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(descriptor, _set, ready)
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)


def _set(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
