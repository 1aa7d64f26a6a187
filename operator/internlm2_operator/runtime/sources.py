"""Everything that is asked on a clock: Prometheus, the trainers, the stores, and LISTs of the cluster.

Each is a loop of its own with its own pace; a loop that fails says so, waits, and goes on.
"""

import asyncio
import heapq
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final

from internlm2_operator.cluster import errors
from internlm2_operator.cluster.progress import Answers, ProgressReader
from internlm2_operator.cluster.prometheus import LOOK_BACK, Prometheus
from internlm2_operator.health import edges
from internlm2_operator.health.edges import Memory
from internlm2_operator.plan.faults import open_faults
from internlm2_operator.plan.snapshot import PodPhase, PodRecord
from internlm2_operator.runtime.evidence import Evidence
from internlm2_operator.runtime.intake import Key
from internlm2_operator.runtime.looks import Looker
from internlm2_operator.runtime.metrics import Metrics
from internlm2_operator.runtime.observed import Observed
from internlm2_operator.runtime.queue import Asks
from internlm2_operator.runtime.world import World
from internlm2_spec.contract import Progress

# Scrapes of 5 s and looks add up, for nothing aligns them: with looks every 5 s one fault in ten is seen after 7 s.
PROMETHEUS_SECONDS: Final = 2.0
PROGRESS_SECONDS: Final = 1.0
LOOK_SECONDS: Final = 5.0
# What is listed after so many seconds: jobs, whose watch is kopf's, often; the watches of the rest go on from where
# they broke, and a LIST of ten thousand pods costs as much as a minute of their events.
RESYNCS: Final = {30.0: ("job",), 600.0: ("node", "foreign", "pod", "quota", "check")}
# At most so many trainers are asked in a second, and so many stores looked into in LOOK_SECONDS: at 10,000 pods the
# answers of 250 a second cost as much as everything that is decided on them.
ASKED_AT_ONCE: Final = 100
LOOKS_AT_ONCE: Final = 100
# Of a round that took longer, because this process was stopped or did not get to it, the rest does not count.
LONGEST_ROUND: Final = 5.0
# One trainer tells a job's step; the others of a big cluster are asked so many times less often, and those of a job
# that recovers as many times more.
LEAD: Final = 10
log = logging.getLogger(__name__)


async def every(
    seconds: float, step: Callable[[], Awaitable[object]], *, name: str, metrics: Metrics, first: float = 0.0
) -> None:
    """Run `step` for ever, starting a round `seconds` after the start of the last one, the first after `first`."""
    loop = asyncio.get_running_loop()
    said = ""
    await asyncio.sleep(first)
    while True:
        due = loop.time() + seconds
        try:
            await step()
            metrics.rounds.labels(name).inc()
            said = ""
        except errors.ClusterError as error:
            # An outage lasts many rounds; its first one is news.
            if said != type(error).__name__:
                log.warning("%s: %s", name, error)
            said = type(error).__name__
        except Exception:
            log.exception("%s failed", name)
        await asyncio.sleep(max(0.0, due - loop.time()))


class PrometheusSource:
    """Finds edges between samples. After a start the sample of two minutes ago is the one before."""

    def __init__(
        self, prometheus: Prometheus, *, evidence: Evidence, world: World, queue: Asks[Key], metrics: Metrics
    ) -> None:
        self._prometheus = prometheus
        self._evidence = evidence
        self._world = world
        self._queue = queue
        self._metrics = metrics
        self._memory: Memory | None = None

    async def step(self) -> None:
        """Take one sample and pass on what is new.

        Raises:
            Retry: Prometheus did not answer: nothing is known, which is no fault of any node.
        """
        try:
            if self._memory is None:
                self._memory = edges.baseline(await self._prometheus.sample(ago=LOOK_BACK))
            sample = await self._prometheus.sample()
        except errors.Retry:
            self._metrics.prometheus.set(0)
            raise
        self._metrics.prometheus.set(1)
        signals, self._memory = edges.edges(self._memory, sample)
        for node in self._evidence.add(signals, self._world):
            self._queue.add(("node", node))


class ProgressSource:
    """Keeps what running trainers say, and wakes a job when it says something that a decision may turn on."""

    def __init__(
        self, reader: ProgressReader, *, observed: Observed, world: World, queue: Asks[Key],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._reader = reader
        self._clock = clock
        self._before = clock()
        self._observed = observed
        self._world = world
        self._queue = queue
        self._round = 0
        self._asked: dict[str, int] = {}  # by uid: the round in which a pod was last asked

    async def step(self) -> None:
        pods = self._world.all_pods()
        running = self._chosen([pod for pod in pods if pod.phase is PodPhase.RUNNING and pod.ip])
        answers = await self._reader.read(running)
        self._listen(running, answers)
        for pod in running:
            said, before = answers.said.get(pod.uid), self._observed.progress.get(pod.uid)
            if said is None:
                self._observed.miss(pod.uid, mute=pod.uid in answers.mute, taken=pod.uid in answers.taken)
                continue
            if _turn(said) != _turn(before):
                self._queue.add(("job", f"{pod.namespace}/{pod.job}"))
            self._observed.hear(pod, said)
        there = {pod.uid for pod in pods}
        self._observed.forget_pods(there)
        for uid in self._asked.keys() - there:
            del self._asked[uid]

    def _listen(self, asked: list[PodRecord], answers: Answers) -> None:
        """Let the listening clock run, unless it is us: we did not run, or none of several jobs' trainers answers."""
        before, self._before = self._before, self._clock()
        known = {(pod.namespace, pod.job) for pod in asked if pod.uid in self._observed.progress}
        if answers.said or len(known) < 2:
            self._observed.listened += min(self._before - before, LONGEST_ROUND)

    def _chosen(self, running: list[PodRecord]) -> list[PodRecord]:
        """Return those whose turn it is: everybody while they are few, else the slot 0 of each job more often."""
        self._round += 1
        if len(running) > ASKED_AT_ONCE:
            hurt = {key for key, job in self._world.jobs.items() if open_faults(job.status.faults)}
            running = heapq.nsmallest(ASKED_AT_ONCE, running, key=lambda pod: self._due(pod, hurt))
        self._asked.update((pod.uid, self._round) for pod in running)
        return running

    def _due(self, pod: PodRecord, hurt: set[str]) -> int:
        """Return the order in which pods are asked: the longer not asked, and the more awaited, the lower."""
        rounds = self._round - self._asked.get(pod.uid, 0)
        often = pod.slot == 0 or pod.uid not in self._observed.progress
        return -rounds * (LEAD if often else 1) * (LEAD if f"{pod.namespace}/{pod.job}" in hurt else 1)


class LookSource:
    """Looks into the store of every job that is not complete."""

    def __init__(self, looker: Looker, *, world: World, queue: Asks[Key]) -> None:
        self._looker = looker
        self._world = world
        self._queue = queue
        self._looking: set[str] = set()
        self._again: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._looked: dict[str, int] = {}  # by key: the round of the last look
        self._round = 0

    async def step(self) -> None:
        self._round += 1
        live = [key for key, job in self._world.jobs.items() if job.status.completion_time is None and not job.deleting]
        due = heapq.nsmallest(LOOKS_AT_ONCE, live, key=lambda key: self._looked.get(key, 0))
        self._looked = {key: self._looked.get(key, 0) for key in live} | dict.fromkeys(due, self._round)
        for key in due:
            self.ask(key)

    def ask(self, key: str) -> None:
        """Look now; when a look is under way, it may have begun too early, so another one follows."""
        if key in self._looking:
            self._again.add(key)
            return
        self._looking.add(key)
        task = asyncio.get_running_loop().create_task(self._look(key), name=f"look {key}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _look(self, key: str) -> None:
        try:
            if await self._looker.look(key):
                self._queue.add(("job", key))
        except errors.ClusterError as error:
            log.warning("checkpoints: %s", error, extra={"job": key})
        except Exception:
            log.exception("checkpoints failed", extra={"job": key})
        finally:
            self._looking.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.ask(key)


def _turn(said: Progress | None) -> tuple[object, ...] | None:
    if said is None:
        return None
    return said.phase, said.incarnation, said.started_step, said.first_step_time, said.checkpoint_step
