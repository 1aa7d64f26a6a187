"""What a hang says about itself once all pods of an attempt are heard: who holds up the others, and on which node.

Everything here is what users' pods wrote: it explains a fault and makes a node worth a check, and never cordons it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from internlm2_spec.standstill import Cluster, Odd, Why, clustered, odd_one_out

# One line says who; the clusters follow, and a fault keeps 16 lines.
MAX_LINES: Final = 8
_TOLD_RANKS: Final = 8


@dataclass(frozen=True, slots=True)
class Witness:
    """What one pod said. `ranks` are those it ran, empty where that is not known: then those it speaks of.

    `spoke` says that its end, or its next processes, said anything at all.
    """

    pod: str
    node: str
    ranks: tuple[int, ...]
    stood: tuple[Cluster, ...] = ()
    spoke: bool = True


@dataclass(frozen=True, slots=True)
class Standstill:
    """Who held up the others: pods and nodes of the odd ranks, both empty where nobody stands out."""

    pods: tuple[str, ...]
    nodes: tuple[str, ...]
    evidence: tuple[str, ...]

    @property
    def node(self) -> str:
        """Return the one node to look at, empty where there is none or several."""
        return self.nodes[0] if len(self.nodes) == 1 else ""


def standstill(witnesses: Sequence[Witness]) -> Standstill:
    """Return what the pods of an attempt say together about a hang, in whatever order they are."""
    heard = [_own(each) for each in sorted(witnesses, key=lambda witness: (witness.ranks, witness.pod))]
    said = [cluster for witness in heard for cluster in witness.stood]
    named = {rank for cluster in said for rank in cluster.ranks}
    # Ranks of a pod that said something else lost their peers over the hang: they waited.
    said += [Cluster(rest, waits=True) for w in heard if w.spoke and (rest := _without(w.ranks, named))]
    odd = odd_one_out(said, {rank for witness in heard for rank in witness.ranks})
    homes = {rank: witness for witness in reversed(heard) for rank in witness.ranks}
    where = [homes[rank] for rank in odd.ranks if rank in homes] if odd else []
    lines = [_cluster(cluster) for cluster in clustered(said) if cluster.place][:MAX_LINES]
    return Standstill(
        pods=tuple(dict.fromkeys(witness.pod for witness in where)),
        nodes=tuple(dict.fromkeys(witness.node for witness in where if witness.node)),
        evidence=((_told(odd, where) if odd else "no rank stands out from the others"), *lines),
    )


def _without(ranks: Iterable[int], named: set[int]) -> tuple[int, ...]:
    return tuple(rank for rank in ranks if rank not in named)


def _own(witness: Witness) -> Witness:
    """Return a witness that speaks for its own ranks alone."""
    ranks = witness.ranks or tuple(sorted({rank for cluster in witness.stood for rank in cluster.ranks}))
    own = (replace(each, ranks=tuple(rank for rank in each.ranks if rank in ranks)) for each in witness.stood)
    return replace(witness, ranks=ranks, stood=tuple(each for each in own if each.ranks))


def _told(odd: Odd, where: Sequence[Witness]) -> str:
    nodes = ", ".join(dict.fromkeys(witness.node or "an unknown node" for witness in where)) or "an unknown node"
    one = len(odd.ranks) == 1
    who = f"{_named(odd.ranks)} on {nodes}"
    places = "; ".join(dict.fromkeys(cluster.place for cluster in odd.clusters))
    rest = f"; {odd.others} others wait for {'it' if one else 'them'}" + (f" in {odd.call}" if odd.call else "")
    if odd.why is Why.SILENT:
        return f"{who} left no word{rest}"
    if odd.why is Why.BUSY:
        return f"{who} {'stands' if one else 'stand'} in {places}{rest}"
    calls = ", ".join(dict.fromkeys(cluster.call for cluster in odd.clusters))
    return f"{who} {'waits' if one else 'wait'} in {calls} ({places}); most of the {odd.others} others in {odd.call}"


def _cluster(cluster: Cluster) -> str:
    does = f"in {cluster.call} of" if cluster.waits else "in"
    verb = ("waits" if cluster.waits else "stands") if len(cluster.ranks) == 1 else "wait" if cluster.waits else "stand"
    return f"{_named(cluster.ranks)} {verb} {does} {cluster.place}, phase {cluster.phase or 'unknown'}"


def _named(ranks: Sequence[int]) -> str:
    """Return `rank 5` or `ranks 0-4, 6, 7`, of many the first."""
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    told = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    more = f" and {len(told) - _TOLD_RANKS} more ranges" if len(told) > _TOLD_RANKS else ""
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(told[:_TOLD_RANKS])}{more}"
