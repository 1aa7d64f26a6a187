"""Jobs and nodes as the queue sees them, and a cluster that does what the queue says."""

import dataclasses
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from internlm2_operator.health.node import NodeRecord
from internlm2_operator.plan.placement import fits
from internlm2_operator.plan.queue import Contender, Line, Turn, line_up
from tests.unit.plan.world import GPUS, T0, node


def waiting(name: str, need: int, *, priority: int = 0, age: float = 0, **changes: Any) -> Contender:
    """Return a job that waits for `need` whole nodes; the higher its `age` in seconds, the earlier it was made."""
    base = Contender(
        key=f"team/{name}", uid=name, priority=priority, created=T0 - timedelta(seconds=age), gpus=GPUS, sizes=(need,),
        waits=True,
    )  # fmt: skip
    return dataclasses.replace(base, **changes)


def running(name: str, *nodes: str, priority: int = 0, age: float = 0, **changes: Any) -> Contender:
    """Return a job that holds whole nodes."""
    held = waiting(name, len(nodes), priority=priority, age=age, waits=False, size=len(nodes))
    return dataclasses.replace(held, holds=dict.fromkeys(nodes, GPUS), **changes)


def cluster(count: int, jobs: Iterable[Contender] = (), **changes: Any) -> list[NodeRecord]:
    """Return nodes n0, n1, ... on which the jobs hold what they say."""
    used: Counter[str] = Counter()
    for job in jobs:
        used.update(job.holds)
        used.update(job.leaving)
    return [node(name := f"n{i}", used=used[name], **changes) for i in range(count)]


def starts(line: Line) -> list[str]:
    """Return the names of the jobs that may start, first in line first."""
    return [c.uid for c in line.order if c.key in line.places and line.places[c.key].turn is Turn.START]


@dataclass(slots=True)
class Floor:
    """A cluster of whole nodes that plays the line: who may start does, who has to stop does, gracefully."""

    nodes: list[NodeRecord]
    jobs: dict[str, Contender] = field(default_factory=dict)
    started: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)

    def line(self) -> Line:
        used: Counter[str] = Counter()
        for job in self.jobs.values():
            used.update(job.holds)
            used.update(job.leaving)
        assert all(used[n.name] <= n.gpus for n in self.nodes), "more GPUs held than there are"
        return line_up(self.jobs.values(), [dataclasses.replace(n, used=used[n.name]) for n in self.nodes])

    def arrive(self, job: Contender) -> None:
        self.jobs[job.key] = job

    def finish(self, key: str) -> None:
        del self.jobs[key]

    def leave(self) -> None:
        """Let the pods that leave be gone."""
        self.jobs = {key: dataclasses.replace(job, leaving={}) for key, job in self.jobs.items()}

    def step(self) -> bool:
        """Do one thing that the line asks for; False when it asks for nothing."""
        line = self.line()
        if line.yields:
            key = min(line.yields)
            job = self.jobs[key]
            self.jobs[key] = dataclasses.replace(job, size=0, holds={}, leaving=job.holds, waits=True)
            self.stopped.append(job.uid)
            return True
        for key in line.to_act():
            self._start(line, self.jobs[key])
            return True
        return False

    def start_whatever_fits(self) -> None:
        """Do what no line would: whoever finds enough free nodes takes them."""
        for job in list(self.jobs.values()):
            if job.waits and len(free := self._free(job)) >= min(job.sizes):
                self._place(job, free)

    def _start(self, line: Line, job: Contender) -> None:
        view = line.view(job.key)
        self._place(job, [name for name in self._free(job) if view.may_take(name)])

    def _free(self, job: Contender) -> list[str]:
        used: Counter[str] = Counter()
        for other in self.jobs.values():
            used.update(other.holds)
            used.update(other.leaving)
        return [n.name for n in self.nodes if fits(dataclasses.replace(n, used=used[n.name]), job.gpus, job.wanted)]

    def _place(self, job: Contender, free: list[str]) -> None:
        size = max(size for size in job.sizes if size <= len(free))
        holds = dict.fromkeys(free[:size], job.gpus)
        self.jobs[job.key] = dataclasses.replace(job, waits=False, size=size, holds=holds)
        self.started.append(job.uid)

    def settle(self, steps: int = 200) -> None:
        """Play until nothing is asked for any more."""
        for _ in range(steps):
            if not self.step():
                if not any(job.leaving for job in self.jobs.values()):
                    return
                self.leave()
        raise AssertionError(f"no rest after {steps} steps: {self.started} {self.stopped}")
