"""`internlm2 nodes`: every node that something is known about, from a cordon to a past."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from internlm2_operator.cli.answer import UNKNOWN, Answer, ago, columns, span
from internlm2_operator.cluster import gateway
from internlm2_operator.cluster.gateway import Gateway
from internlm2_operator.cluster.records import node as record_of
from internlm2_operator.health.lemon import doubt, doubted, on_probation, probation_ends
from internlm2_operator.health.node import SUSPECTED, NodeRecord
from internlm2_operator.health.uncordon import kept_because


@dataclass(frozen=True, slots=True)
class State:
    """What a node is to the operator, since when, and why; what comes first in this order is told."""

    name: str
    since: datetime | None
    why: str


async def ask(api: Gateway, now: datetime) -> Answer:
    """Read all nodes."""
    return told([record_of(raw).record for raw in await api.objects(gateway.NODES)], now)


def told(nodes: Iterable[NodeRecord], now: datetime) -> Answer:
    """Return the nodes about which something is known, those that take no pods first, then the worst."""
    known = _known(nodes, now)
    return Answer(
        lines=tuple(columns(_table(known, now))) if known else ("nothing is known against any node",),
        data=[data(node, now) for node, _ in known],
        names=tuple(f"node/{node.name}" for node, _ in known),
    )


def table(nodes: Iterable[NodeRecord], now: datetime) -> list[tuple[str, ...]]:
    """Return the heading, and a row of each node about which something is known, in the same order."""
    return _table(_known(nodes, now), now)


def _known(nodes: Iterable[NodeRecord], now: datetime) -> list[tuple[NodeRecord, State]]:
    known = [(node, found[0]) for node in nodes if (found := list(states(node, now)))]
    return sorted(known, key=lambda n: (_ORDER.index(n[1].name), -n[0].history.score(now), n[0].name))


def _table(known: Iterable[tuple[NodeRecord, State]], now: datetime) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("NODE", "STATE", "SINCE", "SCORE", "WHY")]
    for node, state in known:
        score = node.history.score(now)
        rows.append((node.name, state.name, ago(state.since, now), f"{score:.1f}" if score else UNKNOWN, state.why))
    return rows


_ORDER: Final = ("cordoned", "going", "held", "suspected", "probation", "mended")


def states(node: NodeRecord, now: datetime) -> Iterator[State]:
    """Yield all that a node is now, the gravest first."""
    if node.fault is not None:
        yield State("cordoned", node.fault.cordoned_at, f"{node.fault.cause}; {stays(node)}")
    if node.notice:
        yield State("going", None, node.notice)
    if node.held is not None and doubted(node, now):
        name = "suspected" if node.held.reason == SUSPECTED else "held"
        yield State(name, node.held.at, f"{node.held.cause}; {node.held.reason}")
    last, ends = node.history.last, probation_ends(node)
    if last is not None and last.lifted is not None and ends is not None and on_probation(node, now):
        yield State("probation", last.lifted, f"{last.cause}; for {span(ends - now)} more")
    elif last is not None and node.fault is None and doubt(node, now) > 0:
        yield State("mended", last.lifted, last.cause)


def about(node: NodeRecord, now: datetime) -> list[str]:
    """Return what there is to say about a node beside its cordon."""
    lines = []
    if node.check is not None:
        how = "passed" if node.check.passed else "failed"
        lines.append(f"its {node.check.depth} check {how} {ago(node.check.at, now)} ago")
        lines += [f"check: {said}" for said in node.check.evidence]
    if node.notice:
        lines.append(f"it will go: {node.notice}")
    if node.held is not None and doubted(node, now):
        lines.append(f"not cordoned {ago(node.held.at, now)} ago: {node.held.cause}, {node.held.reason}")
        lines += [f"evidence: {said}" for said in node.held.evidence]
    ends = probation_ends(node)
    if ends is not None and on_probation(node, now):
        lines.append(f"on probation for {span(ends - now)} more: a suspicion is enough for a cordon")
    if node.history.faults:
        past = ", ".join(f"{f.cause} {ago(f.at, now)} ago" for f in reversed(node.history.faults))
        lines.append(f"score {node.history.score(now):.1f}: {past}")
    return lines


def data(node: NodeRecord, now: datetime) -> dict[str, Any]:
    """Return the same for machines."""
    ends = probation_ends(node)
    return {
        "node": node.name,
        "states": [
            {"state": s.name, "since": s.since.isoformat() if s.since else None, "why": s.why}
            for s in states(node, now)
        ],
        "score": round(node.history.score(now), 3),
        "probationUntil": ends.isoformat() if ends is not None and on_probation(node, now) else None,
        "check": None
        if node.check is None
        else {"at": node.check.at.isoformat(), "depth": node.check.depth, "passed": node.check.passed},
        "past": [
            {"cause": f.cause, "at": f.at.isoformat(), "lifted": f.lifted.isoformat() if f.lifted else None}
            for f in node.history.faults
        ],
    }


def stays(node: NodeRecord) -> str:
    """Return until when a cordon of ours stays."""
    return kept_because(node) or "the operator lifts it in a moment"
