"""The whole operator, put together. Reads from top to bottom as it starts."""

import asyncio
import functools
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Final

import aiohttp
import kopf

from internlm2_operator.cluster import errors, gateway, pages
from internlm2_operator.cluster.progress import ProgressReader
from internlm2_operator.cluster.prometheus import Prometheus
from internlm2_operator.plan.snapshot import CheckView
from internlm2_operator.runtime import server, sources, watch
from internlm2_operator.runtime.books import BOOK_SECONDS, TELL_SECONDS, Books
from internlm2_operator.runtime.checks import CheckReconciler
from internlm2_operator.runtime.evidence import Evidence
from internlm2_operator.runtime.intake import Intake, Key
from internlm2_operator.runtime.jobs import JobReconciler
from internlm2_operator.runtime.lease import Lease, Pace
from internlm2_operator.runtime.lines import Lines
from internlm2_operator.runtime.looks import Looker
from internlm2_operator.runtime.metrics import Metrics
from internlm2_operator.runtime.nodes import NodeReconciler
from internlm2_operator.runtime.observed import Observed
from internlm2_operator.runtime.options import Options
from internlm2_operator.runtime.queue import ByKind, WorkQueue
from internlm2_operator.runtime.rules import RULE_SECONDS, RuleSource
from internlm2_operator.runtime.world import World

SEED_RETRY_SECONDS: Final = 2.0
# What a job does about a fault rests on the verdict: nodes are judged before jobs are looked at, for so long at most.
NODES_FIRST_SECONDS: Final = 5.0
# A look that comes back after so long is the clock's: what happens meanwhile goes first.
PATIENT_SECONDS: Final = 5.0
RANK_SECONDS: Final = 60.0
log = logging.getLogger(__name__)


class Operator:
    """The parts, wired once. Every task begins in `tasks`."""

    def __init__(
        self, options: Options, api: gateway.Gateway, session: aiohttp.ClientSession, metrics: Metrics
    ) -> None:
        self._options = options
        self.metrics = metrics
        self.pulse = server.Pulse()
        self._turn = asyncio.Lock()
        self.queues: dict[str, WorkQueue[Key]] = {
            kind: WorkQueue(uniform=random.uniform, taken=metrics.waited.labels(kind).observe)
            for kind in ("job", "node", "line", "check")
        }
        self.queue = ByKind(self.queues)
        self.metrics.queue.set_function(lambda: sum(map(len, self.queues.values())))
        checks = CheckView(on=bool(options.check_image))
        world, observed = World(own_namespace=options.own_namespace, checks=checks), Observed()
        self.world, evidence = world, Evidence(options.topology_label)
        lines = Lines(world)
        self.intake = Intake(
            gateway=api,
            world=world,
            lines=lines,
            queue=self.queue,
            metrics=metrics,
            pulse=self.pulse,
            namespaces=options.namespaces,
            own_namespace=options.own_namespace,
        )
        self.looks = sources.LookSource(Looker(api, world, observed), world=world, queue=self.queue)
        self.progress = sources.ProgressSource(
            ProgressReader(session), observed=observed, world=world, queue=self.queue
        )
        self.prometheus = self._prometheus(session, world, evidence)
        self.rules = self._rules(api, observed)
        self.jobs = JobReconciler(
            gateway=api,
            world=world,
            lines=lines,
            observed=observed,
            metrics=metrics,
            ask_look=self.looks.ask,
            ask_node=self._ask_node,
            ask_line=self.intake.wake_line,
            ask_checks=self.intake.wake_checks,
        )
        self.books = Books(world, observed, metrics)
        self.checks = CheckReconciler(
            gateway=api,
            world=world,
            namespace=options.own_namespace,
            image=options.check_image,
            resource=options.check_resource,
            metrics=metrics,
            ask_node=self._ask_node,
            wake_jobs=self.intake.wake_waiting,
        )
        self.nodes = NodeReconciler(
            gateway=api,
            world=world,
            evidence=evidence,
            metrics=metrics,
            wake=self.intake.wake_jobs_on,
            silence=lambda name: observed.silence(world.pods_on(name)),
            label=options.topology_label,
        )

    def _prometheus(
        self, session: aiohttp.ClientSession, world: World, evidence: Evidence
    ) -> sources.PrometheusSource | None:
        if not self._options.prometheus_url:
            log.warning("no --prometheus-url: XIDs and lost GPUs are not seen")
            self.metrics.prometheus.set(math.nan)
            return None
        asked = Prometheus(self._options.prometheus_url, session, self._options.prometheus_match)
        return sources.PrometheusSource(asked, evidence=evidence, world=world, queue=self.queue, metrics=self.metrics)

    def _rules(self, api: gateway.Gateway, observed: Observed) -> RuleSource | None:
        if not self._options.log_rules:
            return None
        return RuleSource(
            api, observed, self.metrics, namespace=self._options.own_namespace, name=self._options.log_rules
        )

    def _ask_node(self, name: str) -> None:
        self.queue.add(("node", name))

    def tasks(self, group: asyncio.TaskGroup, sure: asyncio.Event) -> None:
        """Start workers and sources. The cache is seeded by now; `sure` is set while we may decide."""
        for kind, queue in self.queues.items():
            for _ in range(1 if kind in ("line", "check") else self._options.workers):
                group.create_task(self._work(queue, sure))
        self.intake.follow(group)
        loops: list[tuple[float, Callable[[], Awaitable[object]], str]] = [
            (sources.LOOK_SECONDS, self.looks.step, "checkpoints"),
            (sources.PROGRESS_SECONDS, self.progress.step, "progress"),
            (RANK_SECONDS, self.nodes.rank, "lemons"),
            (BOOK_SECONDS, self.books.book, "books"),
            (TELL_SECONDS, self.books.tell, "gauges"),
        ]
        if self.prometheus:
            loops.append((sources.PROMETHEUS_SECONDS, self.prometheus.step, "prometheus"))
        if self.rules:
            loops.append((RULE_SECONDS, self.rules.step, "log rules"))
        for seconds, step, name in loops:
            group.create_task(sources.every(seconds, step, name=name, metrics=self.metrics))
        for seconds, kinds in sources.RESYNCS.items():
            again = functools.partial(self.intake.resync, kinds)
            # The seed was the first round.
            group.create_task(sources.every(seconds, again, name="resync", metrics=self.metrics, first=seconds))
        self.intake.wake_all()

    async def _work(self, queue: WorkQueue[Key], sure: asyncio.Event) -> None:
        while True:
            await sure.wait()
            if queue is self.queues["job"]:
                await self.queues["node"].calm(NODES_FIRST_SECONDS)
            key = await queue.take()
            # One decision between two looks at the watches: many at once would keep the loop from hearing news.
            async with self._turn:
                await asyncio.sleep(0)
            kind, name = key
            try:
                with self.metrics.reconcile.labels(kind).time():
                    again = await self._look(kind, name)
                queue.forget(key)
                if again is not None:
                    queue.add(key, delay=again, patient=again >= PATIENT_SECONDS)
            except Exception as error:
                self._failed(key, error, queue.fail(key))
            finally:
                queue.done(key)

    async def _look(self, kind: str, name: str) -> float | None:
        match kind:
            case "job":
                return await self.jobs.reconcile(name)
            case "node":
                return await self.nodes.reconcile(name)
            case "check":
                return await self.checks.reconcile()
            case _:
                self.intake.wake_next()
                return None

    def _failed(self, key: Key, error: Exception, delay: float) -> None:
        self.metrics.failures.labels(key[0]).inc()
        known = isinstance(error, errors.ClusterError)
        log.log(
            logging.WARNING if known else logging.ERROR,
            "%s; again in %.1f s",
            error,
            delay,
            exc_info=None if known else error,
            extra={key[0]: key[1]},
        )

    def answered(self, there: bool) -> None:
        """Take in whether the API server answered a call."""
        self.world.contact = self.world.contact.heard(datetime.now(UTC), answered=there)

    def _alive(self) -> None:
        self.intake.followers["job"].heard = time.monotonic()

    async def watch(self) -> None:
        """Run kopf until SIGTERM."""
        namespaces = self._options.namespaces
        await kopf.operator(
            registry=watch.registry(self.intake.job, self._alive),
            settings=watch.settings(),
            clusterwide=not namespaces,
            namespaces=namespaces,
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
        served = await pages.serve(options.metrics_port, metrics.registry, _sick(operator.pulse))
        stack.push_async_callback(served.cleanup)
        await _lead(options, api, operator)


async def _lead(options: Options, api: gateway.Gateway, operator: Operator) -> None:
    """Take the lease, fill the cache, work, and give the lease back."""
    lease = Lease(
        api, namespace=options.own_namespace, identity=options.identity, pace=Pace(), answered=operator.answered
    )
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
