"""`internlm2`: questions about jobs, asked of the cluster that KUBECONFIG points to."""

import argparse
import asyncio
import sys
from collections.abc import Iterable, Sequence
from typing import Final

from internlm2_operator.api.job import InternLM2Job
from internlm2_operator.cli import text, why
from internlm2_operator.cluster import errors, gateway
from internlm2_spec.config import Refused

VERBS: Final = {
    "status": "where a job stands: step, checkpoint, nodes, conditions",
    "faults": "the job's faults: evidence, verdict, and the seconds of each step to recovery",
    "why": "why the job does what it does: what each decision of the operator says now",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print an answer (0), or one line about what is wrong (1 the cluster, 2 the question)."""
    asked = _parser().parse_args(arguments)
    try:
        lines = list(asyncio.run(_answer(asked.verb, asked.namespace, asked.name)))
    except (Refused, errors.NotFound) as error:
        print(_wrong(asked, error), file=sys.stderr)
        return 2
    except errors.ClusterError as error:
        print(f"cluster: {error}; check `kubectl get ilj`", file=sys.stderr)
        return 1
    print("\n".join(lines))
    return 0


def _wrong(asked: argparse.Namespace, error: Exception) -> str:
    if isinstance(error, Refused):
        return str(error)
    return f"NAME: no InternLM2Job {asked.name} in namespace {asked.namespace}; see `kubectl get ilj -A`"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="internlm2",
        description="Asks about InternLM2Jobs of the cluster that KUBECONFIG points to.",
        epilog="example: internlm2 faults demo -n training",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="|".join(VERBS))
    for verb, meaning in VERBS.items():
        one = verbs.add_parser(verb, help=meaning, description=meaning)
        one.add_argument("name", metavar="NAME", help="name of the InternLM2Job")
        one.add_argument("-n", "--namespace", default="default", help="its namespace, default `default`")
    return parser


async def _answer(verb: str, namespace: str, name: str) -> Iterable[str]:
    async with await gateway.connect(gateway.unobserved) as api:
        if verb == "why":
            return why.explain(await why.snapshot(api, namespace, name))
        job = InternLM2Job.from_object(await api.job(namespace, name))
        return text.status(job) if verb == "status" else text.faults(job)


if __name__ == "__main__":
    sys.exit(main())
