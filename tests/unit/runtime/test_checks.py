"""Pods of checks in the cache, and one look at all checks."""

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from internlm2_operator.cluster.gateway import Census, Object
from internlm2_operator.health.node import SUSPECTED, CheckNote, HeldNote
from internlm2_operator.manifests.check_pod import check_pod as manifest
from internlm2_operator.plan.check import Check, Depth, MakePod
from internlm2_operator.plan.snapshot import CheckView, Outcome
from internlm2_operator.runtime.checks import LOOK_SECONDS, SUSPECT_SECONDS, CheckReconciler
from internlm2_operator.runtime.metrics import Metrics
from internlm2_operator.runtime.world import World
from internlm2_spec import contract
from internlm2_spec.contract import ExitCode, FailureClass, Termination
from tests.unit.runtime.test_world import job_of, node

OWN = "internlm2-system"
GPU = "nvidia.com/gpu"


def now() -> datetime:
    """A look asks the clock itself: suspicions are of a minute ago, pods of now, and no later test finds them old."""
    return datetime.now(UTC)


class Server:
    """Keeps pods and nodes as an API server does; a test lets pods run and end."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.pods: dict[str, Object] = {}
        self.notes: dict[str, CheckNote] = {}
        self.version = 100

    async def create_pod(self, body: Object) -> Object:
        self.pods.setdefault(body["metadata"]["name"], body)
        return self._stored(body, phase="Pending")

    async def delete_pod(self, _: str, name: str, **__: Any) -> None:
        del self.pods[name]

    async def apply_node(self, body: Object, *, manager: str) -> Object:
        assert manager == "internlm2-operator-check"
        (text,) = body["metadata"]["annotations"].values()
        note = CheckNote.from_json(text)
        assert note is not None
        self.notes[body["metadata"]["name"]] = note
        return self.node(body["metadata"]["name"], {contract.ANNOTATION_CHECK: text})

    def node(self, name: str, annotations: dict[str, str]) -> Object:
        self.version += 1
        raw = node(self.version)
        raw["metadata"] |= {"name": name, "uid": f"node-{name}", "annotations": annotations}
        return raw

    def run(self, node_name: str) -> None:
        self.world.put_check(self._stored(self._on(node_name), phase="Running", podIP="10.0.0.1"))

    def end(self, node_name: str, said: Termination) -> None:
        ended = {"exitCode": said.exit_code, "message": said.to_json(), "finishedAt": now().isoformat()}
        status = {"containerStatuses": [{"name": "check", "state": {"terminated": ended}}]}
        phase = "Failed" if said.exit_code else "Succeeded"
        self.world.put_check(self._stored(self._on(node_name), phase=phase, **status))

    def _on(self, node_name: str) -> Object:
        return next(body for body in self.pods.values() if node_name in str(body["spec"]["affinity"]))

    def _stored(self, body: Object, **status: Any) -> Object:
        self.version += 1
        meta = {
            "uid": body["metadata"]["name"],
            "resourceVersion": str(self.version),
            "creationTimestamp": now().isoformat(),
        }
        return body | {"metadata": body["metadata"] | meta, "status": status}


def stage(*suspects: str, image: str = "trainer:1") -> tuple[CheckReconciler, Server, list[str]]:
    """Return a reconciler with three nodes, of which some are suspects; and whom it asked to be judged."""
    world = World(own_namespace=OWN, checks=CheckView(on=bool(image)))
    server, judged = Server(world), list[str]()
    for name in ("n1", "n2", "n3"):
        held = HeldNote(SUSPECTED, "Xid48", now() - timedelta(minutes=1), "check").to_json()
        world.put_node(server.node(name, {contract.ANNOTATION_HELD: held} if name in suspects else {}))
    checks = CheckReconciler(
        gateway=server,  # type: ignore[arg-type]
        world=world,
        namespace=OWN,
        image=image,
        resource=GPU,
        metrics=Metrics(),
        ask_node=judged.append,
        wake_jobs=lambda: None,
    )
    return checks, server, judged


def looks(checks: CheckReconciler) -> float | None:
    return asyncio.run(checks.reconcile())


def test_a_suspect_is_checked_and_the_outcome_noted_and_judged() -> None:
    checks, server, judged = stage("n1")
    assert looks(checks) == LOOK_SECONDS
    assert len(server.pods) == 1
    server.run("n2")
    looks(checks)
    assert len(server.pods) == 3
    for name in ("n3", "n1"):
        server.run(name)
    server.end("n1", Termination(FailureClass.INFRASTRUCTURE, "NodeCheckFailed", ExitCode.NODE_CHECK, message="slow"))
    for name in ("n2", "n3"):
        server.end(name, Termination(FailureClass.DONE, "Completed", ExitCode.DONE))
    looks(checks)
    assert {name: note.passed for name, note in server.notes.items()} == {"n1": False, "n2": True, "n3": True}
    assert sorted(judged) == ["n1", "n2", "n3"]


def test_a_node_that_held_up_a_job_for_long_is_checked_once_the_job_has_left_it() -> None:
    checks, server, judged = stage()
    assert (looks(checks), server.pods) == (None, {})
    since, until = now() - timedelta(hours=2), now() - timedelta(minutes=1)
    slow = {"node": "n3", "slowIn": "compute", "since": since.isoformat()}
    server.world.put_job(job_of(1, "Pretrain") | {"status": {"stragglers": [slow]}})
    assert (looks(checks), server.pods) == (None, {}), "it holds it up still"
    server.world.put_job(job_of(2, "Pretrain") | {"status": {"stragglers": [slow | {"until": until.isoformat()}]}})
    assert looks(checks) == LOOK_SECONDS
    (head,) = server.pods.values()
    check = Check.from_json(head["metadata"]["annotations"][contract.ANNOTATION_MEMBERS])
    assert check is not None
    assert (check.nodes, check.why) == (("n1", "n2", "n3"), "held up a job for 119 minutes, slow in compute")
    assert judged == [], "nothing is said against a node before it has failed"


def test_without_an_image_nobody_is_checked() -> None:
    checks, server, _ = stage("n1", image="")
    assert looks(checks) is None
    assert server.pods == {}


def test_pods_of_a_check_on_a_resource_that_nobody_asks_for_any_more_go() -> None:
    checks, server, _ = stage()
    left = Check(("n1",), Depth.QUICK, "other.com/gpu", now(), "why", job="ns/gone")
    server.world.put_check(
        asyncio.run(server.create_pod(manifest(MakePod(left, 0, "n1", 1), namespace=OWN, image="i")))
    )
    looks(checks)
    assert server.pods == {}


def test_a_suspect_that_is_in_use_is_looked_at_again_later() -> None:
    checks, server, _ = stage("n1")
    server.world.put_foreign_pod(foreign("somebody", "n1", namespace="team"))
    assert looks(checks) == SUSPECT_SECONDS
    assert server.pods == {}


def foreign(name: str, on: str, *, namespace: str, labels: Iterable[tuple[str, str]] = ()) -> Object:
    meta = {"name": name, "namespace": namespace, "uid": name, "resourceVersion": "1", "labels": dict(labels)}
    containers = [{"name": "c", "resources": {"limits": {GPU: "2"}}}]
    return {"metadata": meta, "spec": {"nodeName": on, "containers": containers}, "status": {"phase": "Running"}}


def test_what_checks_hold_is_nobodys_room_and_only_in_the_operators_namespace() -> None:
    checks, server, _ = stage("n1")
    looks(checks)
    world = server.world
    label = ((contract.LABEL_CHECK, "x"),)
    assert not world.put_foreign_pod(foreign("ours", "n1", namespace=OWN, labels=label))
    assert [n.used for n in world.nodes(GPU).values()] == [0, 0, 0]
    assert world.put_foreign_pod(foreign("hides", "n1", namespace="team", labels=label))
    assert [n.used for n in world.nodes(GPU).values()] == [2, 0, 0]


def test_a_check_that_a_list_does_not_hold_is_gone() -> None:
    checks, server, _ = stage("n1")
    looks(checks)
    world = server.world
    assert world.checks is not None
    ((uid, known),) = ((p.uid, p.outcome) for p in world.checks.pods)
    assert known is None
    assert world.absent_checks(Census(version=10_000, uids=frozenset({uid}))) == set()
    assert world.absent_checks(Census(version=10_000, uids=frozenset())) == {uid}
    world.drop_check(uid)
    assert world.checks.pods == ()
    server.run("n2")  # a late event
    assert world.checks.pods == ()


def test_news_of_a_pod_of_a_check_is_told_once() -> None:
    checks, server, _ = stage("n1")
    looks(checks)
    server.run("n2")
    assert server.world.checks is not None
    (pod,) = server.world.checks.pods
    assert (pod.ip, pod.outcome) == ("10.0.0.1", None)
    server.end("n2", Termination(FailureClass.DONE, "Completed", ExitCode.DONE))
    assert [p.outcome for p in server.world.checks.pods] == [Outcome.PASSED]
