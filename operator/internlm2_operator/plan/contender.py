"""A job and its pods, reduced to what the queue asks about them."""

from collections import Counter
from collections.abc import Iterable, Sequence

from internlm2_operator.api.job import InternLM2Job
from internlm2_operator.plan.constraints import constraints
from internlm2_operator.plan.exits import exit_of
from internlm2_operator.plan.queue import Contender
from internlm2_operator.plan.snapshot import PodRecord
from internlm2_operator.plan.view import alive, wanted


def contender(job: InternLM2Job, pods: Iterable[PodRecord], sizes: Sequence[int], *, asks: bool = False) -> Contender:
    """Return the job as the queue sees it.

    A job joins the queue by saying so in its status, so what holds it back otherwise holds back nobody
    behind it. `asks` counts it in before it has said so: for the plan that decides about it now.
    """
    status, spec = job.status, job.spec
    pods = tuple(pods)
    over = job.deleting or not job.ours or spec.suspend or status.completion_time is not None
    members = [] if over else [p for p, is_wanted in zip(pods, wanted(pods, job, status), strict=True) if is_wanted]
    live = [pod for pod in members if alive(pod)]
    slots = {pod.slot for pod in live}
    leaving = {pod.uid for pod in pods if alive(pod)} - {pod.uid for pod in live}
    return Contender(
        key=job.key,
        uid=job.uid,
        priority=spec.priority,
        created=job.created,
        gpus=spec.nodes.gpus_per_node,
        sizes=tuple(sizes),
        wanted=constraints(spec),
        spares=spec.nodes.spares,
        topology=spec.topology,
        waits=not over and not status.size and bool(sizes) and (asks or status.queued_time is not None),
        size=0 if over else status.size,
        empty=0 if over else max(0, status.size - len(slots)),
        keeps=tuple(sorted({pod.node for pod in members if pod.node and exit_of(pod) is not None})),
        holds=_held(live),
        leaving=_held(pod for pod in pods if pod.uid in leaving),
    )


def _held(pods: Iterable[PodRecord]) -> dict[str, int]:
    held: Counter[str] = Counter()
    for pod in pods:
        if pod.node:
            held[pod.node] += pod.gpus
    return dict(held)
