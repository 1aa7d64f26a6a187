"""`internlm2 why`: asks the decisions themselves, on a snapshot taken now, and says it in one paragraph."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, Final

from internlm2_operator import plan as planning
from internlm2_operator.api.job import InternLM2Job
from internlm2_operator.api.status import Condition, JobStatus, Phase
from internlm2_operator.cli.answer import Answer, ago, span
from internlm2_operator.cluster import gateway
from internlm2_operator.cluster.gateway import Gateway
from internlm2_operator.plan import causes
from internlm2_operator.plan.actions import Plan
from internlm2_operator.plan.snapshot import PodPhase, Snapshot
from internlm2_operator.runtime.lines import Lines
from internlm2_operator.runtime.looks import Looker
from internlm2_operator.runtime.observed import Observed
from internlm2_operator.runtime.world import World

RECENT: Final = timedelta(hours=1)


async def snapshot(api: Gateway, job: dict[str, Any]) -> Snapshot:
    """Gather what the operator would know of a job, except for what the trainers say: pods are not reachable from here.

    Raises:
        Refused: its spec is newer than this program.
        ClusterError: something could not be read.
    """
    world, observed = World(), Observed()
    await api.census(gateway.jobs_of(""), world.put_job)
    world.put_job(job)
    await api.census(gateway.NODES, world.put_node)
    await api.census(gateway.pods_of(""), world.put_pod)
    await api.census(gateway.quotas_of(""), world.put_quota)
    await api.census(gateway.FOREIGN_PODS, world.put_foreign_pod)
    key = f"{job['metadata']['namespace']}/{job['metadata']['name']}"
    if key in world.refused:
        raise world.refused[key][1]
    await Looker(api, world, observed).look(key)
    return observed.snapshot(world.jobs[key], world, Lines(world))


def explain(seen: Snapshot, now: datetime) -> Answer:
    """Return the reason in one paragraph; wide also what each decision says, and what would be done."""
    decided = planning.plan(seen, now)
    status = _standing(seen, decided)
    told = " ".join(_sentences(seen.job, status, now, seen))
    trail = [f"{seen.job.key}: what each decision says, in the order they are asked"]
    trail += [f"  {line}" for line in decided.trail]
    trail += ["would do:" if decided.actions else "would do: nothing"]
    trail += [f"  {action}" for action in decided.actions]
    return Answer(
        lines=(told,),
        wide=(told, "", *trail),
        data={
            "namespace": seen.job.namespace,
            "name": seen.job.name,
            "phase": status.phase,
            "why": told,
            "trail": list(decided.trail),
            "actions": [str(action) for action in decided.actions],
        },
        names=(f"{seen.job.key}",),
    )


def written(job: InternLM2Job, now: datetime) -> str:
    """Return the reason as the operator wrote it last, for those who may see the job and nothing else."""
    return " ".join(_sentences(job, job.status, now, None))


def _standing(seen: Snapshot, decided: Plan) -> JobStatus:
    """Return the status to speak of: what is decided now, but where that is nothing, what the operator wrote.

    The operator hears the trainers and this process does not, so only the operator knows that a job trains.
    """
    nothing = decided.trail[-1:] and decided.trail[-1].startswith("keep_running")
    return seen.job.status if nothing and seen.job.status.conditions else decided.status


def _sentences(job: InternLM2Job, status: JobStatus, now: datetime, seen: Snapshot | None) -> Iterator[str]:
    key = job.key
    if not job.ours:
        yield f"{key} is run by {job.spec.managed_by}, and the operator leaves it alone."
        return
    complete = status.condition("Complete")
    if status.completion_time is not None:
        yield f"{key} is {status.phase} since {ago(status.completion_time, now)}: {_said(complete)}."
        return
    if status.phase is Phase.RUNNING:
        yield f"{key} trains stage {status.stage} on {status.size} nodes at step {status.step or 0}."
        slow = [*_small(seen, status), *_slow(status, now)]
        yield from slow or ["Nothing is in its way."]
        return
    conditions = (status.condition(kind) for kind in ("Validated", "Scheduled", "Progressing"))
    blocking = next((known for known in conditions if known is not None and known.status == "False"), None)
    since = f" since {ago(blocking.last_transition_time, now)}" if blocking and job.status.conditions else ""
    yield f"{key} is {status.phase}{since}: {_said(blocking).removeprefix(f'{status.phase}: ')}."
    if blocking is not None and (row := causes.cause(blocking.reason)).name == blocking.reason and row.cure:
        yield f"What to do: {row.cure}."
    yield from _pods(seen)
    yield from _small(seen, status)
    yield from _slow(status, now)


def _said(condition: Condition | None) -> str:
    """Return reason and message of a condition without a full stop at the end."""
    if condition is None:
        return "the operator has not looked at it yet"
    return f"{condition.reason}: {condition.message}".rstrip(": .")


def _pods(seen: Snapshot | None) -> Iterator[str]:
    """Yield how many pods of the attempt run, and what the first one that cannot says."""
    if seen is None:
        return
    status = seen.job.status
    mine = [pod for pod in seen.pods if pod.attempt == status.attempt and not pod.deleting]
    if not mine:
        return
    yield f"{sum(pod.phase is PodPhase.RUNNING for pod in mine)} of {len(mine)} pods of attempt {status.attempt} run."
    stuck = next((pod for pod in mine if pod.phase is PodPhase.PENDING and (pod.waiting or pod.reason)), None)
    if stuck is not None:
        reason = stuck.waiting or stuck.reason
        yield f"{stuck.name} on {stuck.node} waits: {f'{reason}: {stuck.message}'.rstrip(': .')}."


def _small(seen: Snapshot | None, status: JobStatus) -> Iterator[str]:
    """Yield why a job has fewer nodes than it may have."""
    if seen is not None and 0 < status.size < (nodes := seen.job.spec.nodes).max:
        cordoned = sum(node.fault is not None for node in seen.nodes.values())
        silent = sum(not node.ready for node in seen.nodes.values())
        yield (
            f"It has {status.size} nodes and may have {nodes.max}; of {len(seen.nodes)} nodes in the cluster"
            f" {cordoned} are cordoned by the operator and {silent} not Ready."
        )


def _slow(status: JobStatus, now: datetime) -> Iterator[str]:
    """Yield everything else that is known to cost the job time."""
    for fault in (f for f in status.faults if f.times.closed is None):
        where = f" on {fault.node}" if fault.node else ""
        yield f"A fault is open since {ago(fault.times.signal, now)}: {fault.cause}{where}."
    closed = [f for f in status.faults if f.times.closed is not None and now - f.times.closed < RECENT]
    if closed:
        lost = span(timedelta(seconds=sum(f.seconds.get("total", 0.0) for f in closed)))
        steps = sum(f.steps_lost or 0 for f in closed)
        names = ", ".join(sorted({f.cause for f in closed}))
        yield f"In the last hour {len(closed)} faults ({names}) took {lost} and {steps} steps were done twice."
    fresh = status.condition("CheckpointFresh")
    if fresh is not None and fresh.status == "False" and fresh.reason != "NoCheckpoint":
        yield f"Its newest checkpoint is a problem: {_said(fresh)}."
