"""`internlm2`: questions about jobs and changes to them, asked of the cluster that KUBECONFIG points to."""

import argparse
import asyncio
import contextlib
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from internlm2_operator.api.job import InternLM2Job
from internlm2_operator.cli import arguments, change, checkpoints, cordons, logs, nodes, replay, simulate, text, why
from internlm2_operator.cli.answer import Answer, printed
from internlm2_operator.cluster import errors, gateway, records
from internlm2_operator.cluster.checkpoints import StoreProblem
from internlm2_operator.cluster.gateway import Gateway
from internlm2_operator.manifests.pod import CONTAINER
from internlm2_spec.config import Refused

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Print an answer (0), or one line about what is wrong (1 the cluster or the store, 2 the question)."""
    asked = arguments.parse(argv, _program())
    try:
        return asyncio.run(_run(asked))
    except Refused as error:
        return _complain(str(error), 2)
    except errors.NotFound as error:
        return _complain(_absent(asked, error), 2)
    except errors.GiveUp as error:
        return _complain(errors.told(error), 2)
    except (errors.ClusterError, StoreProblem) as error:
        return _complain(f"cluster: {error}; check `kubectl get ilj`", 1)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader has seen enough; what is still buffered has nowhere to go
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _program() -> str:
    return "kubectl internlm2" if Path(sys.argv[0]).name.startswith("kubectl-") else "internlm2"


def _complain(line: str, code: int) -> int:
    print(line, file=sys.stderr)
    return code


def _absent(asked: argparse.Namespace, error: errors.NotFound) -> str:
    if getattr(asked, "name", None) and f'"{asked.name}"' in str(error):
        return f"NAME: no InternLM2Job {asked.name} in namespace {asked.namespace}; see `internlm2 status -A`"
    return errors.told(error)


async def _run(asked: argparse.Namespace) -> int:
    if asked.verb == "plan":
        return await _plan(asked)
    if asked.verb == simulate.VERB:
        print("\n".join(simulate.answer(asked)))
        return 0
    if asked.verb == replay.VERB:
        lines, code = replay.answer(asked)
        print("\n".join(lines))
        return code
    if asked.verb == "ui":
        from internlm2_operator.cli.ui import serve  # only this verb needs templates

        await serve.run(
            port=asked.port, shared=asked.shared, namespace=asked.namespace, context=asked.context,
            prometheus_url=asked.prometheus_url,
        )  # fmt: skip
        return 0
    asked.namespace = asked.namespace or gateway.current_namespace(asked.context)
    async with await gateway.connect(gateway.unobserved, asked.context) as api:
        if asked.verb == "logs":
            await _logs(api, asked)
        else:
            print(printed(await _answer(api, asked, datetime.now(UTC)), asked.output))
    return 0


async def _answer(api: Gateway, asked: argparse.Namespace, now: datetime) -> Answer:
    match asked.verb:
        case "status" if asked.name is None:
            found = await api.objects(gateway.jobs_of("" if asked.all_namespaces else asked.namespace))
            jobs = [InternLM2Job.from_object(raw) for raw in found]
            return text.jobs(jobs, now, everywhere=asked.all_namespaces)
        case "cordons":
            return await cordons.ask(api, now)
        case "nodes":
            return await nodes.ask(api, now)
        case "why-cordoned":
            return await cordons.why(api, asked.node, now)
        case "why":
            return why.explain(await why.snapshot(api, await api.job(asked.namespace, asked.name)), now)
        case "resize":
            return await change.change(api, asked.namespace, asked.name, change.sizes(asked.min, asked.max))
        case "suspend" | "resume":
            return await change.change(api, asked.namespace, asked.name, {"suspend": asked.verb == "suspend"})
    job = InternLM2Job.from_object(await api.job(asked.namespace, asked.name))
    if asked.verb == "checkpoints":
        return await checkpoints.ask(api, job, now)
    return text.one(job) if asked.verb == "status" else text.all_faults(job)


async def _logs(api: Gateway, asked: argparse.Namespace) -> None:
    job = InternLM2Job.from_object(await api.job(asked.namespace, asked.name))
    facts = (records.pod(raw) for raw in await api.objects(gateway.pods_of(asked.namespace)))
    slot = logs.slot_of(job, asked.slot, asked.rank)
    pod = logs.member(job, (known.record for known in facts if known), slot, previous=asked.previous)
    print(f"pod {pod.name} on {pod.node}, attempt {pod.attempt}, slot {pod.slot}", file=sys.stderr)
    lines = api.log(pod.namespace, pod.name, container=CONTAINER, follow=asked.follow, tail=asked.tail)
    async with contextlib.aclosing(lines):
        async for line in lines:
            print(line, flush=asked.follow)


async def _plan(asked: argparse.Namespace) -> int:
    try:
        from internlm2_operator.cli import forecast, manifest, plan  # only this verb needs the interpreter of CEL
    except ModuleNotFoundError as error:
        raise Refused(
            "plan", wrong=f"{error.name} is not installed", right="uv pip install '.[cli]' in a checkout"
        ) from error
    fallback = gateway.current_namespace(asked.context) if asked.cluster else "default"
    body = manifest.placed(manifest.read(asked.filename), asked.filename, asked.namespace, fallback)
    assumed = forecast.assumptions(asked.gpu, asked.mfu, asked.network_gbit)
    reliability = plan.Reliability(asked.node_mttf_hours, asked.pause_seconds)
    try:
        seen = plan.foresee(plan.checked(body, asked.filename), assumed, reliability)
        told: list[str] = []
        if asked.cluster:
            async with await gateway.connect(gateway.unobserved, asked.context) as api:
                told = await plan.on_cluster(api, body, asked.filename, seen, datetime.now(UTC))
    except plan.Unfit as error:
        return _complain(str(error), 2)
    print(printed(plan.answer(seen, told), asked.output))
    return 0


if __name__ == "__main__":
    sys.exit(main())
