"""The free nodes as a job's next pods see them, now and once its own leaving pods are gone."""

import dataclasses
from collections.abc import Iterable, Sequence

from internlm2_operator.api.job import InternLM2Job
from internlm2_operator.health.node import NodeRecord
from internlm2_operator.plan.constraints import constraints
from internlm2_operator.plan.placement import Placement, Shortage, place, refill
from internlm2_operator.plan.snapshot import PodRecord
from internlm2_operator.plan.view import View, alive
from internlm2_spec.layout import legal_sizes


def sizes(job: InternLM2Job) -> list[int]:
    """Return the legal node counts within nodes.min and nodes.max, ascending; every stage counts."""
    nodes = job.spec.nodes
    stages = tuple(job.stage_config(i) for i in range(len(job.spec.stages)))
    return legal_sizes(stages, range(nodes.min, nodes.max + 1), nodes.gpus_per_node)


def now_free(view: View) -> list[NodeRecord]:
    """Return the nodes that the queue keeps for nobody ahead of this job."""
    queue = view.snapshot.queue
    return [n for n in view.nodes.values() if queue.may_take(n.name)] if queue.kept else list(view.nodes.values())


def soon_free(view: View) -> list[NodeRecord]:
    """Return the nodes as they will be when the pods that leave have left."""
    return _without(view, view.leaving, now_free(view))


def within_reach(view: View, *, more: bool) -> list[NodeRecord]:
    """Return the nodes as they would be without any pod of the job; without `more`, only those that it holds."""
    ours = (*view.members.values(), *view.leaving)
    holds = {pod.node for pod in ours if alive(pod)}
    may_take = view.snapshot.queue.may_take
    reach = (node for name, node in view.nodes.items() if name in holds or (more and may_take(name)))
    return _without(view, ours, reach)


def _without(view: View, pods: Iterable[PodRecord], nodes: Iterable[NodeRecord]) -> list[NodeRecord]:
    """Return the nodes as they would be without these pods; one that is stuck is not counted on to go."""
    held: dict[str, int] = {}
    for pod in pods:
        if pod.node and alive(pod) and pod.uid not in view.stuck:
            held[pod.node] = held.get(pod.node, 0) + pod.gpus
    return [dataclasses.replace(n, used=max(0, n.used - held[n.name])) if n.name in held else n for n in nodes]


def largest(view: View, nodes: Sequence[NodeRecord], wanted: Sequence[int]) -> int:
    """Return the largest of `wanted` that these nodes carry, 0 for none."""
    placed = placement(view, nodes, wanted) if wanted else None
    return placed.size if isinstance(placed, Placement) else 0


def short(view: View) -> int:
    """Return how many members of the attempt are neither there nor can be put on a free node, now or soon."""
    missing = view.status.size - len(view.members)
    if missing <= 0:
        return 0
    empty = [slot for slot in view.slots if slot not in view.members]
    return missing - len(refilled(view, soon_free(view), empty))


def placement(view: View, nodes: Sequence[NodeRecord], wanted: Sequence[int]) -> Placement | Shortage:
    """Place a whole attempt; nodes that its pods hold already are preferred."""
    spec = view.job.spec
    return place(
        nodes,
        gpus=spec.nodes.gpus_per_node,
        sizes=wanted,
        spares=spec.nodes.spares,
        wanted=constraints(spec),
        preferred={p.node for p in view.leaving if p.node},
        topology=spec.topology,
        parallel=view.stage.parallel,
        doubts=view.doubts,
    )


def refilled(view: View, nodes: Sequence[NodeRecord], slots: Sequence[int]) -> dict[int, str]:
    """Give empty slots a node each, as far as nodes without a pod of this attempt go."""
    if not slots:
        return {}
    return refill(
        nodes,
        gpus=view.job.spec.nodes.gpus_per_node,
        slots=slots,
        taken={p.node for p in view.members.values() if p.node},
        wanted=constraints(view.job.spec),
        topology=view.job.spec.topology,
        doubts=view.doubts,
    )
