"""What the operator knows of the cluster: one cache, filled by LISTs, watches and our own writes.

An object only replaces an older one of the same uid, so it does not matter in which order a LIST,
a watch event and the answer to our own write arrive.
"""

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

from internlm2_operator.api.job import InternLM2Job
from internlm2_operator.cluster import records
from internlm2_operator.cluster.check_records import check_pod, is_check
from internlm2_operator.cluster.gateway import Census
from internlm2_operator.cluster.records import PodFacts, QuotaFacts
from internlm2_operator.health.contact import Contact
from internlm2_operator.plan.queue import Quota
from internlm2_operator.plan.snapshot import ENDED, CheckPod, CheckView, NodeRecord, PodRecord
from internlm2_operator.runtime.room import Room
from internlm2_operator.runtime.unwell import Unwell
from internlm2_spec.config import Refused

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


ENDS_KEPT: Final = 64  # of one node


class World:
    """Jobs by `namespace/name`, their pods, all nodes, and what others hold on them.

    Everything that is asked for more than once in a reconcile is an index, kept up to date as objects change.
    """

    def __init__(self, *, own_namespace: str = "", checks: CheckView | None = None) -> None:
        """Pods of node checks are those in the operator's `own_namespace`; without `checks` nothing is known of any."""
        self.jobs: dict[str, InternLM2Job] = {}
        self.refused: dict[str, tuple[Object, Refused]] = {}  # jobs that cannot be read, and why
        self._pods: dict[str, dict[str, PodFacts]] = defaultdict(dict)  # by job key, then by uid
        self._ends: dict[str, dict[str, PodRecord]] = defaultdict(dict)  # by node, then by uid, in the order seen
        self._lost = Counter[str]()  # by job key: pods that went before their end was seen
        self._on: dict[str, dict[str, PodRecord]] = defaultdict(dict)  # by node, then by uid
        self._struck: dict[str, set[str]] = defaultdict(set)  # by node: keys of jobs with a fault there still open
        self._claims: dict[str, dict[str, PodFacts]] = {}  # pods on their way to the API server: by job, then name
        self._foreign: set[str] = set()  # uids of pods of others that hold something
        self.checks = checks
        self._own_namespace = own_namespace
        self._checks: dict[str, CheckPod] = {}  # by uid
        # The same pods come by another watch too, as pods of somebody else.
        self._check_versions = Versions()
        self._quotas: dict[str, QuotaFacts] = {}  # by uid
        self._quota_version = 0
        self._room = Room()
        self.unwell = Unwell()
        self.contact = Contact()
        # By node: the silence, by its beginning, that is doubted for longer, and until when.
        self._excused: dict[str, tuple[datetime, datetime]] = {}
        self._touched: set[str] = set()
        self._versions = Versions()
        self._uids: dict[str, str] = {}  # of jobs and nodes, by key

    # Putting in

    def put_job(self, raw: Object) -> bool:
        """Take a job; True when it was news.

        One whose spec this version cannot read goes on with the last that it could, or else waits among `refused`.
        """
        if not self._versions.accept(raw):
            return False
        key, uid = _key(raw), raw["metadata"]["uid"]
        before = self.jobs.get(key)
        self.refused.pop(key, None)
        try:
            self.jobs[key] = InternLM2Job.from_object(raw)
        except Refused as error:
            held = self.jobs.get(key)
            if held is None or held.uid != uid:
                self.jobs.pop(key, None)
                self.refused[key] = (raw, error)
            else:
                self.jobs[key] = held.going_on(raw, error)
        self._strike(key, before)
        self._uids[key] = uid
        self._touched.add(key)
        return True

    def drop_job(self, key: str, uid: str) -> None:
        self._versions.bury(uid)
        if self._uids.get(key) == uid:
            gone = self.jobs.pop(key, None)
            self._strike(key, gone)
            self.refused.pop(key, None)
            self._lost.pop(key, None)
            self._touched.add(key)

    def put_pod(self, raw: Object) -> bool:
        """Take a pod of ours; True when something that decisions read has changed."""
        if not self._versions.accept(raw):
            return False
        facts = records.pod(raw)
        if facts is None:
            return False
        key, uid = _job_key(facts.record), facts.record.uid
        before = self._pods.get(key, {}).get(uid)
        if before == facts:
            return False
        self._take_off(before)
        self._put_on(facts)
        self._pods[key][uid] = facts
        self._unclaim(key, facts.record.name)
        self._room.hold(facts.record.uid, facts.record.node, facts.requests)
        self._touched.add(key)
        return True

    def drop_pod(self, key: str, uid: str) -> None:
        self._versions.bury(uid)
        gone = self._pods.get(key, {}).pop(uid, None)
        self._take_off(gone)
        self._lost[key] += gone is not None and gone.record.phase not in ENDED
        self._room.release(uid)
        self._touched.add(key)
        if not self._pods.get(key, True):
            del self._pods[key]

    def put_node(self, raw: Object) -> bool:
        """Take a node; True when something that decisions read has changed: a heartbeat is not."""
        if not self._versions.accept(raw):
            return False
        facts = records.node(raw)
        if not facts.record.ready and not facts.record.says_no:
            facts = replace(facts, record=replace(facts.record, excused=self._excuse_of(facts.record)))
        self._uids[f"node {facts.record.name}"] = raw["metadata"]["uid"]
        changed = self._room.put_node(facts)
        if changed:
            self.unwell.put(facts.record)
        return changed

    def excuse(self, node: NodeRecord, until: datetime) -> None:
        """Doubt until then that a node is lost, however silent."""
        self._excused[node.name] = (node.ready_since, until)
        if (doubted := self._room.excuse(node.name, until)) is not None:
            self.unwell.put(doubted)

    def _excuse_of(self, node: NodeRecord) -> datetime | None:
        since, until = self._excused.get(node.name, (None, None))
        return until if since == node.ready_since else self.contact.excuses(node.ready_since)

    def drop_node(self, name: str, uid: str) -> None:
        self._versions.bury(uid)
        if self._uids.get(f"node {name}") == uid:
            self._room.drop_node(name)
            self.unwell.drop(name)
            self._excused.pop(name, None)
            self._ends.pop(name, None)

    def put_foreign_pod(self, raw: Object) -> bool:
        """Take a pod of others; True when what it holds of a node has changed. Most pods hold no device."""
        if is_check(raw, self._own_namespace) or not self._versions.accept(raw):
            return False
        before, uid = self._room.version, raw["metadata"]["uid"]
        self._room.hold(uid, records.node_of(raw), records.requested(raw))
        if self._room.holds(uid):
            self._foreign.add(uid)
        return self._room.version != before

    def drop_foreign_pod(self, uid: str) -> bool:
        """Forget a pod of others; True when it held something."""
        self._versions.bury(uid)
        before = self._room.version
        self._room.release(uid)
        self._foreign.discard(uid)
        return self._room.version != before

    def put_check(self, raw: Object) -> bool:
        """Take a pod of a node check; True when something that decisions read has changed.

        What it holds of its node is not counted: it goes where somebody else comes.
        """
        if self.checks is None or not self._check_versions.accept(raw):
            return False
        found = check_pod(raw, self._own_namespace)
        if found is None or self._checks.get(found.uid) == found:
            return False
        self._checks[found.uid] = found
        self.checks = replace(self.checks, pods=tuple(self._checks.values()))
        return True

    def drop_check(self, uid: str) -> None:
        self._check_versions.bury(uid)
        if self._checks.pop(uid, None) is not None and self.checks is not None:
            self.checks = replace(self.checks, pods=tuple(self._checks.values()))

    def put_quota(self, raw: Object) -> bool:
        """Take a quota; True when what it leaves has changed."""
        if not self._versions.accept(raw):
            return False
        uid, facts = raw["metadata"]["uid"], records.quota(raw)
        if facts is None or self._quotas.get(uid) == facts:
            return False
        self._quotas[uid] = facts
        self._quota_version += 1
        return True

    def drop_quota(self, uid: str) -> bool:
        """Forget a quota; True when it was known."""
        self._versions.bury(uid)
        known = self._quotas.pop(uid, None) is not None
        self._quota_version += known
        return known

    def claim(self, pods: Iterable[PodRecord], resource: str) -> list[PodRecord]:
        """Count pods that are about to be made as if they were there, so that nobody else takes their nodes."""
        claimed = list(pods)
        for pod in claimed:
            key = _job_key(pod)
            facts = self._claims.setdefault(key, {})[pod.name] = PodFacts(pod, {resource: pod.gpus})
            self._room.hold(_claimant(key, pod.name), pod.node, facts.requests)
            self._touched.add(key)
        return claimed

    def give_up(self, claimed: Iterable[PodRecord]) -> None:
        """Forget claims; those whose pods were seen are gone already."""
        for pod in claimed:
            self._unclaim(_job_key(pod), pod.name)

    def _unclaim(self, key: str, name: str) -> None:
        if self._claims.get(key, {}).pop(name, None) is not None:
            self._room.release(_claimant(key, name))
            self._touched.add(key)
        if not self._claims.get(key, True):
            del self._claims[key]

    # What a LIST does not hold any more

    def absent_jobs(self, listing: Census) -> list[InternLM2Job]:
        """Return the jobs that a LIST would hold if they still existed."""
        gone = self._absent((job.uid for job in self.jobs.values()), listing)
        return [job for job in self.jobs.values() if job.uid in gone]

    def absent_pods(self, listing: Census) -> list[PodRecord]:
        """Return the pods that a LIST would hold if they still existed."""
        gone = self._absent((pod.uid for pod in self.all_pods()), listing)
        return [pod for pod in self.all_pods() if pod.uid in gone]

    def _absent(self, known: Iterable[str], listing: Census) -> set[str]:
        # What is newer than the LIST was made after it.
        newest = self._versions.newest
        return {uid for uid in known if uid not in listing.uids and newest.get(uid, 0) <= listing.version}

    def absent_foreign_pods(self, listing: Census) -> set[str]:
        """Return the uids of pods of others that a LIST would hold if they still existed."""
        return self._absent(self._foreign, listing)

    def absent_checks(self, listing: Census) -> set[str]:
        """Return the uids of pods of checks that a LIST would hold if they still existed."""
        newest = self._check_versions.newest
        return {uid for uid in self._checks if uid not in listing.uids and newest.get(uid, 0) <= listing.version}

    def absent_quotas(self, listing: Census) -> set[str]:
        """Return the uids of quotas that a LIST would hold if they still existed."""
        return self._absent(self._quotas, listing)

    def absent_nodes(self, listing: Census) -> list[tuple[str, str]]:
        """Return name and uid of the nodes that a LIST would hold if they still existed."""
        known = {self._uids[f"node {name}"]: name for name in self._room.names()}
        return [(known[uid], uid) for uid in self._absent(known, listing)]

    # Taking out

    def pods(self, key: str) -> tuple[PodRecord, ...]:
        return tuple(sorted((f.record for f in self._pods.get(key, {}).values()), key=lambda p: p.name))

    def lost(self, key: str) -> int:
        """Return how many pods of the job went before their end was seen; what they did last, only the store knows."""
        return self._lost[key]

    def all_pods(self) -> list[PodRecord]:
        return [facts.record for pods in self._pods.values() for facts in pods.values()]

    def pods_on(self, node: str) -> list[PodRecord]:
        return list(self._on.get(node, {}).values())

    def ends_on(self, node: str) -> list[PodRecord]:
        """Return the newest pods that ended by themselves on a node: removed so fast, their end is evidence still."""
        return list(self._ends.get(node, {}).values())

    def nodes(self, resource: str) -> Mapping[str, NodeRecord]:
        """Return the nodes by name as a job that asks for `resource` sees them, pods of everybody counted."""
        return self._room.nodes(resource)

    def node(self, name: str) -> NodeRecord | None:
        return self._room.node(name)

    def plain_nodes(self) -> tuple[NodeRecord, ...]:
        """Return the nodes without their GPUs, for decisions about health."""
        return self._room.plain()

    @property
    def room_version(self) -> int:
        """Count of the changes to nodes, to what is held on them, and to quotas."""
        return self._room.version + self._quota_version

    def stakes(self, key: str) -> tuple[PodRecord, ...]:
        """Return the job's pods, those that are about to be made among them."""
        return (*self.pods(key), *(facts.record for facts in self._claims.get(key, {}).values()))

    def quotas(self, resource: str) -> dict[str, Quota]:
        """Return the tightest quota on `resource` of each namespace that has one.

        What our pods use is added to what is left, so that it is ours to give out again. Claims are added
        before the API server counts them: for a moment too much is seen to be left, never too little.
        """
        found: dict[str, Quota] = {}
        ours = self._in_use() if self._quotas else {}
        for facts in self._quotas.values():
            quota = facts.more(ours.get(facts.namespace, {})).on(resource)
            if quota is not None and _tighter(quota, found.get(facts.namespace)):
                found[facts.namespace] = quota
        return found

    def touched(self) -> set[str]:
        """Return the jobs that changed, or whose pods did, since this was asked last."""
        changed, self._touched = self._touched, set()
        return changed

    def jobs_of_node(self, node: str) -> set[str]:
        """Return the jobs that have a pod on a node, or had one when a fault that is still open struck it.

        The pod of a dead node is removed within milliseconds, often before the node is judged.
        """
        return {_job_key(pod) for pod in self.pods_on(node)} | self._struck.get(node, set())

    def _in_use(self) -> dict[str, dict[str, int]]:
        """Return what our pods request by namespace and resource; those that are about to be made are in it."""
        ours: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        for pods in (*self._pods.values(), *self._claims.values()):
            for facts in pods.values():
                for name, amount in facts.requests.items():
                    ours[facts.record.namespace][name] += amount
                ours[facts.record.namespace][QuotaFacts.PODS] += bool(facts.requests)
        return ours

    # Indexes

    def _put_on(self, facts: PodFacts) -> None:
        pod = facts.record
        if pod.node is None:
            return
        self._on[pod.node][pod.uid] = pod
        # A pod that is being deleted ends because we or a person wanted it to.
        if pod.phase in ENDED and not pod.deleting:
            ends = self._ends[pod.node]
            ends[pod.uid] = pod
            if len(ends) > ENDS_KEPT:
                del ends[next(iter(ends))]

    def _take_off(self, facts: PodFacts | None) -> None:
        if facts is None or facts.record.node is None:
            return
        there = self._on[facts.record.node]
        there.pop(facts.record.uid, None)
        if not there:
            del self._on[facts.record.node]

    def _strike(self, key: str, before: InternLM2Job | None) -> None:
        """Note which nodes the open faults of a job name now that it was `before`."""
        old, new = _faulty_nodes(before), _faulty_nodes(self.jobs.get(key))
        for node in old - new:
            self._struck[node].discard(key)
            if not self._struck[node]:
                del self._struck[node]
        for node in new - old:
            self._struck[node].add(key)


def _faulty_nodes(job: InternLM2Job | None) -> set[str]:
    """Return the nodes that faults of a job name which are still open."""
    return {fault.node for fault in job.status.faults if fault.node and fault.times.closed is None} if job else set()


def _key(raw: Object) -> str:
    return f"{raw['metadata']['namespace']}/{raw['metadata']['name']}"


def _job_key(pod: PodRecord) -> str:
    return f"{pod.namespace}/{pod.job}"


def _claimant(key: str, pod: str) -> str:
    return f"claim {key} {pod}"


def _tighter(quota: Quota, known: Quota | None) -> bool:
    left, before = quota.nodes(1), known.nodes(1) if known else None
    return before is None or (left is not None and left < before)
