"""One look at one job: snapshot, plan, apply, one status write, then the events."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime

from internlm2_operator import plan as planning
from internlm2_operator.api.job import InternLM2Job
from internlm2_operator.api.status import JobStatus
from internlm2_operator.cluster import errors
from internlm2_operator.cluster.apply import Applier
from internlm2_operator.cluster.gateway import Gateway
from internlm2_operator.plan.actions import Announce, Plan
from internlm2_operator.runtime.metrics import Metrics
from internlm2_operator.runtime.observed import Observed
from internlm2_operator.runtime.world import World

log = logging.getLogger(__name__)


class JobReconciler:
    """Brings jobs to where `plan` wants them. Knows no rule about jobs itself."""

    def __init__(
        self,
        *,
        gateway: Gateway,
        world: World,
        observed: Observed,
        metrics: Metrics,
        ask_look: Callable[[str], None],
        ask_node: Callable[[str], None],
    ) -> None:
        self._gateway = gateway
        self._world = world
        self._observed = observed
        self._metrics = metrics
        self._ask_look = ask_look
        self._ask_node = ask_node
        self._applier = Applier(gateway, saw_pod=world.put_pod, lost_pod=world.drop_pod)

    async def reconcile(self, key: str) -> float | None:
        """Do what the plan says; returns the seconds after which to look again.

        Raises:
            ClusterError: a call failed; nothing is lost, the next look decides anew.
        """
        job = self._world.jobs.get(key)
        if job is None:
            self._observed.forget(key)
            return None
        if _needs_store(job) and self._observed.stale(job, self._world.pods(key)):
            # The look adds the key again when it is done.
            self._ask_look(key)
            return None
        now = datetime.now(UTC)
        decided = planning.plan(self._observed.snapshot(job, self._world), now)
        await self._carry_out(job, decided, now)
        return decided.requeue_seconds

    async def _carry_out(self, job: InternLM2Job, decided: Plan, now: datetime) -> None:
        for action in decided.actions:
            log.info("%s", action, extra={"job": job.key, "action": type(action).__name__})
            self._metrics.actions.labels(type(action).__name__).inc()
        try:
            await self._applier.apply(job, decided.actions)
        except errors.GiveUp as error:
            # The user has to know: a quota or an admission policy stands in the way, and nobody reads our log.
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
            written = await self._gateway.write_status(job.namespace, job.name, uid=job.uid, status=body)
        except errors.NotFound:
            return  # deleted a moment ago, and the watch is about to say so
        self._world.put_job(written)
        self._observed.written[job.key] = datetime.now(UTC)
        self._tell(job.status, status)

    def _tell(self, before: JobStatus, after: JobStatus) -> None:
        """Count faults and their arrows; a fault that names a node has that node judged."""
        known = {fault.id: fault for fault in before.faults}
        for fault in after.faults:
            old = known.get(fault.id)
            if old is None:
                self._metrics.faults.labels(fault.cause).inc()
                if fault.node:
                    self._ask_node(fault.node)
            if fault.times.closed and (old is None or old.times.closed is None):
                for arrow, seconds in fault.seconds.items():
                    self._metrics.arrows.labels(arrow).observe(seconds)


def _needs_store(job: InternLM2Job) -> bool:
    """Say whether the plan may depend on what the checkpoint store holds."""
    return not job.deleting and job.status.completion_time is None
