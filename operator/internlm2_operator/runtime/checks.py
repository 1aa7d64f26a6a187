"""One look at the node checks of the whole cluster: which pods there are, which should be, what they found out."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from itertools import chain
from typing import Final

from internlm2_operator.cluster import errors
from internlm2_operator.cluster.gateway import Gateway
from internlm2_operator.manifests.check_pod import check_pod, check_pod_name
from internlm2_operator.manifests.node import checked_patch
from internlm2_operator.plan.check import Check, MakePod, RemovePod, Seen, Step, WriteNote, decide
from internlm2_operator.plan.check_gate import asked
from internlm2_operator.plan.snapshot import CheckPod
from internlm2_operator.plan.suspects import suspects
from internlm2_operator.runtime.metrics import Metrics
from internlm2_operator.runtime.world import World

AT_ONCE: Final = 32  # calls in flight
# While something is under way that the clock may end, and while a suspect waits for its node to be free.
LOOK_SECONDS: Final = 5.0
SOON_SECONDS: Final = 1.0  # nothing begins while something goes
SUSPECT_SECONDS: Final = 30.0
FIELD_MANAGER: Final = "internlm2-operator-check"
log = logging.getLogger(__name__)


class CheckReconciler:
    """Makes and removes the pods of checks in `namespace`, the operator's own, and writes down what they found.

    `image` holds the trainer; without one no check begins. `resource` is the GPU resource of suspects; for a job's
    nodes it is the job's.
    """

    def __init__(
        self,
        *,
        gateway: Gateway,
        world: World,
        namespace: str,
        image: str,
        resource: str,
        metrics: Metrics,
        ask_node: Callable[[str], None],
        wake_jobs: Callable[[], None],
    ) -> None:
        self._gateway = gateway
        self._world = world
        self._namespace = namespace
        self._image = image
        self._resource = resource
        self._metrics = metrics
        self._ask_node = ask_node
        self._wake_jobs = wake_jobs  # those that wait for a check
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def reconcile(self) -> float | None:
        """Do what is to be done; returns the seconds after which to look again.

        Raises:
            ClusterError: a call failed; nothing is lost, the next look decides anew.
        """
        now = datetime.now(UTC)
        waiting = [self._seen(resource, now) for resource in self._resources()]
        steps = list(chain.from_iterable(decide(seen, now) for seen in waiting))
        done = await asyncio.gather(*(self._one(step) for step in steps), return_exceptions=True)
        failures = [outcome for outcome in done if isinstance(outcome, BaseException)]
        if failures:
            raise failures[0]
        if any(isinstance(step, RemovePod) for step in steps):
            return SOON_SECONDS
        if self._pods():
            return LOOK_SECONDS
        return SUSPECT_SECONDS if any(seen.suspects or seen.asked for seen in waiting) else None

    def _resources(self) -> Iterable[str]:
        """Return the GPU resources of which something is checked, or is to be."""
        wanted = (job.spec.nodes.resource_name for job in self._world.jobs.values() if asked(job) is not None)
        checks = (Check.from_json(pod.members) for pod in self._pods())
        return dict.fromkeys((self._resource, *wanted, *(check.resource for check in checks if check is not None)))

    def _seen(self, resource: str, now: datetime) -> Seen:
        nodes, pods = self._world.nodes(resource), self._pods()
        if not self._image:
            return Seen(resource, nodes, pods)
        jobs = self._world.jobs.values()
        waiting = tuple(a for job in jobs if job.spec.nodes.resource_name == resource and (a := asked(job)) is not None)
        faults = (fault for job in jobs for fault in job.status.faults)
        slow = (one for job in jobs for one in job.status.stragglers)
        blamed = suspects(nodes.values(), faults, slow, now) if resource == self._resource else ()
        return Seen(resource, nodes, pods, waiting, blamed)

    def _pods(self) -> tuple[CheckPod, ...]:
        return self._world.checks.pods if self._world.checks else ()

    async def _one(self, step: Step) -> None:
        async with self._slots:
            match step:
                case MakePod():
                    await self._make(step)
                case RemovePod():
                    await self._remove(step)
                case WriteNote(node=node, note=note):
                    patch = checked_patch(node, note)
                    self._world.put_node(await self._gateway.apply_node(patch, manager=FIELD_MANAGER))
                    self._ask_node(node)
                    self._wake_jobs()
                    word = "passed" if note.passed else "failed"
                    self._metrics.node_checks.labels(word).inc()
                    log.info("node check %s: %s", word, "; ".join(note.evidence), extra={"node": node})

    async def _make(self, member: MakePod) -> None:
        body = check_pod(member, namespace=self._namespace, image=self._image)
        try:
            self._world.put_check(await self._gateway.create_pod(body))
        except errors.PodRefused as error:
            # The wait of a job is bounded, and a suspect is tried again.
            log.warning("node check is not let in: %s", error, extra={"node": member.node})
            return
        name = check_pod_name(member)
        log.info("node check %s: %s", name, member.check.why, extra={"node": member.node})

    async def _remove(self, gone: RemovePod) -> None:
        left = await self._gateway.delete_pod(
            self._namespace, gone.name, uid=gone.uid, grace_seconds=None, force=gone.force
        )
        if left is None:
            self._world.drop_check(gone.uid)
        else:
            self._world.put_check(left)
