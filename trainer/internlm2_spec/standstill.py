"""Who holds the others up when nothing goes on: what ranks say of where they stand, in clusters.

Ranks of a job that hangs wait for each other in a collective; the one to look at is the one that does not, or that
left no word, or that waits somewhere else than the crowd. Users write what is read here: it explains, and proves
nothing.
"""

import enum
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import astuple, dataclass, replace
from typing import Final

# What a pod tells has to fit into a termination message beside the traceback (4,096 bytes for all).
MAX_CLUSTERS: Final = 8
MAX_TEXT: Final = 120
MAX_RANKS: Final = 64  # of one cluster of one pod


@dataclass(frozen=True, slots=True)
class Cluster:
    """Ranks that stand in the same place, ascending.

    `waits` says that they wait for others, in `call`; `place` is their innermost frame outside of torch. A rank
    without a place left no word: it is stopped or stuck in C, or, where it waits, it lost its peers before it could.
    """

    ranks: tuple[int, ...]
    phase: str = ""
    waits: bool = False
    place: str = ""
    call: str = ""


def clustered(said: Iterable[Cluster]) -> tuple[Cluster, ...]:
    """Return what all said as one cluster a place, largest first, of equals that of the lowest rank."""
    ranks: dict[Cluster, set[int]] = defaultdict(set)
    for each in said:
        ranks[replace(each, ranks=())] |= set(each.ranks)
    merged = [replace(where, ranks=tuple(sorted(found))) for where, found in ranks.items() if found]
    return tuple(sorted(merged, key=lambda cluster: (-len(cluster.ranks), *astuple(cluster))))


def bounded(clusters: Iterable[Cluster]) -> tuple[Cluster, ...]:
    """Return at most MAX_CLUSTERS of a pod's clusters, those of the fewest ranks left out last: they are the news."""
    kept = sorted(clusters, key=lambda cluster: (cluster.waits, len(cluster.ranks), cluster.ranks))[:MAX_CLUSTERS]
    cut = (
        replace(
            each, ranks=each.ranks[:MAX_RANKS], phase=each.phase[:MAX_TEXT], place=each.place[-MAX_TEXT:],
            call=each.call[:MAX_TEXT],
        )
        for each in kept
    )  # fmt: skip
    return clustered(cut)


class Why(enum.StrEnum):
    """What makes a rank the odd one out."""

    BUSY = "busy"  # it waits for nobody
    SILENT = "silent"  # it left no word
    APART = "apart"  # it waits elsewhere than the crowd


@dataclass(frozen=True, slots=True)
class Odd:
    """The ranks to look at, where they stand (a silent one has no place), and how many others wait for them."""

    why: Why
    clusters: tuple[Cluster, ...]
    others: int
    call: str  # in which most of the others wait, empty where none does

    @property
    def ranks(self) -> tuple[int, ...]:
        return tuple(sorted(rank for cluster in self.clusters for rank in cluster.ranks))


def odd_one_out(said: Iterable[Cluster], ranks: Collection[int]) -> Odd | None:
    """Return who holds up the others of `ranks`, all that there are; None where nobody stands out.

    Of more than half of the ranks nobody is the odd one: then it is what they share, the storage or the network.
    """
    clusters = clustered(said)
    spoke = {rank for cluster in clusters if cluster.place or cluster.waits for rank in cluster.ranks}
    everybody = spoke | set(ranks)
    busy = [cluster for cluster in clusters if cluster.place and not cluster.waits]
    silent = tuple(sorted(everybody - spoke))
    waiting = [cluster for cluster in clusters if cluster.place and cluster.waits]
    call = waiting[0].call if waiting else ""
    if busy:
        return _odd(Why.BUSY, busy, everybody, call)
    if silent:
        return _odd(Why.SILENT, [Cluster(silent)], everybody, call)
    if 2 * len(waiting[0].ranks if waiting else ()) <= len(everybody):
        return None  # no crowd: stages of a pipeline wait in different places
    fewest = min(len(cluster.ranks) for cluster in waiting)
    return _odd(Why.APART, [c for c in waiting[1:] if len(c.ranks) == fewest], everybody, call)


def _odd(why: Why, clusters: list[Cluster], everybody: Collection[int], call: str) -> Odd | None:
    count = sum(len(cluster.ranks) for cluster in clusters)
    if not 0 < 2 * count <= len(everybody):
        return None
    return Odd(why, tuple(clusters), len(everybody) - count, call)
