"""Where the pods of an attempt go: all or nothing, one pod a node, slots in topology order.

Pure: the same nodes in any order give the same placement.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from internlm2_operator.api.topology import TopologySpec
from internlm2_operator.health.node import NodeRecord
from internlm2_operator.plan import topology as topologies
from internlm2_operator.plan.constraints import Constraints, admits
from internlm2_spec.config import Parallel

NO_DOUBTS: Final[Mapping[str, float]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Placement:
    """Nodes by slot: the first `size` are members, the rest spares."""

    size: int
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Shortage:
    """Not enough healthy free nodes: how many there are, and how many the smallest legal size needs."""

    free: int
    needed: int

    @property
    def missing(self) -> int:
        return self.needed - self.free


def place(
    nodes: Iterable[NodeRecord],
    *,
    gpus: int,
    sizes: Sequence[int],
    spares: int,
    wanted: Constraints,
    preferred: Collection[str] = (),
    topology: TopologySpec | None = None,
    parallel: Parallel | None = None,
    doubts: Mapping[str, float] = NO_DOUBTS,
) -> Placement | Shortage:
    """Choose nodes for the largest of `sizes` (ascending) that fits, and spares from what remains.

    `parallel` is the layout whose ranks the slots will be; without it slots follow the topology alone.
    `doubts` tell how much speaks against a node: those with the most are taken last, whatever the topology,
    and never left out where the size needs them.
    """
    free = [n for n in nodes if fits(n, gpus, wanted)]
    fitting = [size for size in sizes if size <= len(free)]
    if not fitting:
        return Shortage(free=len(free), needed=min(sizes))
    size = max(fitting)
    members = topologies.choose(least_doubted(free, size, doubts), size, topology, preferred)
    chosen = {n.name for n in members}
    left = [n for n in free if n.name not in chosen]
    extra = topologies.spares(least_doubted(left, spares, doubts), members, spares, topology, preferred)
    slots = topologies.slots(parallel, size, gpus) if parallel else range(size)
    by_slot = sorted(zip(slots, topologies.in_order(members, topology), strict=True), key=lambda pair: pair[0])
    return Placement(size=size, nodes=(*(n.name for _, n in by_slot), *(n.name for n in extra)))


def refill(
    nodes: Sequence[NodeRecord],
    *,
    gpus: int,
    slots: Iterable[int],
    taken: Collection[str],
    wanted: Constraints,
    topology: TopologySpec | None = None,
    doubts: Mapping[str, float] = NO_DOUBTS,
) -> dict[int, str]:
    """Give freed slots a node each, lowest slot first, as far as healthy nodes without our pods go."""
    free = [n for n in nodes if n.name not in taken and fits(n, gpus, wanted)]
    empty = sorted(slots)
    usable = least_doubted(free, len(empty), doubts)
    ordered = topologies.next_best(usable, (n for n in nodes if n.name in taken), topology)
    return dict(zip(empty, (n.name for n in ordered), strict=False))


def least_doubted(nodes: Sequence[NodeRecord], wanted: int, doubts: Mapping[str, float]) -> Sequence[NodeRecord]:
    """Return the nodes to choose `wanted` from, all of them when they are fewer.

    Those with the least doubts, from which the topology chooses, when they are enough; else as many as are wanted.
    """
    if not doubts or not 0 < wanted < len(nodes):
        return nodes
    ranked = sorted(nodes, key=lambda n: (doubts.get(n.name, 0.0), n.name))
    least = doubts.get(ranked[0].name, 0.0)
    best = [n for n in ranked if doubts.get(n.name, 0.0) == least]
    return best if len(best) >= wanted else ranked[:wanted]


def fits(node: NodeRecord, gpus: int, wanted: Constraints) -> bool:
    """Say whether a pod of `gpus` can start on the node now."""
    return healthy(node) and node.gpus - node.used >= gpus and admits(node, wanted)


def healthy(node: NodeRecord) -> bool:
    return node.ready and not node.unschedulable and node.fault is None and not node.notice
