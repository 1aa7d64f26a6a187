"""Programs for tests, `python -m PROGRAM ARGUMENTS`, without waiting for torch: forked from the server of `ranks`."""

import os
import runpy
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from tests import ranks


def start(
    command: Sequence[str], *, environment: Mapping[str, str], output: Path, errors: Path, fresh: bool = False
) -> ForkServerProcess:
    """Start a module with its arguments, in a session of its own, which writes to `output` and `errors`.

    A `fresh` one imports all by itself, as a container's does.
    """
    process = ranks.context().Process(
        target=_be, args=(list(command), dict(environment), str(output), str(errors), fresh), daemon=True
    )
    process.start()
    return process


def wait(process: ForkServerProcess, seconds: float) -> int:
    """Return the exit code, a signal as its negative number.

    Raises:
        TimeoutError: it still runs after so many seconds.
    """
    process.join(seconds)
    if process.exitcode is None:
        raise TimeoutError(f"process {process.pid} still runs after {seconds:.0f} s")
    return process.exitcode


def _be(command: list[str], environment: dict[str, str], output: str, errors: str, fresh: bool) -> None:
    os.setsid()
    for number, path in ((1, output), (2, errors)):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOCTTY, 0o644)
        os.dup2(opened, number)
        os.close(opened)
    if fresh:
        os.execve(sys.executable, [sys.executable, "-m", *command], environment)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = command
    runpy.run_module(command[0], run_name="__main__", alter_sys=True)
