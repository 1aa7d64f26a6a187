"""Everything that is asked on a clock: Prometheus, the trainers, the stores, and LISTs of the cluster.

Each is a loop of its own with its own pace; a loop that fails says so, waits, and goes on.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from internlm2_operator.cluster import edges, errors
from internlm2_operator.cluster.edges import Memory
from internlm2_operator.cluster.progress import ProgressReader
from internlm2_operator.cluster.prometheus import LOOK_BACK, Prometheus
from internlm2_operator.plan.snapshot import PodPhase
from internlm2_operator.runtime.evidence import Evidence
from internlm2_operator.runtime.intake import Key
from internlm2_operator.runtime.looks import Looker
from internlm2_operator.runtime.metrics import Metrics
from internlm2_operator.runtime.observed import Observed
from internlm2_operator.runtime.queue import WorkQueue
from internlm2_operator.runtime.world import World
from internlm2_spec.contract import Progress

PROMETHEUS_SECONDS: Final = 5.0
PROGRESS_SECONDS: Final = 1.0
LOOK_SECONDS: Final = 5.0
FOREIGN_SECONDS: Final = 15.0
RESYNC_SECONDS: Final = 30.0
log = logging.getLogger(__name__)


async def every(seconds: float, step: Callable[[], Awaitable[object]], *, name: str, metrics: Metrics) -> None:
    """Run `step` for ever, starting a round `seconds` after the start of the last one."""
    loop = asyncio.get_running_loop()
    said = ""
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
        self, prometheus: Prometheus, *, evidence: Evidence, world: World, queue: WorkQueue[Key], metrics: Metrics
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

    def __init__(self, reader: ProgressReader, *, observed: Observed, world: World, queue: WorkQueue[Key]) -> None:
        self._reader = reader
        self._observed = observed
        self._world = world
        self._queue = queue

    async def step(self) -> None:
        pods = self._world.all_pods()
        running = [pod for pod in pods if pod.phase is PodPhase.RUNNING]
        answers = await self._reader.read(running)
        for pod in running:
            said, before = answers.get(pod.uid), self._observed.progress.get(pod.uid)
            if said is not None and _turn(said) != _turn(before):
                self._queue.add(("job", f"{pod.namespace}/{pod.job}"))
            if said is not None:
                self._observed.hear(pod, said)
        for uid in self._observed.progress.keys() - {pod.uid for pod in pods}:
            del self._observed.progress[uid]


class LookSource:
    """Looks into the store of every job that is not complete."""

    def __init__(self, looker: Looker, *, world: World, queue: WorkQueue[Key]) -> None:
        self._looker = looker
        self._world = world
        self._queue = queue
        self._looking: set[str] = set()
        self._again: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def step(self) -> None:
        for key, job in list(self._world.jobs.items()):
            if job.status.completion_time is None and not job.deleting:
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
