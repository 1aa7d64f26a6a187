"""Which of many free nodes an attempt takes, and which slot each gets, so that ranks that talk much are near.

Pure: the same nodes in any order give the same answer.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Final

from internlm2_operator.api.topology import TopologySpec
from internlm2_operator.health.node import NodeRecord, domain
from internlm2_spec.config import Parallel

RACK: Final = "topology.kubernetes.io/rack"
# Nodes of one zone, rack or block next to each other: neighbours in slot order share the short links.
LABELS: Final = ("topology.kubernetes.io/zone", RACK, "topology.kubernetes.io/block")


def choose(
    free: Iterable[NodeRecord], size: int, topology: TopologySpec | None, preferred: Collection[str]
) -> list[NodeRecord]:
    """Return `size` of the free nodes; without a topology the preferred ones first, then by name."""
    ordered = sorted(free, key=lambda n: (n.name not in preferred, n.name))
    if topology is None:
        return ordered[:size]
    domains = _by_domain(ordered, topology.label)
    return _packed(domains, size, preferred) if topology.policy == "Pack" else _spread(domains, size)


def _by_domain(nodes: Iterable[NodeRecord], label: str) -> dict[str, list[NodeRecord]]:
    domains: dict[str, list[NodeRecord]] = {}
    for node in nodes:
        domains.setdefault(domain(node, label), []).append(node)
    return domains


def _packed(domains: dict[str, list[NodeRecord]], size: int, preferred: Collection[str]) -> list[NodeRecord]:
    """Fill the largest domains whole, and take the rest from the smallest that holds it; nodes without a label last."""
    left = dict(domains)
    chosen: list[NodeRecord] = []
    while len(chosen) < size:
        rest = size - len(chosen)
        known = {name for name in left if name} or set(left)
        holds = {name: sum(n.name in preferred for n in left[name]) for name in known}
        enough = [name for name in known if len(left[name]) >= rest]
        best = (
            min(enough, key=lambda name: (len(left[name]), -holds[name], name))
            if enough
            else min(known, key=lambda name: (-len(left[name]), -holds[name], name))
        )
        chosen += left.pop(best)[:rest]
    return chosen


def _spread(domains: dict[str, list[NodeRecord]], size: int) -> list[NodeRecord]:
    """Take one node at a time from the domain that has given the fewest, of those the one with the most left."""
    taken: Counter[str] = Counter()
    for _ in range(size):
        open_ = [name for name, nodes in domains.items() if taken[name] < len(nodes)]
        taken[min(open_, key=lambda name: (taken[name], taken[name] - len(domains[name]), name))] += 1
    return [node for name, count in sorted(taken.items()) for node in domains[name][:count]]


def in_order(nodes: Iterable[NodeRecord], topology: TopologySpec | None) -> list[NodeRecord]:
    """Sort nodes so that those behind one switch are next to each other."""
    labels = LABELS if topology is None else (topology.label, *LABELS)
    return sorted(nodes, key=lambda n: (*(domain(n, label) for label in labels), n.name))


def slots(parallel: Parallel, size: int, gpus: int) -> list[int]:
    """Return the slots that nodes in topology order take.

    Ranks count up through tensor, context and zero.shard first and through pipeline last, so nodes of
    one ZeRO group are neighbours by number, but the next pipeline stage is size / pipeline slots away.
    A whole pipeline is therefore placed before the next replica of it begins.
    """
    group = parallel.tensor * parallel.context * parallel.zero.shard
    unit = max(1, group // gpus)  # nodes of one ZeRO group
    if size % (parallel.pipeline * unit) or (group > gpus and group % gpus):
        return list(range(size))
    stage = size // parallel.pipeline
    return [
        p * stage + first + k for first in range(0, stage, unit) for p in range(parallel.pipeline) for k in range(unit)
    ]


def spares(
    extra: Iterable[NodeRecord],
    members: Sequence[NodeRecord],
    count: int,
    topology: TopologySpec | None,
    preferred: Collection[str],
) -> list[NodeRecord]:
    """Return up to `count` nodes to wait on, best on other racks than most members: a rack falls as one."""
    label = topology.label if topology else RACK
    racks = Counter(rack for n in members if (rack := domain(n, label)))
    most = min(racks, key=lambda rack: (-racks[rack], rack), default=None)
    ordered = sorted(extra, key=lambda n: (domain(n, label) == most, n.name not in preferred, n.name))
    return ordered[:count]


def next_best(
    free: Iterable[NodeRecord], held: Iterable[NodeRecord], topology: TopologySpec | None
) -> list[NodeRecord]:
    """Sort free nodes by how well one of them would replace a lost one beside those that are still held."""
    if topology is None:
        return sorted(free, key=lambda n: n.name)
    others = Counter(domain(n, topology.label) for n in held)
    sign = -1 if topology.policy == "Pack" else 1
    return sorted(free, key=lambda n: (sign * others[domain(n, topology.label)], n.name))
