"""What Prometheus is told about jobs and nodes, every few seconds, and the time of GPUs that is booked meanwhile."""

import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from internlm2_operator.api.job import InternLM2Job
from internlm2_operator.plan.causes import cause
from internlm2_operator.plan.faults import final, open_faults
from internlm2_operator.plan.spending import spending
from internlm2_operator.runtime.metrics import Metrics
from internlm2_operator.runtime.observed import Observed
from internlm2_operator.runtime.world import World

BOOK_SECONDS: Final = 1.0  # a fault is often over in a few
TELL_SECONDS: Final = 5.0
# Of a round that took longer, because this process was stopped, the rest is nobody's: what went on is not known.
LONGEST_ROUND: Final = 30.0


class Books:
    """The gauges of jobs and nodes are written anew each time, so that what is gone leaves no series behind."""

    def __init__(
        self, world: World, observed: Observed, metrics: Metrics, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._world = world
        self._observed = observed
        self._metrics = metrics
        self._clock = clock
        self._before = clock()
        self._booked: dict[str, set[tuple[str, ...]]] = {}  # by job: the labels of its series of GPU time
        self._counted: dict[str, set[str]] = {}  # by job: ids of its faults that are counted

    async def book(self) -> None:
        """Book the time since the last booking on what each job's GPUs do now."""
        before, self._before = self._before, self._clock()
        seconds = min(self._before - before, LONGEST_ROUND)
        for job in self._world.jobs.values():
            self._book(job, seconds)

    async def tell(self) -> None:
        """Write the gauges, and count the faults that are over."""
        told = self._metrics
        for gauge in (told.job_phase, told.job_condition, told.job_step, told.job_nodes, told.job_checkpoint,
                      told.job_faults, told.cordoned):  # fmt: skip
            gauge.clear()
        now = datetime.now(UTC)
        for job in self._world.jobs.values():
            self._tell(job)
            self._count(job, now)
        self._tell_nodes()
        for key in self._counted.keys() - self._world.jobs.keys():
            del self._counted[key]
        for key in self._booked.keys() - self._world.jobs.keys():
            for labels in self._booked.pop(key):
                told.job_gpu_seconds.remove(*labels)

    def _book(self, job: InternLM2Job, seconds: float) -> None:
        pods = self._world.pods(job.key)
        said = [self._observed.progress[pod.uid] for pod in pods if pod.uid in self._observed.progress]
        if (spent := spending(job, said, self._observed.highest_step(job))) is not None:
            labels = (job.namespace, job.name, spent.on.value, spent.cause)
            self._booked.setdefault(job.key, set()).add(labels)
            self._metrics.job_gpu_seconds.labels(*labels).inc(spent.gpus * seconds)

    def _tell(self, job: InternLM2Job) -> None:
        told, name, status = self._metrics, (job.namespace, job.name), job.status
        told.job_phase.labels(*name, status.phase).set(1)
        for each in status.conditions:
            told.job_condition.labels(*name, each.type, each.status, each.reason).set(1)
        step = max((self._observed.highest_step(job) or 0, status.step or 0))
        told.job_step.labels(*name).set(step)
        nodes = {"active": status.nodes.active, "spare": status.nodes.spare, "wanted": job.spec.nodes.max}
        for state, count in nodes.items():
            told.job_nodes.labels(*name, state).set(count)
        if status.checkpoint is not None and status.checkpoint.time is not None:
            told.job_checkpoint.labels(*name).set(status.checkpoint.time.timestamp())
        for fault in open_faults(status.faults):
            if fault.times.signal is not None:
                labels = (*name, fault.cause, cause(fault.cause).kind, fault.node)
                told.job_faults.labels(*labels).set(fault.times.signal.timestamp())

    def _count(self, job: InternLM2Job, now: datetime) -> None:
        """Count each fault once, when its record is final: a restart may yet turn out to be a node's fault.

        Those of a job that was not seen before were counted by the operator that wrote them.
        """
        ended = job.status.completion_time is not None
        over = {f.id: f for f in job.status.faults if ended or final(f, now)}
        counted = self._counted.setdefault(job.key, set(over))
        for fault in (f for name, f in over.items() if name not in counted):
            self._metrics.faults.labels(fault.cause).inc()
            self._metrics.steps_lost.labels(fault.cause).inc(fault.steps_lost or 0)
            for arrow, seconds in fault.seconds.items() if fault.times.closed else ():
                self._metrics.arrows.labels(arrow).observe(seconds)
        counted.update(over)

    def _tell_nodes(self) -> None:
        nodes = self._world.plain_nodes()
        states = Counter("cordoned" if n.fault else "ready" if n.ready else "not_ready" for n in nodes)
        for state in ("ready", "not_ready", "cordoned"):
            self._metrics.nodes.labels(state).set(states[state])
        for node in nodes:
            if node.fault is not None:
                labels = (node.name, node.fault.cause)
                self._metrics.cordoned.labels(*labels).set(node.fault.cordoned_at.timestamp())
