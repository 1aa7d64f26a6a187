"""A folder in shared memory that lives as long as its agent."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path("/dev/shm")
PREFIX: Final = "internlm2-memory-"
LOCK: Final = "lock"


@contextlib.contextmanager
def folder(root: Path = ROOT) -> Iterator[Path | None]:
    """Yield a new folder under `root`, removed afterwards; None where there is no such memory.

    Folders of agents that were killed are removed first. An agent holds a lock on its own, which is how the
    living are told from the dead: process ids are not shared between containers that share this memory.
    """
    if not (root.is_dir() and os.access(root, os.W_OK)):
        yield None
        return
    _sweep(root)
    path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=root))
    with (path / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


def _sweep(root: Path) -> None:
    for path in root.glob(f"{PREFIX}*"):
        # Of another user, or one that is just being made, without a lock yet: left alone.
        with contextlib.suppress(OSError), (path / LOCK).open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
