"""Jobs that are decided about side by side never take the same nodes; the queue is worked out once for each change."""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from internlm2_operator import plan as planning
from internlm2_operator.api.job import InternLM2Job
from internlm2_operator.api.status import JobStatus
from internlm2_operator.manifests.pod import pod
from internlm2_operator.plan.actions import CreatePod, DeletePod, Plan
from internlm2_operator.plan.queue import QueueView, Turn
from internlm2_operator.plan.snapshot import CheckpointView, Snapshot
from internlm2_operator.runtime.jobs import coming
from internlm2_operator.runtime.lines import Lines
from internlm2_operator.runtime.world import World
from tests.examples import few

GPU = "nvidia.com/gpu"
BORN = "2026-11-25T10:00:00Z"
NOW = datetime(2026, 11, 25, 10, 0, 1, tzinfo=UTC)


class Cluster:
    """The operator's cache of a few nodes, with what an API server would answer to its calls."""

    def __init__(self, nodes: int) -> None:
        self.world = World()
        self.lines = Lines(self.world)
        self._version = itertools.count(1)
        for i in range(nodes):
            self.put_node(f"n{i}")

    def put_node(self, name: str) -> None:
        ready = {"type": "Ready", "status": "True", "lastTransitionTime": BORN}
        self.world.put_node(
            {"metadata": self._meta(name), "status": {"conditions": [ready], "allocatable": {GPU: "2"}}}
        )

    def _meta(self, name: str, **more: Any) -> dict[str, Any]:
        return {
            "name": name,
            "uid": f"uid-{name}",
            "resourceVersion": str(next(self._version)),
            "creationTimestamp": BORN,
        } | more

    def put_job(self, name: str, nodes: int, status: JobStatus | None = None, **spec: Any) -> None:
        stage = {
            "name": "pretrain",
            "data": {"url": "s3://bucket/corpus"},
            "sequenceLength": 256,
            "globalBatchTokens": 16384,
            "steps": 10,
            "parallel": {"tensor": 2},
        }
        body = {
            "metadata": self._meta(name, namespace="team", generation=1),
            "spec": {
                "model": {"preset": "internlm2-tiny"},
                "checkpoint": {"url": "file:///ckpt"},
                "nodes": {"min": nodes, "max": nodes, "gpusPerNode": 2},
                "stages": [stage],
            }
            | spec,
            "status": (status or JobStatus()).to_object(),
        }
        self.world.put_job(body)

    def job(self, name: str) -> InternLM2Job:
        return self.world.jobs[f"team/{name}"]

    def wrote(self, name: str, status: JobStatus) -> None:
        """Take the answer to a status write."""
        job = self.job(name)
        meta = self._meta(name, namespace="team", generation=1, creationTimestamp=job.created.isoformat())
        self.world.put_job({"metadata": meta, "spec": job.spec.to_object(), "status": status.to_object()})

    def made(self, name: str, action: CreatePod) -> None:
        """Take the answer to a pod's creation; the scheduler never binds it and no kubelet runs."""
        body = pod(self.job(name), action)
        key = body["metadata"]["name"]
        body["metadata"] |= self._meta(key, namespace="team")
        self.world.put_pod(body | {"status": {"phase": "Pending"}})

    def snapshot(self, name: str) -> Snapshot:
        job = self.job(name)
        queue, waiting = self.lines.view(job)
        return Snapshot(
            job=job, pods=self.world.pods(job.key), nodes=self.world.nodes(GPU), checkpoint=CheckpointView(),
            queue=queue, waiting_jobs=waiting,
        )  # fmt: skip

    def reconcile(self, name: str, *, claims: bool = True) -> Iterator[None]:
        """Look at one job as a worker does; each yield is an await, where other workers go on."""
        job = self.job(name)
        decided = planning.plan(self.snapshot(name), NOW)
        claimed = self.world.claim(coming(job, decided, NOW) if claims else (), GPU)
        yield
        yield from self._applied(name, decided)
        yield
        if decided.status != job.status:
            self.wrote(name, decided.status)
        self.world.give_up(claimed)

    def _applied(self, name: str, decided: Plan) -> Iterator[None]:
        for action in decided.actions:
            match action:
                case CreatePod():
                    self.made(name, action)
                    yield
                case DeletePod(name=gone, uid=uid):
                    assert gone
                    self.world.drop_pod(f"team/{name}", uid)
                    yield

    def settle(self, *names: str, rounds: int = 8) -> None:
        """Look at jobs one after the other until they rest."""
        for _ in range(rounds):
            for name in names:
                for _ in self.reconcile(name):
                    pass

    def crowded(self) -> list[str]:
        """Return the nodes on which more than one pod was made."""
        held = Counter(p.node for p in self.world.all_pods())
        return [str(node) for node, count in held.items() if count > 1]

    def whole(self, *names: str) -> list[str]:
        """Return the jobs that have all their pods."""
        found = ((name, self.job(name)) for name in names)
        return [n for n, job in found if job.status.size and len(self.world.pods(job.key)) == job.status.size]


def two_jobs_half_way(*, claims: bool) -> Cluster:
    """Nodes for one job; `a` has made its first pod when `b`, which was placed too, decides."""
    cluster = Cluster(3)
    placed = JobStatus(attempt=1, size=2)
    cluster.put_job("a", 2, placed)
    cluster.put_job("b", 2, placed)
    first = cluster.reconcile("a", claims=claims)
    next(first)
    next(first)
    second = cluster.reconcile("b", claims=claims)
    for _ in itertools.chain(second, first):
        pass
    return cluster


def test_pods_on_their_way_are_there_for_everybody_else() -> None:
    cluster = two_jobs_half_way(claims=True)
    assert cluster.crowded() == []
    assert cluster.whole("a", "b") == ["a"]
    assert cluster.job("b").status.size == 0


def test_without_claims_two_jobs_meet_on_a_node_which_is_the_control() -> None:
    """Each would hold a node that the other waits for."""
    cluster = Cluster(2)
    for name in ("a", "b"):
        cluster.put_job(name, 2, JobStatus(attempt=1, size=2))
    decided = {
        name: planning.plan(dataclasses.replace(cluster.snapshot(name), queue=QueueView()), NOW) for name in "ab"
    }
    for name, plan in decided.items():
        for action in plan.actions:
            if isinstance(action, CreatePod):
                cluster.made(name, action)
    assert cluster.crowded() == ["n0", "n1"]


@settings(few, max_examples=25)
@given(st.lists(st.integers(0, 2), max_size=80))
def test_any_interleaving_of_three_workers_places_whole_jobs_or_none(turns: list[int]) -> None:
    names = ("a", "b", "c")
    cluster = Cluster(5)
    for name in names:
        cluster.put_job(name, 2)
    workers = {name: cluster.reconcile(name) for name in names}
    for turn in turns:
        name = names[turn]
        if next(workers[name], "done") == "done":
            workers[name] = cluster.reconcile(name)
        assert cluster.crowded() == []
    for worker in workers.values():
        for _ in worker:
            pass
    cluster.settle(*names)
    assert cluster.crowded() == []
    assert len(cluster.whole(*names)) == 2
    (waits,) = set(names) - set(cluster.whole(*names))
    assert cluster.world.pods(f"team/{waits}") == ()
    assert cluster.job(waits).status.queued_time is not None


def test_higher_priority_takes_the_nodes_gracefully_and_gives_them_back() -> None:
    cluster = Cluster(2)
    cluster.put_job("low", 2)
    cluster.settle("low")
    assert cluster.whole("low") == ["low"]
    cluster.put_job("high", 2, priority=5)
    for _ in cluster.reconcile("high"):
        pass
    assert cluster.lines.to_act() == ["team/low"]
    for _ in cluster.reconcile("low"):
        pass
    status = cluster.job("low").status
    assert (status.size, status.preempted_by, status.restarts.counted, status.faults) == (0, "team/high", 0, ())
    leaving = [a for a in planning.plan(cluster.snapshot("low"), NOW).actions if isinstance(a, DeletePod)]
    assert [d.grace_seconds for d in leaving] == [None, None]
    cluster.settle("low", "high")
    assert cluster.whole("low", "high") == ["high"]
    scheduled = cluster.job("low").status.condition("Scheduled")
    assert scheduled is not None
    assert scheduled.reason == "Preempted"
    assert "team/high" in scheduled.message
    for p in cluster.world.pods("team/high"):
        cluster.world.drop_pod("team/high", p.uid)
    cluster.world.drop_job("team/high", "uid-high")
    assert cluster.lines.to_act() == ["team/low"]
    cluster.settle("low")
    assert cluster.whole("low") == ["low"]
    assert cluster.job("low").status.preempted_by == ""


def test_job_that_is_held_back_otherwise_does_not_hold_up_the_queue() -> None:
    cluster = Cluster(2)
    cluster.put_job("runs", 1)
    cluster.settle("runs")
    cluster.put_job("large", 2, priority=1, suspend=True)
    cluster.put_job("small", 1)
    cluster.settle("large", "small")
    assert cluster.whole("small") == ["small"]


def test_job_over_its_quota_says_so_and_starts_when_the_quota_is_raised() -> None:
    cluster = Cluster(2)
    cluster.put_job("a", 2)

    def quota(gpus: int) -> None:
        meta = {"namespace": "team", "name": "few", "uid": "few", "resourceVersion": str(gpus)}
        assert cluster.world.put_quota({"metadata": meta, "status": {"hard": {f"requests.{GPU}": str(gpus)}}})

    quota(3)
    cluster.settle("a")
    scheduled = cluster.job("a").status.condition("Scheduled")
    assert scheduled is not None
    assert (scheduled.reason, scheduled.message.partition(";")[0]) == (
        "Quota",
        "ResourceQuota few of namespace team leaves room for 1 nodes, the smallest legal size is 2",
    )
    quota(4)
    assert cluster.lines.to_act() == ["team/a"]
    cluster.settle("a")
    assert cluster.whole("a") == ["a"]


def test_line_is_worked_out_once_until_something_changes() -> None:
    cluster = Cluster(3)
    cluster.put_job("a", 4)
    cluster.settle("a")
    assert cluster.lines.to_act() == []
    first = cluster.lines.view(cluster.job("a"))[0]
    assert cluster.lines.view(cluster.job("a"))[0].place is first.place
    cluster.put_node("n9")
    assert cluster.lines.to_act() == ["team/a"]
    assert cluster.lines.to_act() == [], "told once"
    now = cluster.lines.view(cluster.job("a"))[0].place
    assert now is not None
    assert now.turn is Turn.START
