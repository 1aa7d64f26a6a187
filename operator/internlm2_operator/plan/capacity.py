"""The free nodes as a job's next pods see them, now and once its own leaving pods are gone."""

import dataclasses
from collections.abc import Sequence

from internlm2_operator.health.node import NodeRecord
from internlm2_operator.plan.placement import Placement, Shortage, place, refill
from internlm2_operator.plan.view import View, alive
from internlm2_spec.layout import legal_sizes


def sizes(view: View) -> list[int]:
    """Return the legal node counts within nodes.min and nodes.max, ascending; every stage counts."""
    nodes = view.job.spec.nodes
    stages = tuple(view.job.stage_config(i) for i in range(len(view.job.spec.stages)))
    return legal_sizes(stages, range(nodes.min, nodes.max + 1), nodes.gpus_per_node)


def now_free(view: View) -> list[NodeRecord]:
    return list(view.nodes.values())


def soon_free(view: View) -> list[NodeRecord]:
    """Return the nodes as they will be when the pods that leave have left."""
    held: dict[str, int] = {}
    for pod in view.leaving:
        if pod.node and alive(pod):
            held[pod.node] = held.get(pod.node, 0) + pod.gpus
    return [dataclasses.replace(n, used=max(0, n.used - held.get(n.name, 0))) for n in view.nodes.values()]


def placement(view: View, nodes: Sequence[NodeRecord], wanted: Sequence[int]) -> Placement | Shortage:
    """Place a whole attempt; nodes that its pods hold already are preferred."""
    spec = view.job.spec
    return place(
        nodes,
        gpus=spec.nodes.gpus_per_node,
        sizes=wanted,
        spares=spec.nodes.spares,
        selector=spec.template.node_selector or {},
        preferred={p.node for p in view.leaving if p.node},
    )


def refilled(view: View, nodes: Sequence[NodeRecord], slots: Sequence[int]) -> dict[int, str]:
    """Give empty slots a node each, as far as nodes without a pod of this attempt go."""
    return refill(
        nodes,
        gpus=view.job.spec.nodes.gpus_per_node,
        slots=slots,
        taken={p.node for p in view.members.values() if p.node},
        selector=view.job.spec.template.node_selector or {},
    )
