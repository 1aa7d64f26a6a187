"""Which nodes are to be checked, and since when: those something speaks against, and cordoned ones that came back."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from internlm2_operator.api.status import Fault, Straggling
from internlm2_operator.health.node import NODE_NOT_READY, NodeRecord
from internlm2_operator.health.verdict import Action
from internlm2_operator.plan.causes import cause

# A node that nobody could check for so long, because a job uses it, is no suspect any more.
SUSPECT_FOR: Final = timedelta(hours=1)
# What a pod's end says can be made up by its user: such a node is checked at most so often.
AGAIN: Final = timedelta(minutes=30)
# Whoever held up the others for less is forgotten: heat, a neighbour, a burst of other traffic.
SLOW_FOR: Final = timedelta(minutes=10)
# Faults that nobody is to blame for: twice within the window, and the nodes of the job are checked against each other.
HANGS: Final = frozenset({"Hang", "Stalled"})
HANGS_WITHIN: Final = timedelta(hours=6)


@dataclass(frozen=True, slots=True)
class Suspect:
    """A node to be checked, since when, and why in words."""

    node: str
    at: datetime
    why: str


def suspects(
    nodes: Iterable[NodeRecord], faults: Iterable[Fault], stragglers: Iterable[Straggling], now: datetime
) -> tuple[Suspect, ...]:
    """Return the nodes that are to be checked; one that was checked since is none.

    What pods' ends say and which nodes are slow is the word of users: it leads to a check and to nothing else.
    """
    words: dict[str, Suspect] = {}
    for one in (*_slow(stragglers), *_blamed(faults, now)):  # of one node, the newest
        if one.node not in words or one.at > words[one.node].at:
            words[one.node] = one
    found = (_suspect(node, words.get(node.name), now) for node in nodes)
    return tuple(one for one in found if one is not None)


def _suspect(node: NodeRecord, word: Suspect | None, now: datetime) -> Suspect | None:
    checked = node.check.at if node.check is not None else None
    for one in _suspicions(node, word):
        if checked is not None and one.at <= checked:
            continue
        if node.fault is None and now - one.at > SUSPECT_FOR:
            continue
        return one
    return None


def _suspicions(node: NodeRecord, word: Suspect | None) -> Iterator[Suspect]:
    """Yield why a node should be checked, those that matter more first."""
    if node.fault is not None:
        if (mended := mended_at(node)) is not None:
            yield Suspect(node.name, mended, f"{node.fault.cause}, and the node is back")
        return
    if node.held is not None:
        yield Suspect(node.name, node.held.at, f"{node.held.cause}: {node.held.reason}")
    if word is not None and (node.check is None or word.at - node.check.at > AGAIN):
        yield word


def mended_at(node: NodeRecord) -> datetime | None:
    """Return when a cordoned node may have been mended, None while nothing says so.

    It came back from a reboot, somebody said that its faults were dealt with, or what it was cordoned for is over.
    """
    note = node.fault
    if note is None or not node.ready:
        return None
    said = [at for at in (node.ready_since, node.reset) if at is not None and at > note.cordoned_at]
    if said:
        return max(said)
    by_itself = note.action == Action.CORDON and note.cause != NODE_NOT_READY
    return note.cordoned_at if by_itself and all(event.cause != note.cause for event in node.health) else None


def hung_again(faults: Iterable[Fault], checked: datetime | None, now: datetime) -> bool:
    """Say whether a job hung twice within the window without a culprit, since its nodes were checked last."""
    times = [f.times.signal for f in faults if f.cause in HANGS and not f.node for _ in range(f.count)]
    recent = [at for at in times if at is not None and now - at <= HANGS_WITHIN and (checked is None or at > checked)]
    return len(recent) > 1


def _blamed(faults: Iterable[Fault], now: datetime) -> Iterator[Suspect]:
    """Yield the nodes that a fault's record speaks against without having convicted them."""
    for fault in faults:
        seen = fault.times.signal
        if not fault.node or fault.cordoned or seen is None or not cause(fault.cause).suspects:
            continue
        if now - seen <= SUSPECT_FOR:
            yield Suspect(fault.node, seen, f"{fault.cause} of a pod")


def _slow(stragglers: Iterable[Straggling]) -> Iterator[Suspect]:
    """Yield the nodes that held up a job for long, from when they did not any more: before that the job uses them."""
    for one in stragglers:
        if one.until is not None and one.until - one.since >= SLOW_FOR:
            minutes = (one.until - one.since).total_seconds() / 60
            yield Suspect(one.node, one.until, f"held up a job for {minutes:.0f} minutes, slow in {one.slow_in}")
