"""The whole operator, put together. Reads from top to bottom as it starts."""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Final

import aiohttp
import kopf

from internlm2_operator.cluster import errors, gateway
from internlm2_operator.cluster.progress import ProgressReader
from internlm2_operator.cluster.prometheus import Prometheus
from internlm2_operator.runtime import server, sources, watch
from internlm2_operator.runtime.evidence import Evidence
from internlm2_operator.runtime.intake import Intake, Key
from internlm2_operator.runtime.jobs import JobReconciler
from internlm2_operator.runtime.lease import Lease, Pace
from internlm2_operator.runtime.looks import Looker
from internlm2_operator.runtime.metrics import Metrics
from internlm2_operator.runtime.nodes import NodeReconciler
from internlm2_operator.runtime.observed import Observed
from internlm2_operator.runtime.options import Options
from internlm2_operator.runtime.queue import WorkQueue
from internlm2_operator.runtime.world import World

SEED_RETRY_SECONDS: Final = 2.0
log = logging.getLogger(__name__)


class Operator:
    """The parts, wired once. Every task begins in `tasks`."""

    def __init__(
        self, options: Options, api: gateway.Gateway, session: aiohttp.ClientSession, metrics: Metrics
    ) -> None:
        self._options = options
        self.metrics = metrics
        self.pulse = server.Pulse()
        self.queue: WorkQueue[Key] = WorkQueue(uniform=random.uniform)
        self.metrics.queue.set_function(lambda: len(self.queue))
        world, observed, evidence = World(), Observed(), Evidence()
        self.intake = Intake(
            gateway=api,
            world=world,
            queue=self.queue,
            metrics=metrics,
            pulse=self.pulse,
            namespace=options.namespace,
        )
        self.looks = sources.LookSource(Looker(api, world, observed), world=world, queue=self.queue)
        self.progress = sources.ProgressSource(
            ProgressReader(session), observed=observed, world=world, queue=self.queue
        )
        self.prometheus = self._prometheus(session, world, evidence)
        self.jobs = JobReconciler(
            gateway=api,
            world=world,
            observed=observed,
            metrics=metrics,
            ask_look=self.looks.ask,
            ask_node=self._ask_node,
        )
        self.nodes = NodeReconciler(
            gateway=api, world=world, evidence=evidence, metrics=metrics, wake=self.intake.wake_jobs_on
        )

    def _prometheus(
        self, session: aiohttp.ClientSession, world: World, evidence: Evidence
    ) -> sources.PrometheusSource | None:
        if not self._options.prometheus_url:
            log.warning("no --prometheus-url: XIDs and lost GPUs are not seen")
            return None
        asked = Prometheus(self._options.prometheus_url, session)
        return sources.PrometheusSource(asked, evidence=evidence, world=world, queue=self.queue, metrics=self.metrics)

    def _ask_node(self, name: str) -> None:
        self.queue.add(("node", name))

    def tasks(self, group: asyncio.TaskGroup, sure: asyncio.Event) -> None:
        """Start workers and sources. The cache is seeded by now; `sure` is set while we may decide."""
        for _ in range(self._options.workers):
            group.create_task(self._work(sure))
        loops = [
            (sources.FOREIGN_SECONDS, self.intake.foreign, "foreign"),
            (sources.RESYNC_SECONDS, self.intake.resync, "resync"),
            (sources.LOOK_SECONDS, self.looks.step, "checkpoints"),
            (sources.PROGRESS_SECONDS, self.progress.step, "progress"),
        ]
        if self.prometheus:
            loops.append((sources.PROMETHEUS_SECONDS, self.prometheus.step, "prometheus"))
        for seconds, step, name in loops:
            group.create_task(sources.every(seconds, step, name=name, metrics=self.metrics))
        self.intake.wake_all()

    async def _work(self, sure: asyncio.Event) -> None:
        while True:
            await sure.wait()
            key = await self.queue.take()
            kind, name = key
            try:
                with self.metrics.reconcile.labels(kind).time():
                    again = await (self.jobs if kind == "job" else self.nodes).reconcile(name)
                self.queue.forget(key)
                if again is not None:
                    self.queue.add(key, delay=again)
            except Exception as error:
                self._failed(key, error)
            finally:
                self.queue.done(key)

    def _failed(self, key: Key, error: Exception) -> None:
        self.metrics.failures.labels(key[0]).inc()
        delay = self.queue.fail(key)
        known = isinstance(error, errors.ClusterError)
        log.log(
            logging.WARNING if known else logging.ERROR,
            "%s; again in %.1f s",
            error,
            delay,
            exc_info=None if known else error,
            extra={key[0]: key[1]},
        )

    def _alive(self, kind: str, at: float) -> None:
        self.intake.heard[kind] = at
        self.metrics.watch_seen(at)

    async def watch(self) -> None:
        """Run kopf until SIGTERM."""
        namespace = self._options.namespace
        await kopf.operator(
            registry=watch.registry(job=self.intake.job, pod=self.intake.pod, node=self.intake.node, alive=self._alive),
            settings=watch.settings(),
            clusterwide=not namespace,
            namespaces=[namespace] if namespace else [],
        )


async def run(options: Options) -> None:
    """Run the operator until it is told to stop.

    Raises:
        Refused: there is no way to reach a cluster.
        ExceptionGroup: the lease was lost, or a task ended that must not.
    """
    metrics = Metrics()
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(await gateway.connect(metrics.answered))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        operator = Operator(options, api, session, metrics)
        pages = await server.serve(options.metrics_port, metrics.registry, _sick(operator.pulse))
        stack.push_async_callback(pages.cleanup)
        await _lead(options, api, operator)


async def _lead(options: Options, api: gateway.Gateway, operator: Operator) -> None:
    """Take the lease, fill the cache, work, and give the lease back."""
    lease = Lease(api, namespace=options.own_namespace, identity=options.identity, pace=Pace())
    waiting = asyncio.create_task(_breathe(operator.pulse))
    try:
        await lease.acquire()
        log.info("leading as %s", options.identity)
        operator.metrics.leader.set(1)
        await _seed(operator.intake)
    finally:
        waiting.cancel()
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(lease.hold())
            operator.tasks(group, lease.sure)
            await operator.watch()
            raise _Stopped
    except* _Stopped:
        await lease.release()


class _Stopped(Exception):
    """kopf was told to stop, and everything else has to as well."""


async def _seed(intake: Intake) -> None:
    while True:
        try:
            await intake.seed()
        except errors.ClusterError as error:
            log.warning("cannot list yet: %s", error)
            await asyncio.sleep(SEED_RETRY_SECONDS)
        else:
            return


async def _breathe(pulse: server.Pulse) -> None:
    """Waiting for the lease is healthy."""
    while True:
        pulse.looked = time.monotonic()
        await asyncio.sleep(1.0)


def _sick(pulse: server.Pulse) -> Callable[[], str]:
    return lambda: pulse.sick(time.monotonic())
