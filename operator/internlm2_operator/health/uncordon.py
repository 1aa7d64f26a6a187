"""Which cordons of ours end by themselves: those whose node passed a check, and has nothing new against it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from internlm2_operator.health.cordon import OPERATOR
from internlm2_operator.health.diagnose import diagnose
from internlm2_operator.health.history import History
from internlm2_operator.health.node import CheckNote, FaultNote, NodeRecord
from internlm2_operator.health.signals import Signal
from internlm2_operator.health.verdict import Action

# What a node can come back from by itself, or after a reset or a reboot; hardware is exchanged by a person.
MENDED_BY_CHECK: Final = frozenset({Action.CORDON, Action.CORDON_RESET, Action.CORDON_REBOOT})


@dataclass(frozen=True, slots=True)
class Uncordon:
    """Take our cordon and our taint off a node. `settled` is when it was checked: what was said until then is over."""

    node: str
    history: History
    settled: datetime


def decide_uncordon(node: NodeRecord, signals: Sequence[Signal], now: datetime) -> Uncordon | None:
    """Return that the cordon ends now, None while it stays.

    Only a cordon that is ours alone, on a node that is ready, whose check ended well after the cordon was made, and
    against which nothing that would be enough on probation was said since.
    """
    note, check = node.fault, node.check
    if note is None or check is None or kept_because(node) is not None:
        return None
    settled = min(check.at, now)
    since = [s for s in signals if s.node != node.name or s.at > settled]
    if diagnose(since, node.name, now, probation=True).cordon:
        return None
    # The entry of this cordon is there unless somebody took the annotation away.
    history = node.history if _knows(node.history, note) else node.history.cordoned(note.cause, note.action, now)
    return Uncordon(node.name, history.lifted(now), settled=max(settled, node.reset or settled))


def settled_until(node: NodeRecord, known: datetime | None, now: datetime) -> datetime | None:
    """Return until when all is over that was said of a node, because a person took our note off it.

    Who did so has judged the node. `known` is when the cordon was made whose note was seen on it; an operator that
    starts later cannot know when the note went, so that only what led to the cordon is over. None where nobody took a
    note off, or it is written down already.
    """
    if known is not None and node.created is not None and node.created > known:
        known = None  # that was another machine's
    last = node.history.last
    made = [at for at in (known, last.at if last is not None and last.lifted is None else None) if at is not None]
    if node.fault is not None or not made or (node.reset is not None and node.reset >= max(made)):
        return None
    return max(*made, now) if known is not None else max(made)


def kept_because(node: NodeRecord) -> str | None:
    """Return why a cordon of ours stays on, None where a passed check lifts it."""
    note, check = node.fault, node.check
    if note is None or note.by != OPERATOR:
        return "it is not the operator's"
    if note.before:
        return "somebody else had cordoned the node before: a person lifts it"
    if note.action not in MENDED_BY_CHECK:
        return f"{note.action or 'what mends it'} needs a person, who lifts it"
    if check is None or check.at <= note.cordoned_at:
        return "no check of the node has ended since"
    if not check.passed:
        return "the last check of the node failed"
    return None if node.ready else "the node is not ready"


def passed(check: CheckNote | None, since: datetime) -> bool:
    """Say whether a check ended well after that moment."""
    return check is not None and check.passed and check.at > since


def _knows(history: History, note: FaultNote) -> bool:
    return history.last is not None and history.last.at == note.cordoned_at
