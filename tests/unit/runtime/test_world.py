"""The cache keeps the newest of each object, whoever brings it and in whatever order."""

from typing import Any

from internlm2_operator.cluster.gateway import Listing
from internlm2_operator.runtime.world import World
from internlm2_spec import contract

GPU = "nvidia.com/gpu"
BORN = "2026-11-25T10:00:00Z"


def node(version: int, *, ready: str = "True") -> dict[str, Any]:
    condition = {"type": "Ready", "status": ready, "lastTransitionTime": BORN}
    return {
        "metadata": {"name": "n1", "uid": "node-1", "resourceVersion": str(version), "creationTimestamp": BORN},
        "status": {"conditions": [condition], "allocatable": {GPU: "8"}},
    }


def pod(version: int, uid: str = "pod-1", phase: str = "Running") -> dict[str, Any]:
    numbers = dict.fromkeys((contract.LABEL_STAGE, contract.LABEL_ATTEMPT, contract.LABEL_SLOT), "0")
    return {
        "metadata": {
            "name": f"name-of-{uid}",
            "namespace": "ns",
            "uid": uid,
            "resourceVersion": str(version),
            "creationTimestamp": BORN,
            "labels": numbers | {contract.LABEL_JOB: "demo"},
        },
        "spec": {"nodeName": "n1", "containers": [{"resources": {"limits": {GPU: "2"}}}]},
        "status": {"phase": phase},
    }


def test_an_older_event_does_not_replace_a_newer_object() -> None:
    world = World()
    assert world.put_node(node(20, ready="False"))
    assert not world.put_node(node(10))
    assert [n.ready for n in world.nodes(GPU)] == [False]


def test_a_pod_that_was_deleted_does_not_come_back_with_a_late_event() -> None:
    world = World()
    world.put_pod(pod(5))
    world.drop_pod("ns/demo", "pod-1")
    assert not world.put_pod(pod(6))
    assert world.pods("ns/demo") == ()


def test_a_namesake_with_another_uid_is_another_node() -> None:
    world = World()
    world.put_node(node(5))
    newer = node(9)
    newer["metadata"]["uid"] = "node-2"
    world.put_node(newer)
    world.drop_node("n1", "node-1")
    assert [n.name for n in world.nodes(GPU)] == ["n1"]


def test_pods_of_ours_and_of_others_use_a_node() -> None:
    world = World()
    world.put_node(node(1))
    world.put_pod(pod(2, "a"))
    world.put_pod(pod(3, "b", phase="Succeeded"))
    world.put_foreign({("n1", GPU): 4, ("n1", "example.com/fpga"): 9})
    assert [(n.gpus, n.used) for n in world.nodes(GPU)] == [(8, 6)]


def test_a_list_shows_which_pods_are_gone_but_not_those_made_after_it() -> None:
    world = World()
    for version, uid in ((5, "listed"), (6, "gone"), (50, "made-after")):
        world.put_pod(pod(version, uid))
    assert [gone.uid for gone in world.absent_pods(Listing([pod(5, "listed")], version=40))] == ["gone"]
