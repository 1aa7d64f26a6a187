"""Where the pods of an attempt go: all or nothing, one pod a node, slots in topology order.

Pure: the same nodes in any order give the same placement.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from internlm2_operator.health.node import NodeRecord

# Nodes of one zone, rack or block next to each other: neighbours in slot order share the short links.
TOPOLOGY_LABELS: Final = ("topology.kubernetes.io/zone", "topology.kubernetes.io/rack", "topology.kubernetes.io/block")


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
    nodes: Sequence[NodeRecord],
    *,
    gpus: int,
    sizes: Sequence[int],
    spares: int,
    selector: Mapping[str, str],
    preferred: Collection[str] = (),
) -> Placement | Shortage:
    """Choose nodes for the largest of `sizes` (ascending) that fits, and spares from what remains."""
    free = sorted((n for n in nodes if fits(n, gpus, selector)), key=lambda n: (n.name not in preferred, n.name))
    fitting = [size for size in sizes if size <= len(free)]
    if not fitting:
        return Shortage(free=len(free), needed=min(sizes))
    size = max(fitting)
    members, extra = free[:size], free[size : size + spares]
    return Placement(size=size, nodes=tuple(n.name for n in (*_in_topology_order(members), *extra)))


def refill(
    nodes: Sequence[NodeRecord],
    *,
    gpus: int,
    slots: Iterable[int],
    taken: Collection[str],
    selector: Mapping[str, str],
) -> dict[int, str]:
    """Give freed slots a node each, lowest slot first, as far as healthy nodes without our pods go."""
    free = sorted(n.name for n in nodes if fits(n, gpus, selector) and n.name not in taken)
    return dict(zip(sorted(slots), free, strict=False))


def fits(node: NodeRecord, gpus: int, selector: Mapping[str, str]) -> bool:
    """Say whether a pod of `gpus` can start on the node now."""
    labels = dict(node.labels)
    healthy = node.ready and node.schedulable and node.fault is None
    return healthy and node.gpus - node.used >= gpus and all(labels.get(k) == v for k, v in selector.items())


def _in_topology_order(nodes: Iterable[NodeRecord]) -> list[NodeRecord]:
    return sorted(nodes, key=lambda n: (*(dict(n.labels).get(label, "") for label in TOPOLOGY_LABELS), n.name))
