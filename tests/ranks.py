"""Real ranks for tests: processes forked from a server that has torch imported, joined over gloo.

`run(4, work, argument)` calls `work(rank, world, argument)` in four processes and returns their four
results in rank order. `work` must be a function at module level of an importable test module, and
results must be plain Python or NumPy values: a tensor dies with the process that made it.
"""

import datetime
import multiprocessing
import multiprocessing.connection
import multiprocessing.context
import os
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

# Imported once by the server (7 to 15 s); a rank then starts in about 0.1 s.
PRELOAD: Final = ["tests.preloaded"]


class RankFailed(AssertionError):
    """A rank raised or died; carries its traceback or exit code."""


def run(world: int, work: Callable[..., Any], *arguments: Any, timeout_seconds: float = 120.0) -> list[Any]:
    """Run `work(rank, world, *arguments)` on `world` ranks of one gloo group; return results by rank.

    Raises:
        RankFailed: a rank raised, died without a result, or was not done in time. The others are killed.
    """
    with tempfile.TemporaryDirectory() as folder:
        started = [_start(context(), folder, rank, world, work, arguments) for rank in range(world)]
        try:
            return _collect([connection for _, connection in started], time.monotonic() + timeout_seconds)
        finally:
            for process, connection in started:
                process.kill()
                process.join()
                process.close()
                connection.close()


def context() -> multiprocessing.context.ForkServerContext:
    """Return the context whose processes are forked from the server."""
    forkserver = multiprocessing.get_context("forkserver")
    forkserver.set_forkserver_preload(PRELOAD)
    return forkserver


def join_group(path: Path, *, rank: int, world: int) -> None:
    """Join the default process group of the ranks that name the same new file."""
    import torch.distributed as dist

    timeout = datetime.timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=world, timeout=timeout)


def _start(
    context: multiprocessing.context.ForkServerContext,
    folder: str,
    rank: int,
    world: int,
    work: Callable[..., Any],
    arguments: Sequence[Any],
) -> tuple[multiprocessing.context.ForkServerProcess, multiprocessing.connection.Connection]:
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(
        target=_rank_main, args=(sender, dict(os.environ), folder, rank, world, work, arguments), daemon=True
    )
    process.start()
    sender.close()  # so that the death of the rank is an end of file here
    return process, receiver


def _collect(connections: list[multiprocessing.connection.Connection], deadline: float) -> list[Any]:
    results: dict[int, Any] = {}
    while len(results) < len(connections):
        waiting = [c for rank, c in enumerate(connections) if rank not in results]
        ready = multiprocessing.connection.wait(waiting, timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            raise RankFailed(f"ranks {sorted(set(range(len(connections))) - set(results))} were not done in time")
        for connection in ready:
            rank = next(i for i, c in enumerate(connections) if c is connection)
            results[rank] = _receive(rank, connections[rank])
    return [results[rank] for rank in range(len(connections))]


def _receive(rank: int, connection: multiprocessing.connection.Connection) -> Any:
    try:
        error, value = connection.recv()
    except EOFError:
        raise RankFailed(f"rank {rank} died without a result") from None
    if error:
        raise RankFailed(f"rank {rank}:\n{error}")
    return value


def _rank_main(
    sender: multiprocessing.connection.Connection,
    environment: dict[str, str],
    folder: str,
    rank: int,
    world: int,
    work: Callable[..., Any],
    arguments: Sequence[Any],
) -> None:
    import torch

    os.environ.clear()  # the server's is from its start, and this test may have set something since
    os.environ.update(environment)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # the host name need not resolve
    torch.set_num_threads(1)
    try:
        join_group(Path(folder) / "group", rank=rank, world=world)
        reply: tuple[str, Any] = ("", work(rank, world, *arguments))
    except BaseException:  # torch's CheckpointException is not an Exception
        reply = (traceback.format_exc(), None)
    sender.send(reply)  # synchronous: nothing is lost by the exit below
    sender.close()
    # Without waiting for threads or a group whose other members may be gone.
    os._exit(0)
