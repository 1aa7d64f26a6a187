"""The cache keeps the newest of each object, whoever brings it and in whatever order."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from internlm2_operator.cluster import records
from internlm2_operator.cluster.gateway import Census
from internlm2_operator.runtime.world import World
from internlm2_spec import contract
from tests.api import jobs

GPU = "nvidia.com/gpu"
BORN = "2026-11-25T10:00:00Z"


def node(version: int, *, ready: str = "True") -> dict[str, Any]:
    condition = {"type": "Ready", "status": ready, "lastTransitionTime": BORN}
    return {
        "metadata": {"name": "n1", "uid": "node-1", "resourceVersion": str(version), "creationTimestamp": BORN},
        "status": {"conditions": [condition], "allocatable": {GPU: "8"}},
    }


def pod(
    version: int, uid: str = "pod-1", phase: str = "Running", namespace: str = "ns", *, gpus: int = 2
) -> dict[str, Any]:
    numbers = dict.fromkeys((contract.LABEL_STAGE, contract.LABEL_ATTEMPT, contract.LABEL_SLOT), "0")
    return {
        "metadata": {
            "name": f"name-of-{uid}",
            "namespace": namespace,
            "uid": uid,
            "resourceVersion": str(version),
            "creationTimestamp": BORN,
            "labels": numbers | {contract.LABEL_JOB: "demo"},
        },
        "spec": {"nodeName": "n1", "containers": [{"resources": {"limits": {GPU: str(gpus)}}}]},
        "status": {"phase": phase},
    }


def test_an_older_event_does_not_replace_a_newer_object() -> None:
    world = World()
    assert world.put_node(node(20, ready="False"))
    assert not world.put_node(node(10))
    assert [n.ready for n in world.nodes(GPU).values()] == [False]


@pytest.mark.parametrize(("ready", "away", "expected"), [("Unknown", True, True), ("Unknown", False, False),
                                                         ("False", True, False), ("True", True, False)])  # fmt: skip
def test_a_node_that_fell_silent_while_the_api_server_was_away_may_be_well(
    ready: str, away: bool, expected: bool
) -> None:
    world = World()
    born = datetime.fromisoformat(BORN)
    for seconds in (-5, -3):
        world.contact = world.contact.heard(born + timedelta(seconds=seconds), answered=not away)
    world.put_node(node(1, ready=ready))
    assert [n.excused is not None for n in world.plain_nodes()] == [expected]


def test_a_pod_that_was_deleted_does_not_come_back_with_a_late_event() -> None:
    world = World()
    world.put_pod(pod(5))
    world.drop_pod("ns/demo", "pod-1")
    assert not world.put_pod(pod(6))
    assert world.pods("ns/demo") == ()


def test_jobs_of_one_name_in_two_namespaces_have_their_own_pods() -> None:
    world = World()
    for version, namespace in enumerate(("one", "other")):
        world.put_pod(pod(version, uid=f"pod-{namespace}", namespace=namespace))
    world.drop_pod("one/demo", "pod-one")
    assert [p.uid for p in world.pods("other/demo")] == ["pod-other"]
    assert world.pods("one/demo") == ()


def job_of(version: int, kind: str, uid: str = "job-1") -> dict[str, Any]:
    """Return the valid job with a stage of this kind."""
    meta = {"name": "demo", "namespace": "ns", "uid": uid, "resourceVersion": str(version), "generation": version}
    return jobs.job({"stages.0.kind": kind}) | {"metadata": meta | {"creationTimestamp": BORN}}


def test_a_job_goes_on_with_the_last_spec_that_could_be_read() -> None:
    world = World()
    world.put_job(job_of(1, "Pretrain"))
    world.put_job(job_of(2, "FromTheFuture"))
    held = world.jobs["ns/demo"]
    assert (held.spec.stages[0].kind, held.generation, held.resource_version) == ("Pretrain", 1, "2")
    assert "FromTheFuture" in held.refused
    assert "generation 2 is ignored, generation 1 goes on" in held.refused
    world.put_job(job_of(3, "Pretrain"))
    assert world.jobs["ns/demo"].refused == ""


def test_a_job_that_could_never_be_read_is_kept_apart_until_it_is_gone() -> None:
    world = World()
    world.put_job(job_of(1, "FromTheFuture"))
    assert (world.jobs, set(world.refused)) == ({}, {"ns/demo"})
    world.drop_job("ns/demo", "job-1")
    assert world.refused == {}


def test_the_spec_of_a_deleted_namesake_does_not_go_on() -> None:
    world = World()
    world.put_job(job_of(1, "Pretrain"))
    world.put_job(job_of(2, "FromTheFuture", uid="job-2"))
    assert (world.jobs, set(world.refused)) == ({}, {"ns/demo"})


def test_a_namesake_with_another_uid_is_another_node() -> None:
    world = World()
    world.put_node(node(5))
    newer = node(9)
    newer["metadata"]["uid"] = "node-2"
    world.put_node(newer)
    world.drop_node("n1", "node-1")
    assert [n.name for n in world.nodes(GPU).values()] == ["n1"]


def test_pods_of_ours_and_of_others_use_a_node() -> None:
    world = World()
    world.put_node(node(1))
    world.put_pod(pod(2, "a"))
    world.put_pod(pod(3, "b", phase="Succeeded"))
    world.put_foreign_pod(pod(4, "c", gpus=4))
    assert [(n.gpus, n.used) for n in world.nodes(GPU).values()] == [(8, 6)]


def test_a_list_shows_which_pods_are_gone_but_not_those_made_after_it() -> None:
    world = World()
    for version, uid in ((5, "listed"), (6, "gone"), (50, "made-after")):
        world.put_pod(pod(version, uid))
    assert [gone.uid for gone in world.absent_pods(Census(frozenset({"listed"}), version=40))] == ["gone"]


def quota(version: int, hard: int, used: int, uid: str = "quota-1") -> dict[str, Any]:
    meta = {"name": "few", "namespace": "ns", "uid": uid, "resourceVersion": str(version)}
    key = f"requests.{GPU}"
    return {"metadata": meta, "status": {"hard": {key: str(hard)}, "used": {key: str(used)}}}


def test_what_our_pods_use_of_a_quota_is_ours_to_give_out_again() -> None:
    world = World()
    assert world.put_quota(quota(1, hard=8, used=3))
    assert not world.put_quota(quota(2, hard=8, used=3)), "nothing changed"
    assert world.quotas(GPU)["ns"].gpus == 5
    facts = records.pod(pod(1))
    assert facts is not None
    (coming,) = world.claim([facts.record], GPU)
    assert world.quotas(GPU)["ns"].gpus == 7, "a pod on its way is counted before the API server counts it"
    world.put_pod(pod(3))
    world.give_up([coming])
    assert world.put_quota(quota(4, hard=8, used=5))
    assert world.quotas(GPU)["ns"].gpus == 5


def test_a_quota_is_news_to_the_line_until_it_is_gone() -> None:
    world, census = World(), Census(version=9, uids=frozenset())
    before = world.room_version
    world.put_quota(quota(1, hard=8, used=0))
    assert (world.room_version > before, world.absent_quotas(census)) == (True, {"quota-1"})
    before = world.room_version
    assert world.drop_quota("quota-1")
    assert (world.room_version > before, world.quotas(GPU)) == (True, {})
    assert not world.put_quota(quota(2, hard=8, used=0)), "a late event"
