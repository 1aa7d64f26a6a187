"""What every node has left of every resource, kept up to date one object at a time.

Five thousand nodes and ten thousand pods are too many to add up for each look at a job.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from internlm2_operator.cluster.records import NodeFacts
from internlm2_operator.plan.snapshot import NodeRecord


@dataclass(slots=True)
class _Seen:
    """The nodes as one resource sees them, and which of them changed since."""

    records: dict[str, NodeRecord] = field(default_factory=dict)  # by name, in order
    changed: set[str] = field(default_factory=set)
    told: Mapping[str, NodeRecord] | None = None


class Room:
    """Nodes, and who holds how much on them. `version` counts the changes."""

    def __init__(self) -> None:
        self.version = 0
        self._nodes: dict[str, NodeFacts] = {}
        self._held: dict[str, tuple[str, Mapping[str, int]]] = {}  # by holder: node, amounts by resource
        self._used: dict[str, Counter[str]] = defaultdict(Counter)  # by resource, then by node
        self._seen: dict[str, _Seen] = {}

    def put_node(self, facts: NodeFacts) -> bool:
        """Take a node; True when it is new or has changed."""
        name = facts.record.name
        if self._nodes.get(name) == facts:
            return False
        self._nodes[name] = facts
        self._touch(name)
        return True

    def excuse(self, name: str, until: datetime) -> NodeRecord | None:
        """Doubt until then that a node is lost; returns it as it is now, None for one that is ready or gone."""
        facts = self._nodes.get(name)
        if facts is None or facts.record.ready:
            return None
        excused = replace(facts, record=replace(facts.record, excused=until))
        self.put_node(excused)
        return excused.record

    def drop_node(self, name: str) -> None:
        if self._nodes.pop(name, None) is not None:
            self._touch(name)

    def hold(self, holder: str, node: str | None, amounts: Mapping[str, int]) -> None:
        """Take what a holder has now in place of what it had before."""
        if node is None or not amounts:
            self.release(holder)
        elif self._held.get(holder) != (node, amounts):
            self.release(holder)
            self._held[holder] = (node, amounts)
            for resource, amount in amounts.items():
                self._used[resource][node] += amount
            self._touch(node)

    def release(self, holder: str) -> None:
        node, amounts = self._held.pop(holder, ("", {}))
        for resource, amount in amounts.items():
            self._used[resource][node] -= amount
        if amounts:
            self._touch(node)

    def holds(self, holder: str) -> bool:
        return holder in self._held

    def node(self, name: str) -> NodeRecord | None:
        facts = self._nodes.get(name)
        return facts.record if facts else None

    def names(self) -> tuple[str, ...]:
        return tuple(self._nodes)

    def plain(self) -> tuple[NodeRecord, ...]:
        """Return the nodes without their GPUs, for decisions about health."""
        return tuple(facts.record for facts in self._nodes.values())

    def nodes(self, resource: str) -> Mapping[str, NodeRecord]:
        """Return the nodes by name as a job that asks for `resource` sees them, pods of everybody counted.

        What is returned never changes: it is replaced when something does.
        """
        if resource not in self._seen:
            self._seen[resource] = _Seen(changed=set(self._nodes))
        seen = self._seen[resource]
        if seen.changed or seen.told is None:
            self._update(seen, resource)
            seen.told = dict(seen.records)
        return seen.told

    def _update(self, seen: _Seen, resource: str) -> None:
        known = seen.records.keys() | ()
        for name in seen.changed:
            if (facts := self._nodes.get(name)) is None:
                seen.records.pop(name, None)
                continue
            used = self._used[resource][name]
            seen.records[name] = replace(facts.record, gpus=facts.allocatable.get(resource, 0), used=used)
        if not seen.records.keys() <= known:
            seen.records = dict(sorted(seen.records.items()))
        seen.changed.clear()

    def _touch(self, node: str) -> None:
        self.version += 1
        for seen in self._seen.values():
            seen.changed.add(node)
