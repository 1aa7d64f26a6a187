"""The nodes that something is said about, kept up to date one node at a time.

A verdict weighs what is said about all nodes. Most say nothing, and five thousand of them are too many to ask.
"""

from collections import defaultdict
from collections.abc import Collection
from typing import Final

from internlm2_operator.health.node import NodeRecord, domain

# Jobs name labels, so users do: they must not fill the memory.
MAX_LABELS: Final = 16
_NOBODY: Final[dict[str, NodeRecord]] = {}

_Domains = defaultdict[str, dict[str, NodeRecord]]
"""Nodes by name, by the value of a label."""


class Unwell:
    """Nodes whose agent has something to say, and nodes that are not ready, these by any label that is asked for."""

    def __init__(self) -> None:
        self._told: dict[str, NodeRecord] = {}
        self._silent: dict[str, NodeRecord] = {}
        self._domains: dict[str, _Domains] = {}  # silent ones by label

    def put(self, node: NodeRecord) -> None:
        """Take a node as it is now."""
        self.drop(node.name)
        if node.health:
            self._told[node.name] = node
        if not node.ready:
            self._silent[node.name] = node
            for label, domains in self._domains.items():
                domains[domain(node, label)][node.name] = node

    def drop(self, name: str) -> None:
        self._told.pop(name, None)
        before = self._silent.pop(name, None)
        if before is None:
            return
        for label, domains in self._domains.items():
            there = domains[domain(before, label)]
            del there[name]
            if not there:
                del domains[domain(before, label)]

    def told(self) -> Collection[NodeRecord]:
        """Return the nodes whose agent names events, notes among them."""
        return self._told.values()

    def silent(self, label: str, where: str) -> Collection[NodeRecord]:
        """Return the nodes of a domain, `where` being the label's value, that are not ready."""
        if label not in self._domains:
            if len(self._domains) >= MAX_LABELS:
                self._domains.clear()
            found = self._domains[label] = _Domains(dict)
            for name, node in self._silent.items():
                found[domain(node, label)][name] = node
        return self._domains[label].get(where, _NOBODY).values()
