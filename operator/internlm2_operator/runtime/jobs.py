"""One look at one job: snapshot, plan, apply, one status write, then the events."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Final

from internlm2_operator import plan as planning
from internlm2_operator.api.job import InternLM2Job, refusal
from internlm2_operator.api.status import JobStatus
from internlm2_operator.cluster import errors
from internlm2_operator.cluster.apply import Applier
from internlm2_operator.cluster.gateway import Gateway
from internlm2_operator.manifests.pod import pod_name
from internlm2_operator.plan.actions import Announce, CreatePod, Plan, pending
from internlm2_operator.plan.snapshot import PodRecord, Refusal
from internlm2_operator.runtime.lines import Lines
from internlm2_operator.runtime.metrics import Metrics
from internlm2_operator.runtime.observed import Observed
from internlm2_operator.runtime.world import World
from internlm2_spec import bucket

# Of pods that all jobs make: the burst is one job of 1,250 and a few small ones; the rate is what an API server of a
# large cluster takes from one client beside its other work (JobSet: 290 pods/s in recovery).
BURST: Final = 2000.0
PER_SECOND: Final = 200.0
log = logging.getLogger(__name__)


class JobReconciler:
    """Brings jobs to where `plan` wants them. Knows no rule about jobs itself."""

    def __init__(
        self,
        *,
        gateway: Gateway,
        world: World,
        lines: Lines,
        observed: Observed,
        metrics: Metrics,
        ask_look: Callable[[str], None],
        ask_node: Callable[[str], None],
        ask_line: Callable[[], None],
        ask_checks: Callable[[float], None],
    ) -> None:
        self._gateway = gateway
        self._world = world
        self._lines = lines
        self._observed = observed
        self._metrics = metrics
        self._ask_look = ask_look
        self._ask_node = ask_node
        self._bucket = bucket.full(BURST, PER_SECOND, time.monotonic())
        self._ask_line = ask_line
        self._ask_checks = ask_checks
        self._applier = Applier(gateway, saw_pod=world.put_pod, lost_pod=world.drop_pod)

    async def reconcile(self, key: str) -> float | None:
        """Do what the plan says; returns the seconds after which to look again.

        Raises:
            ClusterError: a call failed; nothing is lost, the next look decides anew.
        """
        job = self._world.jobs.get(key)
        if job is None:
            self._observed.forget(key)
            await self._tell_refused(key)
            return None
        if _needs_store(job) and self._observed.stale(job, self._world):
            # The look adds the key again when it is done.
            self._ask_look(key)
            return None
        now, clock = datetime.now(UTC), time.monotonic()
        seen = self._observed.snapshot(job, self._world, self._lines, hold=self._bucket.hold(clock))
        decided = planning.plan(seen, now)
        # Taken before anything is awaited: another worker's plan must see neither the same tokens nor the same nodes.
        self._bucket = self._bucket.taken(sum(isinstance(a, CreatePod) for a in decided.actions), clock)
        claimed = self._world.claim(coming(job, decided, now), job.spec.nodes.resource_name)
        try:
            await self._carry_out(job, decided, now)
        except errors.PodRefused as error:
            # The next plan knows, and says it in the status.
            self._observed.refused[key] = Refusal(attempt=job.status.attempt, at=now, message=str(error))
            return 0.0
        finally:
            self._world.give_up(claimed)
            self._ask_line()
            if claimed or decided.status.node_check != job.status.node_check:
                self._ask_checks(0.0)
        return decided.requeue_seconds

    async def _tell_refused(self, key: str) -> None:
        """Write on a job that cannot be read that it is not acted on, and why."""
        if key not in self._world.refused:
            return
        raw, error = self._world.refused[key]
        told, meta = refusal(raw, error, datetime.now(UTC)), raw["metadata"]
        if told is None:
            return
        log.error("job cannot be read: %s", error, extra={"job": key})
        with contextlib.suppress(errors.NotFound):
            await self._gateway.patch_status(
                meta["namespace"], meta["name"], uid=meta["uid"], version=meta["resourceVersion"], part=told
            )

    async def _carry_out(self, job: InternLM2Job, decided: Plan, now: datetime) -> None:
        for action in decided.actions:
            log.info("%s", action, extra={"job": job.key, "action": type(action).__name__})
            self._metrics.actions.labels(type(action).__name__).inc()
        try:
            await self._applier.apply(job, decided.actions)
        except errors.PodRefused:
            raise
        except errors.GiveUp as error:
            # The user has to know: a right or an admission policy stands in the way, and nobody reads our log.
            told = Announce("ActionRefused", str(error), warning=True)
            await self._applier.announce(job, (told,), now)
            raise
        await self._write(job, decided.status)
        await self._applier.announce(job, decided.actions, now)

    async def _write(self, job: InternLM2Job, status: JobStatus) -> None:
        body = status.to_object()
        if body == job.status.to_object():
            return
        try:
            written = await self._gateway.write_status(
                job.namespace, job.name, uid=job.uid, version=job.resource_version, status=body
            )
        except errors.NotFound:
            return  # deleted a moment ago, and the watch is about to say so
        self._world.put_job(written)
        self._observed.written[job.key] = datetime.now(UTC)
        self._tell(job.status, status)

    def _tell(self, before: JobStatus, after: JobStatus) -> None:
        """Have the node judged that a new fault names."""
        known = {fault.id for fault in before.faults}
        for fault in after.faults:
            if fault.node and fault.id not in known:
                self._ask_node(fault.node)


def coming(job: InternLM2Job, decided: Plan, now: datetime) -> Iterator[PodRecord]:
    """The pods of a plan as they will be seen once they are made."""
    for action in decided.actions:
        if isinstance(action, CreatePod):
            yield pending(job, action, name=pod_name(job, action), uid="", created=now)


def _needs_store(job: InternLM2Job) -> bool:
    """Say whether the plan may depend on what the checkpoint store holds."""
    return not job.deleting and job.status.completion_time is None
