"""Signals about nodes, kept for as long as they may still mean something.

Edges (an XID, a lost GPU) are stored; levels (a node that is not ready, a pod that failed, a silent
exporter) are read anew each time, so nothing here has to survive a restart.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

from internlm2_operator.health.diagnose import AGREEMENT
from internlm2_operator.health.node import not_ready
from internlm2_operator.health.signals import Kind, Signal
from internlm2_operator.plan.exits import signal_of
from internlm2_operator.runtime.world import World


class Evidence:
    """What speaks for or against each node."""

    def __init__(self) -> None:
        self._edges: dict[str, list[Signal]] = defaultdict(list)
        self._blind: tuple[Signal, ...] = ()

    def add(self, signals: Iterable[Signal], world: World) -> set[str]:
        """Keep what one sample of Prometheus showed; returns the nodes to look at.

        Exporters that are down are a level: the newest sample replaces what was known.
        """
        seen = list(signals)
        self._blind = tuple(s for s in seen if s.kind is Kind.EXPORTER_DOWN)
        edges = [s for s in seen if s.kind is not Kind.EXPORTER_DOWN]
        for signal in edges:
            self._edges[signal.node].append(replace(signal, job=_only(world.jobs_of_node(signal.node))))
        return {signal.node for signal in edges}

    def spend(self, node: str) -> None:
        """The node was cordoned on these: they must not cordon it again after a person has repaired it."""
        self._edges.pop(node, None)

    def signals(self, world: World, now: datetime) -> tuple[Signal, ...]:
        """Return everything that `diagnose` may weigh now."""
        self._forget(now)
        edges = [signal for kept in self._edges.values() for signal in kept]
        return (*edges, *self._blind, *_levels(world))

    def _forget(self, now: datetime) -> None:
        for node, kept in list(self._edges.items()):
            fresh = [s for s in kept if now - s.at <= AGREEMENT]
            if fresh:
                self._edges[node] = fresh
            else:
                del self._edges[node]


def _only(keys: set[str]) -> str:
    """A fault of a node that several jobs share is no job's."""
    return next(iter(keys)) if len(keys) == 1 else ""


def _levels(world: World) -> list[Signal]:
    """Signals that stand in the cluster's objects, for nodes that hold our pods.

    A node without our pods that is not ready is somebody else's business: it gets no pods anyway,
    and cordoning it would outlast an ordinary reboot.
    """
    pods = world.all_pods()
    silent = [s for node in world.plain_nodes() if (s := not_ready(node)) and world.jobs_of_node(node.name)]
    # A pod that is being deleted ends because we or a person wanted it to.
    ends = [s for pod in pods if not pod.deleting and (s := signal_of(pod))]
    return silent + ends
