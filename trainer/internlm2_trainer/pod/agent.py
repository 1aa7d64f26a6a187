"""The process that runs in each pod: joins the rendezvous, keeps this node's ranks running, says how it ended.

It is torchrun with the contract's exit codes: torchrun ends with 0 or 1 whatever happened, and starts
each rank by importing torch anew. Here torch is imported once: ranks are forked from a copy of this process,
so a rank starts again in a fraction of a second, and a waiting spare is as fast as a member.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Final, NoReturn

from internlm2_spec.config import Refused
from internlm2_spec.contract import RENDEZVOUS_PORT, ExitCode, FailureClass, Termination
from internlm2_trainer.loop import options as train_options
from internlm2_trainer.observe.output import say
from internlm2_trainer.pod import ending, forks, shm
from internlm2_trainer.pod.interrupt import StopRequested, StopSignal

# What this process imports, torch above all.
SHARED: Final = ("internlm2_trainer.pod.node", "internlm2_trainer.pod.rendezvous")
# What ranks import besides, or would import later: slicing a device mesh, making a DTensor and FSDP's hooks ask torch's
# compiler, though only to keep out of its way.
FURTHER: Final = ("internlm2_trainer.pod.rank", "internlm2_trainer.storage.file", "numpy.ma", "torch._dynamo")


def main(arguments: list[str]) -> int:
    """Run the agent and return the exit code of the contract; the termination log holds the same."""
    options = parse(arguments)
    # With the shared store, keys of a former round make the next one fail (stale peer addresses).
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    end = _end(options)
    ending.write_termination_log(end)
    say(event="agent-ended", exitCode=end.exit_code, failure=end.failure.value, reason=end.reason, message=end.message)
    return end.exit_code


def parse(arguments: list[str]) -> argparse.Namespace:
    """Return the options. A mistake ends the process with code 2 and one line of argparse's."""
    parser = argparse.ArgumentParser(
        prog="internlm2_trainer agent",
        description="Run the ranks of one node. What follows -- is the verb each rank runs: train --config job.json",
    )
    parser.add_argument("--nnodes", default="1:1", type=_node_range, help="members as MIN:MAX, equal (default 1:1)")
    parser.add_argument("--nproc-per-node", default=1, type=int, help="ranks on this node (default 1)")
    parser.add_argument("--rdzv-endpoint", help="HOST:PORT of the rendezvous store (default: host it here)")
    parser.add_argument("--rdzv-id", default="local", help="name of this rendezvous, new for each attempt")
    parser.add_argument("--local-addr", help="name of this node; ranks are in the order of these names")
    parser.add_argument("--is-host", action="store_true", help="host the rendezvous store")
    parser.add_argument("--spare", action="store_true", help="wait for the place of a lost member; let all meet first")
    parser.add_argument("--max-restarts", default=3, type=int, help="restarts of this node's ranks (default 3)")
    parser.add_argument("--shutdown-seconds", default=60.0, type=float, help="time for a checkpoint after SIGTERM")
    parser.add_argument("verb", nargs=argparse.REMAINDER, help="-- train --config job.json")
    options = parser.parse_args(arguments)
    options.verb = options.verb[1:] if options.verb[:1] == ["--"] else options.verb
    if not options.verb:
        parser.error("nothing to run: end with -- train --config job.json")
    if options.verb[0] == "train":
        train_options.parse(options.verb[1:])  # refused here, once, and not by every rank
    if options.rdzv_endpoint is None:
        options.is_host, options.rdzv_endpoint = True, f"127.0.0.1:{RENDEZVOUS_PORT}"
    return options


def _node_range(text: str) -> int:
    low, _, high = text.partition(":")
    if not (low.isdigit() and int(low) > 0 and high in ("", low)):
        raise argparse.ArgumentTypeError(f"{text!r} is not N:N: the operator changes sizes, not the rendezvous")
    return int(low)


def _end(options: argparse.Namespace) -> Termination:
    stop = StopSignal()
    try:
        stop.listen()
        with (
            forks.server(_run_rank, shared=SHARED, further=FURTHER) as server,
            tempfile.TemporaryDirectory(prefix="internlm2-") as folder,
            shm.folder() as memory,
        ):
            stop.watch()  # by a thread, which the server must not have
            say(event="agent-started", time=time.time())
            return _run(options, server, Path(folder), memory, stop)
    except StopRequested:
        return Termination(FailureClass.STOPPED, "StoppedBeforeStart", ExitCode.STOPPED)
    except (Refused, forks.ServerLost) as error:
        return ending.explain(error)


def _run_rank(environment: dict[str, str], verb: list[str]) -> NoReturn:
    from internlm2_trainer.pod.node import run_rank

    run_rank(environment, verb)


def _run(
    options: argparse.Namespace, server: forks.Server, folder: Path, memory: Path | None, stop: StopSignal
) -> Termination:
    from internlm2_trainer.pod.node import Node
    from internlm2_trainer.pod.rendezvous import Rendezvous

    host, _, port = options.rdzv_endpoint.rpartition(":")
    if not port.isdigit():
        right = f"write HOST:{RENDEZVOUS_PORT}"
        raise Refused("--rdzv-endpoint", wrong=f"{options.rdzv_endpoint!r} has no port", right=right)
    rendezvous = Rendezvous.connect(
        host, int(port), name=options.rdzv_id, nodes=options.nnodes,
        local_addr=options.local_addr, is_host=options.is_host, spare=options.spare,
    )  # fmt: skip
    node = Node(
        rendezvous, server, ranks=options.nproc_per_node, verb=options.verb, folder=folder, memory=memory,
        max_restarts=options.max_restarts, shutdown_seconds=options.shutdown_seconds,
    )  # fmt: skip
    stop.kill_ranks = node.kill
    return node.run_to_the_end()
