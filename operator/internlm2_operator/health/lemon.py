"""Which nodes are better left alone while others are free: on probation, suspected, or cordoned again and again.

It is an order and never a ban: a job that fits only with such a node runs on it.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

from internlm2_operator.health.node import NodeRecord
from internlm2_operator.health.uncordon import passed

# A node that was uncordoned after a check is watched for so long: the next suspicion convicts it.
PROBATION: Final = timedelta(hours=24)
# What was found against a node without a cordon counts for so long, or until it passes a check.
DOUBTED_FOR: Final = timedelta(hours=24)
# More than any number of cordons.
_DOUBT: Final = 1000.0
# Less than a tenth of a cordon, which is what one of 23 days ago counts, is nothing.
_LEAST: Final = 0.1


def probation_ends(node: NodeRecord) -> datetime | None:
    """Return until when a node is on probation, None for one that the operator did not uncordon."""
    last = node.history.last
    return last.lifted + PROBATION if node.fault is None and last is not None and last.lifted is not None else None


def on_probation(node: NodeRecord, now: datetime) -> bool:
    ends = probation_ends(node)
    return ends is not None and now < ends


def doubted(node: NodeRecord, now: datetime) -> bool:
    """Say whether something was found against the node a while ago that no check has cleared up."""
    return node.held is not None and now - node.held.at < DOUBTED_FOR and not passed(node.check, node.held.at)


def doubt(node: NodeRecord, now: datetime) -> float:
    """Return how much speaks against using a node, 0 for nothing: first doubts of today, then its score."""
    score = node.history.score(now)
    return (round(score, 1) if score >= _LEAST else 0.0) + _DOUBT * (on_probation(node, now) or doubted(node, now))


def doubts(nodes: Iterable[NodeRecord], now: datetime) -> dict[str, float]:
    """Return the doubt of each node that has any."""
    marked = (n for n in nodes if n.held is not None or n.history.scored is not None)
    return {n.name: found for n in marked if (found := doubt(n, now)) > 0}


def lemons(nodes: Iterable[NodeRecord], most: int, now: datetime) -> list[tuple[str, float]]:
    """Return up to `most` nodes with the highest scores, worst first."""
    scores = ((n.name, n.history.score(now)) for n in nodes if n.history.scored is not None)
    ranked = sorted(((name, score) for name, score in scores if score >= _LEAST), key=lambda s: (-s[1], s[0]))
    return ranked[:most]
