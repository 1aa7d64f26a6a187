"""The queue of each GPU resource, worked out when somebody asks and something has changed since."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from internlm2_operator.api.job import InternLM2Job
from internlm2_operator.health.lemon import doubts
from internlm2_operator.plan.capacity import sizes
from internlm2_operator.plan.contender import contender
from internlm2_operator.plan.queue import Contender, Line, QueueView, line_up
from internlm2_operator.runtime.world import World

SETTLE_SECONDS: Final = 0.1
"""How long changes are gathered before the queue is worked out anew for all: they come in storms."""


@dataclass(slots=True)
class _Pool:
    """The jobs of one resource, and their line as it was at room `version`; -1 when it has to be made anew."""

    contenders: dict[str, Contender] = field(default_factory=dict)
    line: Line = field(default_factory=Line)
    version: int = -1
    news: bool = False  # nobody was told of this line yet


class Lines:
    """One line a resource. A job changes its line at most; the others stay as they are."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._pools: dict[str, _Pool] = {}
        self._home: dict[str, str] = {}  # resource by job key
        self._sizes: dict[str, tuple[str, int, tuple[int, ...]]] = {}  # by job key: uid, generation, legal sizes

    def view(self, job: InternLM2Job) -> tuple[QueueView, int]:
        """Return the line as a job sees it that decides now, and how many others lack nodes that rank with it.

        Who has all its pods is told of the line as it was worked out last, at most SETTLE_SECONDS before
        the newest change: only a job that takes nodes, or stops for another, has to know it exactly.
        """
        self._refresh()
        resource = job.spec.nodes.resource_name
        pool = self._pools[resource]
        mine = pool.contenders[job.key]
        if mine.size and not mine.empty and not mine.keeps and job.key not in pool.line.yields:
            line = pool.line
        elif mine.size or mine.waits:
            line = self._line(pool, resource)
        else:
            # It has not joined yet; its own plan decides as if it had.
            asking = contender(job, self._world.stakes(job.key), self._legal(job), asks=True)
            line = self._made(resource, {**pool.contenders, job.key: asking}) if asking.waits else pool.line
        return line.view(job.key), line.waiting(job.spec.priority, job.key)

    def to_act(self) -> list[str]:
        """Return the jobs whose turn it is, to start or to stop, those that come first in their line first.

        A line is told once: a job that does nothing about its turn is not asked again and again.
        """
        self._refresh()
        keys: list[str] = []
        for name, pool in self._pools.items():
            line = self._line(pool, name)
            keys += line.to_act() if pool.news else ()
            pool.news = False
        return keys

    def _line(self, pool: _Pool, resource: str) -> Line:
        if pool.version != self._world.room_version:
            pool.line, pool.version = self._made(resource, pool.contenders), self._world.room_version
            pool.news = True
        return pool.line

    def _made(self, resource: str, contenders: dict[str, Contender]) -> Line:
        nodes = self._world.nodes(resource).values()
        held_against = doubts(nodes, datetime.now(UTC))
        return line_up(contenders.values(), nodes, self._world.quotas(resource), held_against)

    def _refresh(self) -> None:
        """Bring the contenders up to date."""
        for key in self._world.touched():
            job = self._world.jobs.get(key)
            resource = job.spec.nodes.resource_name if job else None
            if (home := self._home.get(key)) not in (None, resource):
                self._forget(key, str(home))
            if job is None or resource is None:
                continue
            pool = self._pools.setdefault(resource, _Pool())
            new = contender(job, self._world.stakes(key), self._legal(job) if not job.status.size else ())
            if pool.contenders.get(key) != new:
                pool.contenders[key], pool.version = new, -1
            self._home[key] = resource

    def _forget(self, key: str, resource: str) -> None:
        self._pools[resource].contenders.pop(key, None)
        self._pools[resource].version = -1
        del self._home[key]
        self._sizes.pop(key, None)

    def _legal(self, job: InternLM2Job) -> tuple[int, ...]:
        uid, generation, known = self._sizes.get(job.key, ("", 0, ()))
        if (uid, generation) != (job.uid, job.generation):
            known = tuple(sizes(job))
            self._sizes[job.key] = (job.uid, job.generation, known)
        return known
