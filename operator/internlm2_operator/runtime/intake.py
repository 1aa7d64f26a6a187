"""News from the cluster: into the cache, and onto the queue as the keys that it concerns."""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

from internlm2_operator.api.spec import MANAGER
from internlm2_operator.cluster import gateway, records
from internlm2_operator.cluster.gateway import Census, Gateway, Kind
from internlm2_operator.plan.check_gate import asked
from internlm2_operator.plan.snapshot import ENDED, NodeRecord
from internlm2_operator.runtime.follow import Follower
from internlm2_operator.runtime.lines import SETTLE_SECONDS, Lines
from internlm2_operator.runtime.metrics import Metrics
from internlm2_operator.runtime.queue import Asks
from internlm2_operator.runtime.server import Pulse
from internlm2_operator.runtime.world import World
from internlm2_spec import contract

Key = tuple[str, str]
"""("job", "namespace/name"), ("node", name), LINE or CHECKS."""

LINE: Final[Key] = ("line", "")
CHECKS: Final[Key] = ("check", "")

DELETED: Final = "DELETED"
DEAF_SECONDS: Final = 90.0
# Suspects are no hurry, and each look goes over all nodes.
CHECK_SECONDS: Final = 1.0
log = logging.getLogger(__name__)


class Intake:
    """The sinks of the watches, and the LISTs that seed the cache and keep the watches honest."""

    def __init__(
        self,
        *,
        gateway: Gateway,
        world: World,
        lines: Lines,
        queue: Asks[Key],
        metrics: Metrics,
        pulse: Pulse,
        namespaces: Collection[str],
        own_namespace: str,
    ) -> None:
        self._world = world
        self._lines = lines
        self._queue = queue
        self._metrics = metrics
        self._pulse = pulse
        self._namespaces = frozenset(namespaces)
        self._own = own_namespace
        self._blind: set[str] = set()
        self.followers = self._followers(gateway)
        for kind, follower in self.followers.items():
            metrics.watch_age.labels(kind).set_function(follower.silence)

    def _followers(self, api: Gateway) -> dict[str, Follower]:
        """One for each kind. Jobs come by kopf's watch; theirs only lists."""

        def ours(kind: Callable[[str], Kind]) -> tuple[Kind, ...]:
            return tuple(kind(namespace) for namespace in sorted(self._namespaces) or ("",))

        return {
            "quota": Follower(api, *ours(gateway.quotas_of), take=self.quota, bury=self._bury_quotas),
            "node": Follower(api, gateway.NODES, take=self.node, bury=self._bury_nodes),
            "check": Follower(api, gateway.checks_of(self._own), take=self.check, bury=self._bury_checks),
            "foreign": Follower(api, gateway.FOREIGN_PODS, take=self.foreign, bury=self._bury_foreign),
            "pod": Follower(api, *ours(gateway.pods_of), take=self.pod, bury=self._bury_pods),
            "job": Follower(api, *ours(gateway.jobs_of), take=self.job, bury=self._bury_jobs),
        }

    # Sinks

    def job(self, kind: str, raw: dict[str, Any]) -> bool:
        """Take a job; True when it was news."""
        key = f"{raw['metadata']['namespace']}/{raw['metadata']['name']}"
        if not self._mine(raw):
            return False
        if kind == DELETED:
            self._world.drop_job(key, raw["metadata"]["uid"])
        elif not self._put_job(raw):
            return False
        self._queue.add(("job", key))
        self.wake_line()
        return True

    def pod(self, kind: str, raw: dict[str, Any]) -> bool:
        if not self._mine(raw):
            return False
        key = f"{raw['metadata']['namespace']}/{raw['metadata']['labels'].get(contract.LABEL_JOB, '')}"
        if kind == DELETED:
            self._world.drop_pod(key, raw["metadata"]["uid"])
        elif not self._world.put_pod(raw):
            return False
        self._queue.add(("job", key))
        self.wake_line()
        self._make_way()
        self._suspect(raw)
        return True

    def foreign(self, kind: str, raw: dict[str, Any]) -> bool:
        """Take a pod of others; one that has ended or left its node comes as deleted."""
        if kind == DELETED:
            changed = self._world.drop_foreign_pod(raw["metadata"]["uid"])
        else:
            changed = self._world.put_foreign_pod(raw)
        if changed:
            self.wake_line()
            self._make_way()
        return changed

    def check(self, kind: str, raw: dict[str, Any]) -> bool:
        """Take a pod of a node check: a job may wait for it."""
        if kind == DELETED:
            self._world.drop_check(raw["metadata"]["uid"])
        elif not self._world.put_check(raw):
            return False
        self.wake_checks(SETTLE_SECONDS)
        self.wake_waiting()
        return True

    def quota(self, kind: str, raw: dict[str, Any]) -> bool:
        """Take a ResourceQuota: there are few, and they change with every pod of their namespace."""
        changed = self._world.drop_quota(raw["metadata"]["uid"]) if kind == DELETED else self._world.put_quota(raw)
        if changed:
            self.wake_line()
        return changed

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
            self.wake_line()
            self.wake_checks()
        return True

    # Wakers

    def wake_jobs_on(self, node: str) -> None:
        for key in self._world.jobs_of_node(node):
            self._queue.add(("job", key))
        self.wake_checks()

    def wake_all(self) -> None:
        for key in (*self._world.jobs, *self._world.refused):
            self._queue.add(("job", key))
        for node in self._world.plain_nodes():
            self._queue.add(("node", node.name))
        self.wake_checks()

    def wake_checks(self, delay: float = CHECK_SECONDS) -> None:
        """Look at the node checks soon: a node or a job may want one, or one is in the way of a pod."""
        if self._world.checks is not None and (self._world.checks.on or self._world.checks.pods):
            self._queue.add(CHECKS, delay=delay)

    def wake_waiting(self) -> None:
        """Look at the jobs that wait for a check."""
        for job in self._world.jobs.values():
            if asked(job) is not None:
                self._queue.add(("job", job.key))

    def wake_line(self) -> None:
        """Look at the queues soon: a job may have joined, and room may have become free."""
        self._queue.add(LINE, delay=SETTLE_SECONDS)

    def wake_next(self) -> None:
        """Look at the jobs whose turn it is."""
        for key in self._lines.to_act():
            self._queue.add(("job", key))

    def _make_way(self) -> None:
        """Look whether a check is in the way of a pod that came."""
        if self._world.checks is not None and self._world.checks.pods:
            self.wake_checks(SETTLE_SECONDS)

    def _suspect(self, raw: dict[str, Any]) -> None:
        node = records.node_of(raw)
        if node and raw.get("status", {}).get("phase") in ENDED:
            self._queue.add(("node", node))

    # LISTs and watches

    async def seed(self) -> None:
        """Fill the cache before the first decision: deciding on an empty one creates what is there already.

        Raises:
            ClusterError: a LIST failed; calling again is safe.
        """
        for follower in self.followers.values():
            await follower.list()
            follower.heard = self._pulse.looked = time.monotonic()

    def follow(self, group: asyncio.TaskGroup) -> None:
        """Start the watches of pods, nodes and quotas, from where `seed` ended."""
        for kind, follower in self.followers.items():
            if kind != "job":
                group.create_task(follower.run(), name=f"watch {kind}")

    async def resync(self, kinds: Sequence[str]) -> None:
        """LIST what the watches should have told already; what they missed is repaired and counted.

        Raises:
            ClusterError: a LIST failed.
        """
        try:
            for kind in kinds:
                repaired = await self.followers[kind].list()
                self._metrics.resync_repairs.inc(repaired)
                self._judge_watch(kind, repaired, time.monotonic())
        finally:
            self._pulse.looked = time.monotonic()

    def _judge_watch(self, kind: str, repaired: int, now: float) -> None:
        """A LIST may overtake an event; a watch is blind when LISTs find news and it has long been silent."""
        if repaired and now - self.followers[kind].heard > DEAF_SECONDS:
            self._blind.add(kind)
        else:
            self._blind.discard(kind)
        if not self._blind:
            self._pulse.blind_since = None
        elif self._pulse.blind_since is None:
            self._pulse.blind_since = now

    # What is gone: a watch that had to begin anew does not tell what went meanwhile

    def _bury_jobs(self, listing: Census) -> int:
        gone = self._world.absent_jobs(listing)
        for job in gone:
            self._world.drop_job(job.key, job.uid)
            self._queue.add(("job", job.key))
            self.wake_line()
        return len(gone)

    def _bury_pods(self, listing: Census) -> int:
        gone = self._world.absent_pods(listing)
        for pod in gone:
            self._world.drop_pod(f"{pod.namespace}/{pod.job}", pod.uid)
            self._queue.add(("job", f"{pod.namespace}/{pod.job}"))
            self.wake_line()
        return len(gone)

    def _bury_nodes(self, listing: Census) -> int:
        gone = self._world.absent_nodes(listing)
        for name, uid in gone:
            self._world.drop_node(name, uid)
            self.wake_jobs_on(name)
            self.wake_line()
        return len(gone)

    def _bury_foreign(self, listing: Census) -> int:
        gone = self._world.absent_foreign_pods(listing)
        for uid in gone:
            self._world.drop_foreign_pod(uid)
            self.wake_line()
        return len(gone)

    def _bury_checks(self, listing: Census) -> int:
        gone = self._world.absent_checks(listing)
        for uid in gone:
            self._world.drop_check(uid)
            self.wake_checks()
        return len(gone)

    def _bury_quotas(self, listing: Census) -> int:
        gone = self._world.absent_quotas(listing)
        for uid in gone:
            self._world.drop_quota(uid)
            self.wake_line()
        return len(gone)

    def _put_job(self, raw: dict[str, Any]) -> bool:
        if raw["spec"].get("managedBy", MANAGER) != MANAGER:
            return False  # another controller's: not looked at, not placed, not written to
        return self._world.put_job(raw)

    def _mine(self, raw: dict[str, Any]) -> bool:
        return not self._namespaces or raw["metadata"]["namespace"] in self._namespaces


_TELLING: Final = ("ready", "unschedulable", "taints", "fault", "health", "check", "held", "notice", "reset")


def _differs(before: NodeRecord | None, after: NodeRecord | None) -> bool:
    """Nodes report every few seconds; only some fields matter to anybody."""
    if before is None or after is None:
        return before is not after
    return any(getattr(before, name) != getattr(after, name) for name in _TELLING)
