"""Who may have which nodes: one line of jobs for each GPU resource, worked out once for all of them.

The order is priority, then age. Whoever lacks nodes keeps every node that could ever carry one of its
pods from all behind it, so a job behind starts early only on nodes that are of no use to those ahead.
How long a job runs is not known, so nothing weaker is sure not to delay them. A job whose demand is
above what exists, or above its namespace's quota, keeps nothing.

Pure: the same jobs and nodes in any order give the same line. docs/operations.md explains it to users.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from internlm2_operator.api.topology import TopologySpec
from internlm2_operator.health.node import NodeRecord
from internlm2_operator.plan import topology as topologies
from internlm2_operator.plan.constraints import Constraints, admits
from internlm2_operator.plan.placement import NO_DOUBTS, fits, healthy, least_doubted
from internlm2_operator.plan.victims import victims


@dataclass(frozen=True, slots=True)
class Contender:
    """A job as the queue sees it. It waits, or has an attempt of `size` nodes, or (neither) is held back otherwise."""

    key: str  # namespace/name
    uid: str
    priority: int
    created: datetime
    gpus: int  # on each node
    sizes: tuple[int, ...]  # legal node counts, ascending; at least one
    wanted: Constraints = field(default_factory=Constraints)
    spares: int = 0
    topology: TopologySpec | None = None
    waits: bool = False
    size: int = 0
    empty: int = 0  # members that the attempt lacks; a missing spare does not count
    keeps: tuple[str, ...] = ()  # nodes of members that ended: their replacements may go there
    holds: Mapping[str, int] = field(default_factory=dict)  # GPUs by node, of pods that it wants
    leaving: Mapping[str, int] = field(default_factory=dict)  # GPUs by node, of pods that leave

    @property
    def rank(self) -> tuple[int, datetime, str]:
        return -self.priority, self.created, self.uid

    @property
    def namespace(self) -> str:
        return self.key.partition("/")[0]

    @property
    def shape(self) -> tuple[int, Constraints]:
        """Jobs of one shape can use the same nodes."""
        return self.gpus, self.wanted

    def __str__(self) -> str:
        return f"{self.key} (priority {self.priority})"


@dataclass(frozen=True, slots=True)
class Quota:
    """What a ResourceQuota leaves to the jobs of a namespace; None for what it does not limit."""

    name: str
    gpus: int | None = None
    pods: int | None = None

    def nodes(self, gpus: int) -> int | None:
        """Return how many pods of `gpus` it allows."""
        limits = [] if self.gpus is None else [max(0, self.gpus) // gpus]
        return min(limits + ([] if self.pods is None else [max(0, self.pods)]), default=None)

    def less(self, *, gpus: int, pods: int) -> "Quota":
        return Quota(
            self.name,
            None if self.gpus is None else self.gpus - gpus,
            None if self.pods is None else self.pods - pods,
        )


class Turn(StrEnum):
    """What becomes of a job that waits."""

    START = "start"
    MAKING_ROOM = "making room"  # others stop for it, or have not gone yet
    BEHIND = "behind"  # the nodes that it could use are kept for one ahead
    SHORT = "short"  # too few nodes are free
    TOO_LARGE = "too large"  # too few nodes exist
    OVER_QUOTA = "over quota"


@dataclass(frozen=True, slots=True)
class Place:
    """One waiting job's place: `others` are the jobs that stop for it, or the one that it is behind."""

    turn: Turn
    others: tuple[str, ...] = ()
    exist: int = 0
    quota: Quota | None = None


@dataclass(frozen=True, slots=True)
class QueueView:
    """The line as one job sees it. The default is an empty line."""

    kept: Mapping[str, int] = field(default_factory=dict)  # by node: the place in line of the job that it is kept for
    index: int = 0  # this job's own
    position: int = 0  # among those that wait, from 1
    length: int = 0  # how many wait
    place: Place | None = None  # None: it does not wait
    yields_to: Contender | None = None  # the job of higher priority that this one has to stop for
    allowed: int | None = None  # nodes, by the namespace's quota

    def may_take(self, node: str) -> bool:
        return self.kept.get(node, self.index) >= self.index


@dataclass(frozen=True, slots=True)
class Line:
    """The whole line for one resource."""

    order: tuple[Contender, ...] = ()  # those that replace lost members, then those that wait
    kept: Mapping[str, int] = field(default_factory=dict)
    places: Mapping[str, Place] = field(default_factory=dict)
    yields: Mapping[str, Contender] = field(default_factory=dict)  # key of who stops, and for whom
    allowed: Mapping[str, int | None] = field(default_factory=dict)

    def view(self, key: str) -> QueueView:
        """Return what one job may know; a job that wants nothing stands behind all."""
        index = next((i for i, c in enumerate(self.order) if c.key == key), len(self.order))
        ahead = sum(c.key in self.places for c in self.order[:index])
        return QueueView(
            kept=self.kept,
            index=index,
            position=ahead + 1 if key in self.places else 0,
            length=len(self.places),
            place=self.places.get(key),
            yields_to=self.yields.get(key),
            allowed=self.allowed.get(key),
        )

    def to_act(self) -> tuple[str, ...]:
        """Return the jobs for which something is to be done now: start, first in line first, or stop."""
        given = set(self.kept.values())
        begins = (c.key for i, c in enumerate(self.order) if i in given and self._begins(c.key))
        return tuple(dict.fromkeys((*begins, *self.yields)))

    def _begins(self, key: str) -> bool:
        return key not in self.places or self.places[key].turn is Turn.START

    def waiting(self, priority: int, key: str) -> int:
        """Return how many other jobs of this priority or a higher one wait for nodes that they could have."""
        lacking = (Turn.MAKING_ROOM, Turn.BEHIND, Turn.SHORT)
        return sum(
            c.priority >= priority and c.key != key and c.key in self.places and self.places[c.key].turn in lacking
            for c in self.order
        )


def line_up(
    contenders: Iterable[Contender],
    nodes: Iterable[NodeRecord],
    quotas: Mapping[str, Quota] | None = None,
    doubts: Mapping[str, float] = NO_DOUBTS,
) -> Line:
    """Return the line of all jobs that want one resource.

    `quotas` are what each namespace's jobs may have in all, pods that run or leave counted in. Nodes with `doubts`
    are given away last.
    """
    known = sorted(contenders, key=lambda c: c.rank)
    filling = [c for c in known if c.size and (c.empty or c.keeps)]
    waiting = [c for c in known if c.waits and not c.size]
    order = (*filling, *waiting)
    if not order:
        return Line()
    best_first = sorted(nodes, key=lambda n: (doubts.get(n.name, 0.0), n.name))
    floor = _Floor(best_first, known, order, dict(quotas or {}), doubts)
    for index, job in enumerate(order):
        if job.size:
            floor.keep(index, (*job.keeps, *floor.pick(job, range(1, job.empty + 1), 0)))
        else:
            floor.serve(index, job)
    return Line(order, floor.kept, floor.places, floor.yields, floor.allowed)


class _Floor:
    """The nodes while they are given out, first in line first."""

    def __init__(
        self,
        nodes: Sequence[NodeRecord],
        known: Sequence[Contender],
        order: Sequence[Contender],
        quotas: dict[str, Quota],
        doubts: Mapping[str, float],
    ) -> None:
        self._doubts = doubts
        self.kept: dict[str, int] = {}
        self.places: dict[str, Place] = {}
        self.yields: dict[str, Contender] = {}
        self.allowed: dict[str, int | None] = {}
        self._nodes = nodes
        self._open = {n.name: n for n in nodes if healthy(n) and n.used < n.gpus}
        self._known = known
        self._order = order
        self._leaving: Counter[str] = Counter()
        for job in known:
            self._leaving.update(job.leaving)
        self._quotas = quotas
        for job in known:
            held = (*job.holds.values(), *job.leaving.values())
            self._spend(job, gpus=sum(held), pods=len(held))
        self._usable: dict[object, list[NodeRecord]] = {}
        self._short: dict[object, Contender] = {}  # the first of each shape that lacks nodes: it keeps them all

    def keep(self, index: int, names: Iterable[str]) -> None:
        for name in names:
            self.kept.setdefault(name, index)
            self._open.pop(name, None)

    def serve(self, index: int, job: Contender) -> None:
        quota = self._quotas.get(job.namespace)
        allowed = self.allowed[job.key] = quota.nodes(job.gpus) if quota else None
        sizes = [size for size in job.sizes if allowed is None or size <= allowed]
        if not sizes:
            self.places[job.key] = Place(Turn.OVER_QUOTA, quota=quota)
        elif (first := self._short.get(job.shape)) is not None:
            self.places[job.key] = Place(Turn.BEHIND, (str(first),))
        elif picked := self.pick(job, sizes, job.spares):
            self.keep(index, (*picked, *job.leaving))
            self._spend(job, gpus=len(picked) * job.gpus, pods=len(picked))
            self.places[job.key] = Place(Turn.START)
        else:
            self._lacks(index, job, min(sizes))

    def pick(self, job: Contender, sizes: Sequence[int], spares: int) -> tuple[str, ...]:
        """Return the nodes of the largest size that fits, as far as they are open, and of spares; none if none fits."""
        most = max(sizes, default=0) + spares
        free: list[NodeRecord] = []
        for node in self._open.values():
            if fits(node, job.gpus, job.wanted):
                free.append(node)
                # Without a topology nodes are taken in this order: no need to look at all of them.
                if len(free) == most and job.topology is None and not job.leaving:
                    break
        size = max((size for size in sizes if size <= len(free)), default=0)
        chosen = topologies.choose(least_doubted(free, size, self._doubts), size, job.topology, job.leaving)
        names = {n.name for n in chosen}
        left = least_doubted([n for n in free if n.name not in names], spares, self._doubts)
        extra = topologies.spares(left, chosen, spares, job.topology, job.leaving)
        return tuple(n.name for n in (*chosen, *extra)) if size else ()

    def _lacks(self, index: int, job: Contender, needed: int) -> None:
        """Have others make room where that is enough, and keep what it could use from all behind."""
        usable = self._usable_by(job)
        if len(usable) < needed:
            self.places[job.key] = Place(Turn.TOO_LARGE, exist=len(usable))
            return
        mine = [n for n in usable if n.name not in self.kept]
        free = {n.name: n.gpus - n.used + self._leaving[n.name] for n in mine if healthy(n)}
        missing = needed - sum(gpus >= job.gpus for gpus in free.values())
        if missing <= 0:
            going = (c for c in self._known if c.key != job.key and not free.keys().isdisjoint(c.leaving))
            self.places[job.key] = Place(Turn.MAKING_ROOM, tuple(map(str, going)))
        elif chosen := self._victims(job, missing, free):
            self.yields |= dict.fromkeys((c.key for c in chosen), job)
            self.places[job.key] = Place(Turn.MAKING_ROOM, tuple(map(str, chosen)))
        else:
            self.places[job.key] = self._without(usable)
        self.keep(index, (n.name for n in mine))
        self._short[job.shape] = job

    def _victims(self, job: Contender, missing: int, free: Mapping[str, int]) -> tuple[Contender, ...]:
        lower = (c for c in self._known if c.size and c.priority < job.priority and c.key not in self.yields)
        return victims(lower, gpus=job.gpus, missing=missing, free=free)

    def _without(self, usable: Sequence[NodeRecord]) -> Place:
        ahead = [self.kept[n.name] for n in usable if n.name in self.kept and healthy(n) and n.used < n.gpus]
        return Place(Turn.BEHIND, (str(self._order[min(ahead)]),)) if ahead else Place(Turn.SHORT)

    def _usable_by(self, job: Contender) -> list[NodeRecord]:
        """Return the nodes that could ever carry a pod of the job, those that are full or at fault among them."""
        if job.shape not in self._usable:
            self._usable[job.shape] = [n for n in self._nodes if n.gpus >= job.gpus and admits(n, job.wanted)]
        return self._usable[job.shape]

    def _spend(self, job: Contender, *, gpus: int, pods: int) -> None:
        if (quota := self._quotas.get(job.namespace)) is not None:
            self._quotas[job.namespace] = quota.less(gpus=gpus, pods=pods)
