"""What a person can type. `--help` of each verb teaches by an example."""

import argparse
import os
import re
from collections.abc import Sequence
from typing import Final, Protocol

from internlm2_operator.cli import replay, simulate
from internlm2_operator.cli.answer import FORMS

_EPILOG: Final = """\
examples:
  %(prog)s status -A                       all jobs
  %(prog)s why demo                        why it is not running, or slow, in one paragraph
  %(prog)s faults demo -n training         each fault: evidence, verdict, seconds of every arrow to recovery
  %(prog)s logs demo --slot 1 -f           what a member prints, as it prints it
  %(prog)s resize demo --max 8             more nodes as soon as there are some
  %(prog)s plan -f job.yaml --gpu h100     sizes, memory, step times, checkpoints: before it runs

Exit code 0; 1 when the cluster or the store does not answer; 2 with one line a mistake, the API server's refusals
among them. KUBECONFIG and its current context are used as by kubectl. `kubectl internlm2 VERB` is the same program.
"""

Parser = argparse.ArgumentParser


class Verb(Protocol):
    """Makes the parser of a verb: with NAME of a job, and with forms of the answer, unless told otherwise."""

    def __call__(self, name: str, meaning: str, example: str, *, job: bool = True, form: bool = True) -> Parser: ...


def parse(arguments: Sequence[str] | None, program: str) -> argparse.Namespace:
    """Read a command line; exits with 2 and a line when it makes no sense."""
    parser = argparse.ArgumentParser(
        prog=program,
        description="Asks about InternLM2Jobs, changes their size, and says what one would cost before it runs.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, meaning: str, example: str, *, job: bool = True, form: bool = True) -> Parser:
        one = verbs.add_parser(name, help=meaning, description=meaning, epilog=f"example: {program} {example}")
        _place(one)
        if job:
            one.add_argument("name", metavar="NAME", help="name of the InternLM2Job")
        if form:
            one.add_argument("-o", "--output", choices=FORMS, default="text", help="form of the answer (default text)")
        return one

    _asking(verb)
    _showing(verb("ui", "the same in a browser, to read only", "ui", job=False, form=False))
    _writing(verb)
    example = "plan -f job.yaml --gpu h100 --mfu 0.4"
    _planning(verb("plan", "what a manifest would do, or why it would be refused", example, job=False))
    example = f"example: {program} {simulate.VERB} --nodes 16 --spares 1 --days 30"
    simulate.add_arguments(
        verbs.add_parser(simulate.VERB, help=simulate.MEANING, description=simulate.MEANING, epilog=example)
    )
    example = f"example: {program} {replay.VERB} tests/data/faults -o json"
    replay.add_arguments(verbs.add_parser(replay.VERB, help=replay.MEANING, description=replay.MEANING, epilog=example))
    return parser.parse_args(arguments)


def _place(parser: Parser) -> None:
    parser.add_argument("-n", "--namespace", help="namespace (default: that of the context)")
    parser.add_argument("--context", help="context of the kubeconfig (default: the current one)")


def _asking(verb: Verb) -> None:
    status = verb("status", "where a job stands, or a table of all jobs", "status demo -o yaml", job=False)
    status.add_argument("name", metavar="NAME", nargs="?", help="name of the InternLM2Job (default: all of them)")
    status.add_argument("-A", "--all-namespaces", action="store_true", help="the jobs of every namespace")
    verb(
        "why", "why a job is not running, or slow; -o wide: what each decision of the operator says", "why demo -o wide"
    )
    verb("faults", "a job's faults: evidence, verdict, the seconds of each step to recovery", "faults demo -n training")
    verb("checkpoints", "the checkpoints in the store: verified, corrupt, newest", "checkpoints demo -o wide")
    meaning = "nodes that the operator took out: since when, why, by whom; -o wide: the evidence"
    verb("cordons", meaning, "cordons -o wide", job=False)
    meaning = "nodes that something is known about: cordons, what will go, suspicions, probation, past faults"
    verb("nodes", meaning, "nodes", job=False)
    meaning = "why one node was cordoned, or not: the rule, the evidence, what would mend it, its past"
    verb("why-cordoned", meaning, "why-cordoned gpu-017", job=False).add_argument("node", metavar="NODE")
    logs = verb("logs", "the log of one member, of slot 0 unless told otherwise", "logs demo --slot 1 -f", form=False)
    which = logs.add_mutually_exclusive_group()
    which.add_argument("--slot", type=_count, help="the member on this slot (default 0)")
    which.add_argument("--rank", type=_count, help="the member with this global rank, as ranks were at the start")
    which.add_argument("-p", "--previous", action="store_true", help="the pod that failed last")
    logs.add_argument("-f", "--follow", action="store_true", help="go on until the member ends")
    logs.add_argument("--tail", type=_count, metavar="N", help="only the last N lines")


def _showing(ui: Parser) -> None:
    ui.add_argument("--port", type=_count, default=8090, metavar="N", help="port, default %(default)s; 0 is any")
    ui.add_argument(
        "--shared",
        action="store_true",
        help="serve others, on all addresses: each request brings a token of its own, and is answered with its rights",
    )
    ui.add_argument(
        "--prometheus-url",
        type=_url,
        default=os.environ.get("PROMETHEUS_URL", ""),
        metavar="URL",
        help="Prometheus, for loss and MFU over the life of a job, http://HOST:PORT (PROMETHEUS_URL)",
    )


def _writing(verb: Verb) -> None:
    resize = verb(
        "resize", "bound the number of nodes anew; the operator takes the largest legal size", "resize demo --max 8"
    )
    resize.add_argument("--min", type=_count, metavar="N", help="nodes.min")
    resize.add_argument("--max", type=_count, metavar="N", help="nodes.max")
    verb("suspend", "stop a job after a checkpoint, and keep it", "suspend demo")
    verb("resume", "let a suspended job go on from its newest checkpoint", "resume demo")


def _planning(plan: Parser) -> None:
    add = plan.add_argument
    add("-f", "--filename", required=True, metavar="FILE", help="manifest with one InternLM2Job, - for standard input")
    add("--cluster", action="store_true", help="also ask the cluster: dry run, rights, quotas, what would happen now")
    add("--gpu", metavar="TYPE", help="type of the GPUs, as in h100 or A100-80GB: predicts step times and MFU")
    add("--mfu", type=float, metavar="FRACTION", help="causal MFU to compute step times from, instead of a prediction")
    add("--network-gbit", type=float, metavar="N", help="Gbit/s of a node's network (default: the vendor's own system)")
    add(
        "--node-mttf-hours",
        type=_positive,
        metavar="H",
        help="mean hours to failure of a node (default: Llama 3's rate)",
    )
    add("--pause-seconds", type=_positive, metavar="S", help="how long a save stops training (default: a table)")


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is negative; use 0 or more")
    return value


def _url(text: str) -> str:
    if text and not re.match(r"https?://[^/]", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no address; write http://HOST:PORT")
    return text


def _positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{value:g} is not above 0")
    return value
