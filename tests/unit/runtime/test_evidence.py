"""What speaks against a node, and for how long."""

from datetime import UTC, datetime, timedelta
from typing import Any

from internlm2_operator.health.signals import Kind, Signal, Source
from internlm2_operator.runtime.evidence import Evidence
from internlm2_operator.runtime.world import World
from tests.unit.runtime.test_world import node, pod

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


def xid(at: datetime = NOW) -> Signal:
    return Signal(Kind.XID, Source.PROMETHEUS, node="n1", at=at, detail="d", gpu="g", xid=79)


def blind() -> Signal:
    return Signal(Kind.EXPORTER_DOWN, Source.PROMETHEUS, node="n1", at=NOW, detail="d")


def kinds(evidence: Evidence, world: World, now: datetime = NOW) -> list[Kind]:
    return [signal.kind for signal in evidence.signals(world, now)]


def job_with_fault(**times: str) -> dict[str, Any]:
    """Return a job whose status says that node n1 failed."""
    stage = {
        "name": "a",
        "data": {"url": "file:///d"},
        "sequenceLength": 256,
        "globalBatchTokens": 16384,
        "steps": 1,
    }
    fault = {"id": "f", "cause": "NodeNotReady", "node": "n1", "times": {"signal": "2026-11-25T11:59:00Z"} | times}
    return {
        "metadata": {
            "name": "demo",
            "namespace": "ns",
            "uid": "job-1",
            "resourceVersion": "7",
            "creationTimestamp": "2026-11-25T10:00:00Z",
        },
        "spec": {
            "model": {"preset": "internlm2-tiny"},
            "checkpoint": {"url": "file:///c"},
            "nodes": {"min": 1, "max": 1},
            "stages": [stage],
        },
        "status": {"faults": [fault]},
    }


def test_an_edge_is_kept_with_the_job_of_its_node_until_it_is_old() -> None:
    evidence, world = Evidence(), World()
    world.put_pod(pod(1))
    assert evidence.add([xid()], world) == {"n1"}
    assert [signal.job for signal in evidence.signals(world, NOW)] == ["ns/demo"]
    assert kinds(evidence, world, NOW + timedelta(hours=1)) == []


def test_an_edge_that_led_to_a_cordon_is_spent() -> None:
    evidence, world = Evidence(), World()
    evidence.add([xid()], world)
    evidence.spend("n1")
    assert kinds(evidence, world) == []


def test_a_silent_exporter_is_known_until_the_next_sample() -> None:
    evidence, world = Evidence(), World()
    assert evidence.add([blind()], world) == set()
    assert kinds(evidence, world) == [Kind.EXPORTER_DOWN]
    evidence.add([], world)
    assert kinds(evidence, world) == []


def test_a_silent_node_counts_only_when_it_holds_our_pods() -> None:
    world = World()
    world.put_node(node(1, ready="Unknown"))
    assert kinds(Evidence(), world) == []
    world.put_pod(pod(2))
    assert kinds(Evidence(), world) == [Kind.NODE_NOT_READY]


def test_a_silent_node_counts_while_the_fault_that_took_its_pods_is_open() -> None:
    world = World()
    world.put_node(node(1, ready="Unknown"))
    world.put_job(job_with_fault())
    assert kinds(Evidence(), world) == [Kind.NODE_NOT_READY]


def test_a_silent_node_of_a_closed_fault_is_somebody_elses_business() -> None:
    world = World()
    world.put_node(node(1, ready="Unknown"))
    world.put_job(job_with_fault(closed="2026-11-25T11:59:30Z"))
    assert kinds(Evidence(), world) == []
