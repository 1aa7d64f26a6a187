"""News from the cluster: into the cache, and onto the queue as the keys that it concerns."""

import logging
import time
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Final

from internlm2_operator.cluster import records
from internlm2_operator.cluster.gateway import Gateway, Listing
from internlm2_operator.plan.snapshot import NodeRecord, PodPhase
from internlm2_operator.runtime.metrics import Metrics
from internlm2_operator.runtime.queue import WorkQueue
from internlm2_operator.runtime.server import Pulse
from internlm2_operator.runtime.world import World
from internlm2_spec import contract
from internlm2_spec.config import Refused

Key = tuple[str, str]
"""("job", "namespace/name") or ("node", name)."""

DELETED: Final = "DELETED"
DEAF_SECONDS: Final = 60.0
_ENDED: Final = (PodPhase.SUCCEEDED, PodPhase.FAILED)
log = logging.getLogger(__name__)


class Intake:
    """The sinks of the watches, and the LISTs that seed the cache and keep the watches honest."""

    def __init__(
        self, *, gateway: Gateway, world: World, queue: WorkQueue[Key], metrics: Metrics, pulse: Pulse, namespace: str
    ) -> None:
        self._gateway = gateway
        self._world = world
        self._queue = queue
        self._metrics = metrics
        self._pulse = pulse
        self._namespace = namespace
        self.heard: dict[str, float] = {}  # when each watch last brought something, in monotonic seconds

    # Sinks

    def job(self, kind: str, raw: dict[str, Any]) -> bool:
        """Take a job; True when it was news."""
        key = f"{raw['metadata']['namespace']}/{raw['metadata']['name']}"
        if not self._mine(raw):
            return False
        if kind == DELETED:
            self._world.drop_job(key, raw["metadata"]["uid"])
            self._wake_waiting()
        elif not self._put_job(raw):
            return False
        self._queue.add(("job", key))
        return True

    def pod(self, kind: str, raw: dict[str, Any]) -> bool:
        if not self._mine(raw):
            return False
        key = f"{raw['metadata']['namespace']}/{raw['metadata']['labels'].get(contract.LABEL_JOB, '')}"
        if kind == DELETED:
            self._world.drop_pod(key, raw["metadata"]["uid"])
            # Its GPUs are free: a job that waits for them may start.
            self._wake_waiting()
        elif not self._world.put_pod(raw):
            return False
        self._queue.add(("job", key))
        self._suspect(raw)
        return True

    def node(self, kind: str, raw: dict[str, Any]) -> bool:
        name = raw["metadata"]["name"]
        before = self._world.node(name)
        if kind == DELETED:
            self._world.drop_node(name, raw["metadata"]["uid"])
        elif not self._world.put_node(raw):
            return False
        if _differs(before, self._world.node(name)):
            # The node is judged first; that wakes its jobs.
            self._queue.add(("node", name))
            self._wake_waiting()
        return True

    # Wakers

    def wake_jobs_on(self, node: str) -> None:
        for key in self._world.jobs_of_node(node):
            self._queue.add(("job", key))

    def wake_all(self) -> None:
        for key in self._world.jobs:
            self._queue.add(("job", key))
        for node in self._world.plain_nodes():
            self._queue.add(("node", node.name))

    def _wake_waiting(self) -> None:
        """Look at the jobs that have no pods: room may have become free."""
        for key, job in self._world.jobs.items():
            if job.status.completion_time is None and not self._world.pods(key):
                self._queue.add(("job", key))

    def _suspect(self, raw: dict[str, Any]) -> None:
        node = records.node_of(raw)
        if node and raw.get("status", {}).get("phase") in _ENDED:
            self._queue.add(("node", node))

    # LISTs

    async def seed(self) -> None:
        """Fill the cache before the first decision: deciding on an empty one creates what is there already.

        Raises:
            ClusterError: a LIST failed.
        """
        await self._foreign()
        for raw in (await self._gateway.nodes()).items:
            self._world.put_node(raw)
        for raw in (await self._gateway.job_pods(self._namespace)).items:
            self._world.put_pod(raw)
        for raw in (await self._gateway.jobs(self._namespace)).items:
            self._put_job(raw)
        self._pulse.looked = time.monotonic()
        self.heard = dict.fromkeys(("job", "pod", "node"), time.monotonic())

    async def foreign(self) -> None:
        """LIST what pods of others hold.

        Raises:
            ClusterError: the LIST failed.
        """
        try:
            await self._foreign()
        finally:
            self._pulse.looked = time.monotonic()

    async def resync(self) -> None:
        """LIST what the watches should have told already; what they missed is repaired and counted.

        Raises:
            ClusterError: a LIST failed.
        """
        jobs, pods = await self._gateway.jobs(self._namespace), await self._gateway.job_pods(self._namespace)
        nodes = await self._gateway.nodes()
        repaired = {
            "job": sum(self.job("", raw) for raw in jobs.items),
            "pod": sum(self.pod("", raw) for raw in pods.items),
            "node": sum(self.node("", raw) for raw in nodes.items),
        }
        self._metrics.resync_repairs.inc(sum(repaired.values()) + self._bury(jobs, pods, nodes))
        self._judge_watches(repaired, time.monotonic())

    def _judge_watches(self, repaired: Mapping[str, int], now: float) -> None:
        """A LIST may overtake an event; a watch is blind when LISTs find news and it has long been silent."""
        blind = any(count and now - self.heard.get(kind, now) > DEAF_SECONDS for kind, count in repaired.items())
        if not blind:
            self._pulse.blind_since = None
        elif self._pulse.blind_since is None:
            self._pulse.blind_since = now

    def _bury(self, jobs: Listing, pods: Listing, nodes: Listing) -> int:
        """Drop what a LIST no longer holds: a watch that had to start anew does not tell what went meanwhile."""
        gone_jobs, gone_pods = self._world.absent_jobs(jobs), self._world.absent_pods(pods)
        gone_nodes = self._world.absent_nodes(nodes)
        for job in gone_jobs:
            self._world.drop_job(job.key, job.uid)
            self._queue.add(("job", job.key))
        for pod in gone_pods:
            self._world.drop_pod(f"{pod.namespace}/{pod.job}", pod.uid)
            self._queue.add(("job", f"{pod.namespace}/{pod.job}"))
        for name, uid in gone_nodes:
            self._world.drop_node(name, uid)
            self.wake_jobs_on(name)
        return len(gone_jobs) + len(gone_pods) + len(gone_nodes)

    async def _foreign(self) -> None:
        held: dict[tuple[str, str], int] = defaultdict(int)
        async for page in self._gateway.foreign_pods():
            for raw in page.get("items") or ():
                for resource, amount in records.requested(raw).items():
                    held[raw["spec"]["nodeName"], resource] += amount
        if self._world.put_foreign(dict(held)):
            self._wake_waiting()

    def _put_job(self, raw: dict[str, Any]) -> bool:
        try:
            return self._world.put_job(raw)
        except Refused as error:
            # Stored before this version's schema, or the CRD is older than the operator.
            log.error("job is not readable: %s", error, extra={"job": raw["metadata"]["name"]})
            return False

    def _mine(self, raw: dict[str, Any]) -> bool:
        return not self._namespace or raw["metadata"]["namespace"] == self._namespace


def _differs(before: NodeRecord | None, after: NodeRecord | None) -> bool:
    """Nodes report every few seconds; only some fields matter to anybody."""
    if before is None or after is None:
        return before is not after
    return (before.ready, before.schedulable, before.fault) != (after.ready, after.schedulable, after.fault)
