"""What the operator knows of the cluster: one cache, filled by LISTs, watches and our own writes.

An object only replaces an older one of the same uid, so it does not matter in which order a LIST,
a watch event and the answer to our own write arrive.
"""

from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from internlm2_operator.api.job import InternLM2Job
from internlm2_operator.cluster import records
from internlm2_operator.cluster.gateway import Listing
from internlm2_operator.cluster.records import NodeFacts, PodFacts
from internlm2_operator.plan.snapshot import NodeRecord, PodRecord

TOMBSTONES: Final = 10_000

Object = Mapping[str, Any]


@dataclass(slots=True)
class Versions:
    """Newest resourceVersion by uid, and which objects are gone for good."""

    newest: dict[str, int] = field(default_factory=dict)
    buried: OrderedDict[str, None] = field(default_factory=OrderedDict)

    def accept(self, raw: Object) -> bool:
        """Say whether `raw` is news, and remember that it was seen."""
        uid, version = raw["metadata"]["uid"], int(raw["metadata"]["resourceVersion"])
        if uid in self.buried or version <= self.newest.get(uid, -1):
            return False
        self.newest[uid] = version
        return True

    def bury(self, uid: str) -> None:
        """Never accept this object again: a late event must not bring it back to life."""
        self.newest.pop(uid, None)
        self.buried[uid] = None
        if len(self.buried) > TOMBSTONES:
            self.buried.popitem(last=False)


class World:
    """Jobs by `namespace/name`, their pods, all nodes, and what others hold on them."""

    def __init__(self) -> None:
        self.jobs: dict[str, InternLM2Job] = {}
        self._pods: dict[str, dict[str, PodFacts]] = defaultdict(dict)  # by job key, then by uid
        self._nodes: dict[str, NodeFacts] = {}
        self._foreign: Mapping[tuple[str, str], int] = {}  # by node and resource
        self._versions = Versions()
        self._uids: dict[str, str] = {}  # of jobs and nodes, by key

    # Putting in

    def put_job(self, raw: Object) -> bool:
        """Take a job; True when it was news.

        Raises:
            Refused: the object does not fit this version of the API.
        """
        if not self._versions.accept(raw):
            return False
        job = InternLM2Job.from_object(raw)
        self.jobs[job.key] = job
        self._uids[job.key] = job.uid
        return True

    def drop_job(self, key: str, uid: str) -> None:
        self._versions.bury(uid)
        if self._uids.get(key) == uid:
            self.jobs.pop(key, None)

    def put_pod(self, raw: Object) -> bool:
        if not self._versions.accept(raw):
            return False
        facts = records.pod(raw)
        if facts is None:
            return False
        self._pods[_job_key(facts.record)][facts.record.uid] = facts
        return True

    def drop_pod(self, key: str, uid: str) -> None:
        self._versions.bury(uid)
        self._pods.get(key, {}).pop(uid, None)
        if not self._pods.get(key, True):
            del self._pods[key]

    def put_node(self, raw: Object) -> bool:
        if not self._versions.accept(raw):
            return False
        facts = records.node(raw)
        self._nodes[facts.record.name] = facts
        self._uids[f"node {facts.record.name}"] = raw["metadata"]["uid"]
        return True

    def drop_node(self, name: str, uid: str) -> None:
        self._versions.bury(uid)
        if self._uids.get(f"node {name}") == uid:
            self._nodes.pop(name, None)

    def put_foreign(self, held: Mapping[tuple[str, str], int]) -> bool:
        """Take what pods of others hold, by node and resource; True when it changed."""
        changed = held != self._foreign
        self._foreign = held
        return changed

    def absent_jobs(self, listing: Listing) -> list[InternLM2Job]:
        """Return the jobs that a LIST would hold if they still existed."""
        gone = self._absent((job.uid for job in self.jobs.values()), listing)
        return [job for job in self.jobs.values() if job.uid in gone]

    def absent_pods(self, listing: Listing) -> list[PodRecord]:
        """Return the pods that a LIST would hold if they still existed."""
        gone = self._absent((pod.uid for pod in self.all_pods()), listing)
        return [pod for pod in self.all_pods() if pod.uid in gone]

    def _absent(self, known: Iterable[str], listing: Listing) -> set[str]:
        there = {raw["metadata"]["uid"] for raw in listing.items}
        # What is newer than the LIST was made after it.
        return {uid for uid in known if uid not in there and self._versions.newest.get(uid, 0) <= listing.version}

    def absent_nodes(self, listing: Listing) -> list[tuple[str, str]]:
        """Return name and uid of the nodes that a LIST would hold if they still existed."""
        known = {self._uids[f"node {name}"]: name for name in self._nodes}
        return [(known[uid], uid) for uid in self._absent(known, listing)]

    # Taking out

    def pods(self, key: str) -> tuple[PodRecord, ...]:
        return tuple(sorted((f.record for f in self._pods.get(key, {}).values()), key=lambda p: p.name))

    def all_pods(self) -> list[PodRecord]:
        return [facts.record for pods in self._pods.values() for facts in pods.values()]

    def pods_on(self, node: str) -> list[PodRecord]:
        return [pod for pod in self.all_pods() if pod.node == node]

    def nodes(self, resource: str) -> tuple[NodeRecord, ...]:
        """Return the nodes as a job that asks for `resource` sees them, pods of everybody counted."""
        used: dict[str, int] = defaultdict(int)
        for (node, key), amount in self._foreign.items():
            used[node] += amount if key == resource else 0
        for pods in self._pods.values():
            for facts in pods.values():
                if facts.record.node:
                    used[facts.record.node] += facts.requests.get(resource, 0)
        return tuple(
            replace(facts.record, gpus=facts.allocatable.get(resource, 0), used=used[name])
            for name, facts in sorted(self._nodes.items())
        )

    def node(self, name: str) -> NodeRecord | None:
        facts = self._nodes.get(name)
        return facts.record if facts else None

    def plain_nodes(self) -> tuple[NodeRecord, ...]:
        """Return the nodes without their GPUs, for decisions about health."""
        return tuple(facts.record for facts in self._nodes.values())

    def jobs_of_node(self, node: str) -> set[str]:
        """Return the jobs that have a pod on a node, or had one when a fault that is still open struck it.

        The pod of a dead node is removed within milliseconds, often before the node is judged.
        """
        return {_job_key(pod) for pod in self.pods_on(node)} | {
            key
            for key, job in self.jobs.items()
            for fault in job.status.faults
            if fault.node == node and fault.times.closed is None
        }


def _job_key(pod: PodRecord) -> str:
    return f"{pod.namespace}/{pod.job}"
