"""`internlm2 why`: asks the decisions themselves, on a snapshot taken now."""

from collections.abc import Iterator
from datetime import UTC, datetime

from internlm2_operator import plan as planning
from internlm2_operator.cluster.gateway import Gateway
from internlm2_operator.plan.actions import Plan
from internlm2_operator.plan.snapshot import Snapshot
from internlm2_operator.runtime.looks import Looker
from internlm2_operator.runtime.observed import Observed
from internlm2_operator.runtime.world import World


async def snapshot(api: Gateway, namespace: str, name: str) -> Snapshot:
    """Gather what the operator would know, except for what the trainers say: pods are not reachable from here.

    Raises:
        NotFound: there is no such job.
        ClusterError: something could not be read.
    """
    world, observed = World(), Observed()
    world.put_job(await api.job(namespace, name))
    for raw in (await api.nodes()).items:
        world.put_node(raw)
    for raw in (await api.job_pods()).items:
        world.put_pod(raw)
    key = f"{namespace}/{name}"
    await Looker(api, world, observed).look(key)
    return observed.snapshot(world.jobs[key], world)


def explain(seen: Snapshot, now: datetime | None = None) -> Iterator[str]:
    """Yield what each decision says about the job, and what would be done."""
    decided: Plan = planning.plan(seen, now or datetime.now(UTC))
    yield f"{seen.job.key}: what each decision says, in the order they are asked"
    yield from (f"  {line}" for line in decided.trail)
    yield "would do:" if decided.actions else "would do: nothing"
    yield from (f"  {action}" for action in decided.actions)
