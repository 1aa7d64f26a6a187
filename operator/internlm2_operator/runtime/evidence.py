"""Signals about nodes, kept for as long as they may still mean something.

Edges (an XID, a lost GPU) are stored; levels (a node that is not ready, a silent exporter) are read anew
each time, and the world keeps the ends of pods, so nothing here has to survive a restart.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

from internlm2_operator.health import condition
from internlm2_operator.health.condition import Event
from internlm2_operator.health.diagnose import AGREEMENT, HISTORY, LINK_DOWN, weight
from internlm2_operator.health.node import NODE_NOT_READY, NodeRecord, domain, failed_check, not_ready
from internlm2_operator.health.signals import Kind, Signal
from internlm2_operator.plan.exits import signal_of
from internlm2_operator.plan.topology import RACK
from internlm2_operator.runtime.stakes import label_of
from internlm2_operator.runtime.world import World

FORGET_EACH: Final = timedelta(minutes=1)
KEPT: Final = 64  # edges of one node: a storm of one GPU must not fill the memory


class Evidence:
    """What speaks for or against each node.

    Nodes with one value of a label share a switch or a rack: the label that the jobs on a node name, else `label`.
    """

    def __init__(self, label: str = RACK) -> None:
        self._label = label
        self._edges: dict[str, list[Signal]] = {}
        self._blind: dict[str, Signal] = {}
        # Links that were down when their node was judged last. Those that fall together do not rise together: the last
        # one would be alone.
        self._links: dict[str, list[Signal]] = {}
        self._forgotten = datetime.min.replace(tzinfo=UTC)

    def add(self, signals: Iterable[Signal], world: World) -> set[str]:
        """Keep what one sample of Prometheus showed about nodes that exist; returns the nodes to look at.

        Exporters that are down are a level: the newest sample replaces what was known.
        """
        seen = [signal for signal in signals if world.node(signal.node) is not None]
        self._blind = {s.node: s for s in seen if s.kind is Kind.EXPORTER_DOWN}
        fresh: dict[str, list[Signal]] = defaultdict(list)
        for signal in seen:
            if signal.kind is not Kind.EXPORTER_DOWN:
                fresh[signal.node].append(signal)
        for node, edges in fresh.items():
            job = _only(world.jobs_of_node(node))
            kept = [*self._edges.get(node, ()), *(replace(edge, job=job) for edge in _gravest(edges))]
            self._edges[node] = _gravest(kept)
        return set(fresh)

    def signals(self, world: World, node: str, now: datetime) -> tuple[Signal, ...]:
        """Return all that `diagnose` may weigh about a node now: its own, and of others what it may share with them.

        Only what has a cause of its own can be shared; a healthy node costs nothing, whatever the others say.
        """
        self._forget(now)
        label = label_of(world, node, self._label)
        own = self._own(world, node, label)
        causes = {signal.cause for signal in own}
        if LINK_DOWN in causes:
            self._links[node] = [signal for signal in own if signal.cause == LINK_DOWN]
        return (*own, *self._others(world, node, causes, label, now))

    def _own(self, world: World, name: str, label: str) -> list[Signal]:
        """Return what speaks about a node, but for what was dealt with, and what a machine before it suffered.

        The agent's words are its own machine's, however new the object: it forgets by the boot.
        """
        node = world.node(name)
        blind = [self._blind[name]] if name in self._blind else []
        if node is None:
            return blind
        ends = (s for pod in world.ends_on(name) if (s := signal_of(pod)))
        # Both have whole seconds: what ends in the second of the node's birth is of after it.
        found = [
            s for s in (*self._edges_of(world, name, label), *ends) if node.created is None or s.at >= node.created
        ]
        found += [*_told(world, node, node.health, label)]
        found += [failed] if (failed := failed_check(node)) else []
        found += _levels(world, name, label)
        # Also a silence that goes on: who takes a node back before it answers does so knowingly.
        return [*(s for s in found if node.reset is None or s.at > node.reset), *blind]

    def _others(self, world: World, name: str, causes: set[str], label: str, now: datetime) -> Iterator[Signal]:
        """Yield what speaks about other nodes, cordoned or not, and has one of these causes."""
        if not causes:
            return
        for other in self._edges:
            if other != name:
                yield from (edge for edge in self._edges_of(world, other, label) if edge.cause in causes)
        for node in world.unwell.told():
            if node.name != name:
                yield from _told(world, node, [event for event in node.health if event.cause in causes], label)
        if NODE_NOT_READY in causes:
            yield from _silent_with(world, name, label)
        if LINK_DOWN in causes:
            links = (link for other, links in self._links.items() if other != name for link in links)
            yield from (link for link in links if now - link.at <= AGREEMENT)

    def _edges_of(self, world: World, name: str, label: str) -> list[Signal]:
        edges, node = self._edges.get(name, []), world.node(name)
        where = domain(node, label) if node and edges else ""
        return [replace(edge, domain=where) for edge in edges] if where else edges

    def _forget(self, now: datetime) -> None:
        if now - self._forgotten < FORGET_EACH:
            return
        self._forgotten = now
        fresh = {node: [s for s in kept if now - s.at <= HISTORY] for node, kept in self._edges.items()}
        self._edges = {node: kept for node, kept in fresh.items() if kept}
        self._links = {n: links for n, links in self._links.items() if any(now - s.at <= AGREEMENT for s in links)}


def _gravest(edges: list[Signal]) -> list[Signal]:
    """Return what is kept of a node's edges, in their order: a storm of a program's codes pushes no fault out."""
    if len(edges) <= KEPT:
        return edges
    order = sorted(range(len(edges)), key=lambda n: (weight(edges[n], ()), edges[n].at, n), reverse=True)
    return [edges[n] for n in sorted(order[:KEPT])]


def _only(keys: set[str]) -> str:
    """A fault of a node that several jobs share is no job's."""
    return next(iter(keys)) if len(keys) == 1 else ""


def _levels(world: World, name: str, label: str) -> list[Signal]:
    """Signals that stand in the node itself, where it holds our pods.

    A node without our pods that is not ready is somebody else's business: it gets no pods anyway,
    and cordoning it would outlast an ordinary reboot.
    """
    node = world.node(name)
    silent = _silent(world, node, label) if node and world.jobs_of_node(name) else None
    return [silent] if silent else []


def _told(world: World, node: NodeRecord, events: Sequence[Event], label: str) -> Iterator[Signal]:
    """Yield events that the agent names in the condition of its node."""
    if events:
        job = _only(world.jobs_of_node(node.name))
        yield from condition.signals(node.name, events, job=job, domain=domain(node, label))


def _silent_with(world: World, name: str, label: str) -> list[Signal]:
    """Signals of the other nodes behind its switch that are not ready, whoever's they are."""
    node = world.node(name)
    where = domain(node, label) if node else ""
    others = world.unwell.silent(label, where) if where else ()
    return [s for other in others if other.name != name and (s := _silent(world, other, label))]


def _silent(world: World, node: NodeRecord, label: str) -> Signal | None:
    signal = not_ready(node)
    return signal and replace(signal, job=_only(world.jobs_of_node(node.name)), domain=domain(node, label))
