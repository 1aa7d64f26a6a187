"""`check`: is this node as fast as the others, and does it compute what it should?"""

import argparse
import json
import socket
import sys
from typing import TYPE_CHECKING, Final

from internlm2_spec import nodecheck
from internlm2_spec.config import Refused
from internlm2_spec.contract import ExitCode, FailureClass, Termination
from internlm2_spec.nodecheck import Part, Report, State, Verdict
from internlm2_trainer.pod import ending

if TYPE_CHECKING:
    from internlm2_trainer.check.node import Member

JOIN_SECONDS: Final = 300.0
REASON: Final = "NodeCheckFailed"

_EPILOG: Final = f"""what happens:
  1. every node measures itself: matmul, patterns in memory, all-reduce among its own devices
  2. nodes meet in pairs and all-reduce; of a pair that is slow or fails nobody knows yet who is at fault
  3. each of those meets a known-good node, and is named if it fails again
  A pair that hangs is given up after {nodecheck.PAIR_SECONDS:g} s. Below 4 nodes often nobody can say which one it was.

examples:
  python -m internlm2_trainer check
      this node alone, its GPUs against what is published for them
  python -m internlm2_trainer check --nodes 4 --rank 0 --store node-0:29500
  python -m internlm2_trainer check --nodes 4 --rank 1 --store node-0:29500       ... and so on, one on each node
      four nodes against each other; rank 0 hosts the store and prints all of them
  python -m internlm2_trainer check --nodes 4 --rank 1 --store node-0:29500 --domain leaf-7 --full -o json
      longer, across switches first, for a machine to read

Scores are relative to what is expected: 1.00 is as expected, at 0.50 (matmul of a known GPU: 0.70) a node is slow.
Exit codes are of this node: 0 good, 1 not known (no known-good partner, or rank 0 is gone), 2 command line,
76 slow or broken. docs/nodecheck.md says how each figure is made."""


def main(arguments: list[str]) -> int:
    """Take part in a check, print what was found, and return this node's exit code of the contract."""
    options = _parse(arguments)
    try:
        _refuse(options)
    except Refused as error:
        print(error, file=sys.stderr)
        return 2
    from internlm2_trainer.check import node

    try:
        report = node.take_part(_member(options), depth=options.depth, devices=options.devices)
    except node.StoreLost as error:
        print(f"check: rank 0 is not there: {error}", file=sys.stderr)
        return ending.INFRASTRUCTURE_EXIT_CODE
    own = report.verdicts[options.rank]
    end = ended(own)
    ending.write_termination_log(end)
    if options.output == "json":
        print(json.dumps({"node": own.node, "state": own.state, **json.loads(report.to_json())}))
    else:
        print("\n".join(text(report if options.rank == 0 else Report((own,), ()))))
    return end.exit_code


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="internlm2_trainer check", formatter_class=argparse.RawDescriptionHelpFormatter, epilog=_EPILOG,
        description="Find slow and broken nodes before they hold up or spoil a job. Run it once on every node.",
    )  # fmt: skip
    parser.add_argument("--nodes", type=int, default=1, metavar="N", help="how many nodes take part (default 1)")
    parser.add_argument("--rank", type=int, default=0, metavar="R", help="this node's number, from 0 (default 0)")
    parser.add_argument("--store", metavar="HOST:PORT", help="where rank 0 listens; needed with more than one node")
    parser.add_argument("--name", default=socket.gethostname(), help="this node in the report (default: its host name)")
    parser.add_argument("--domain", default="", metavar="SWITCH", help="its switch: pairs then cross switches first")
    parser.add_argument("--devices", type=int, metavar="D", help="devices of this node (default: its GPUs, or one CPU)")
    parser.add_argument("--join-seconds", type=float, default=JOIN_SECONDS, metavar="S",
        help=f"how long to wait for the other nodes (default {JOIN_SECONDS:g})")  # fmt: skip
    depth = parser.add_mutually_exclusive_group()
    depth.add_argument("--quick", dest="depth", action="store_const", const="quick", help="seconds (the default)")
    depth.add_argument("--full", dest="depth", action="store_const", const="full",
        help="larger matrices and messages, most of the memory: a minute or two")  # fmt: skip
    parser.set_defaults(depth="quick")
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text", help="(default text)")
    return parser.parse_args(arguments)


def _refuse(options: argparse.Namespace) -> None:
    if options.nodes < 1:
        raise Refused("--nodes", wrong=f"{options.nodes} is too few", right="use 1 or more")
    if not 0 <= options.rank < options.nodes:
        raise Refused("--rank", wrong=f"{options.rank} is none of {options.nodes} nodes",
            right=f"use 0 to {options.nodes - 1}")  # fmt: skip
    if options.devices is not None and options.devices < 1:
        raise Refused("--devices", wrong=f"{options.devices} is too few", right="use 1 or more")
    if options.join_seconds <= 0:
        raise Refused("--join-seconds", wrong=f"{options.join_seconds:g} is no time", right="use more than 0")
    if options.store is None:
        if options.nodes > 1:
            raise Refused("--store", wrong="missing", right="name host and port of rank 0, like node-0:29500")
        options.store = "127.0.0.1:0"
    elif not (options.store.rpartition(":")[0] and options.store.rpartition(":")[2].isdigit()):
        raise Refused("--store", wrong=f"{options.store!r} is not HOST:PORT", right="write it like node-0:29500")


def _member(options: argparse.Namespace) -> "Member":
    from internlm2_trainer.check.node import LOCAL_SECONDS, Member, Times

    times = Times(join=options.join_seconds, local=LOCAL_SECONDS[options.depth])
    return Member(options.rank, options.nodes, options.name, options.domain, options.store, times)


def ended(own: Verdict) -> Termination:
    """Return how a node with this verdict ends."""
    said = "; ".join(f"{found.part}: {found.what}" for found in own.findings)
    if own.state in (State.SLOW, State.BROKEN):
        return Termination(FailureClass.INFRASTRUCTURE, REASON, ExitCode.NODE_CHECK, message=said)
    if own.state is State.UNKNOWN:
        code = ending.INFRASTRUCTURE_EXIT_CODE
        return Termination(FailureClass.INFRASTRUCTURE, "NodeCheckUndecided", code, message=said)
    return Termination(FailureClass.DONE, "Completed", ExitCode.DONE)


def text(report: Report) -> list[str]:
    """Return a table of the nodes, what was found under each, and paths that failed between good nodes."""
    rows: list[tuple[str, ...]] = [("NODE", "STATE", "COMPUTE", "MEMORY", "INTRA-NODE", "INTER-NODE")]
    rows += [(v.node, str(v.state), *(_score(v, part) for part in Part)) for v in report.verdicts]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines = table[:1]
    for line, verdict in zip(table[1:], report.verdicts, strict=True):
        lines += [line, *(f"  {found.part}: {found.what}" for found in verdict.findings)]
    return lines + [
        f"{' and '.join(path)} failed together, and are good apart: look between them" for path in report.paths
    ]


def _score(verdict: Verdict, part: Part) -> str:
    return f"{verdict.scores[part]:.2f}" if part in verdict.scores else "-"
