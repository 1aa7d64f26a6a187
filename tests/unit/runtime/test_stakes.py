"""What the jobs on a node have at stake."""

from typing import Any

import pytest

from internlm2_operator.health.cordon import Mode, Stake
from internlm2_operator.runtime.stakes import limits, stakes
from internlm2_operator.runtime.world import World
from tests.api import jobs
from tests.unit.runtime.test_world import BORN, GPU, node, pod


def world_with(*specs: dict[str, Any], labels: bool = True) -> World:
    """Return four nodes of eight GPUs, of which n4 is silent and n3 half full; each job has a pod on n1, the first
    one on n4, too."""
    world = World()
    for number in (1, 2, 3, 4):
        raw = node(1, ready="Unknown" if number == 4 else "True")
        raw["metadata"] |= {"name": f"n{number}", "uid": f"uid-{number}", "labels": {"pool": "gpu"} if labels else {}}
        world.put_node(raw)
    for index, spec in enumerate(specs):
        body = jobs.job({"nodes.min": 1, "nodes.max": 2, "nodes.resourceName": GPU} | spec)
        meta = {"name": f"job-{index}", "namespace": "ns", "uid": f"j{index}", "resourceVersion": "1", "generation": 1}
        world.put_job(body | {"metadata": meta | {"creationTimestamp": BORN}})
        for where in ("n1", "n4") if not index else ("n1",):
            raw = pod(2, f"pod-{index}-{where}", gpus=4)
            raw["metadata"]["labels"]["training.internlm.io/job"] = f"job-{index}"
            raw["spec"]["nodeName"] = where
            world.put_pod(raw)
    foreign = pod(2, "foreign", gpus=4)
    foreign["metadata"]["labels"] = {}
    foreign["spec"]["nodeName"] = "n3"
    world.put_foreign_pod(foreign)
    return world


def test_a_job_reaches_the_nodes_that_it_holds_and_those_that_it_could_take() -> None:
    world = world_with({"nodes.spares": 1, "nodes.gpusPerNode": 8}, {"health": {"mode": "Observe"}})
    first, second = stakes(world, "n1", counted=True)
    assert first == Stake(Mode.ENFORCE, 2, frozenset({"n1", "n2"}))
    assert (second.mode, second.needs) == (Mode.OBSERVE, 1)
    assert stakes(world, "n2", counted=True) == []


def test_a_selector_bounds_what_a_job_reaches() -> None:
    spec = {"nodes.gpusPerNode": 4, "template.nodeSelector": {"pool": "gpu"}}
    assert stakes(world_with(spec), "n1", counted=True)[0].reach == {"n1", "n2", "n3"}
    assert stakes(world_with(spec, labels=False), "n1", counted=True)[0].reach == {"n1"}


def test_what_is_certain_needs_no_count() -> None:
    assert stakes(world_with({}), "n1", counted=False) == [Stake(Mode.ENFORCE)]


LIMITS = {
    "no job": ((), (10, "rack")),
    "a job that says nothing": (({},), (10, "rack")),
    "the most careful job": (({"health": {"maxCordonPercent": 5}}, {"health": {"maxCordonPercent": 7}}), (5, "rack")),
    "the label of a job's topology": (({}, {"topology": {"label": "switch"}}), (10, "switch")),
}


@pytest.mark.parametrize(("specs", "want"), LIMITS.values(), ids=LIMITS)
def test_who_sets_the_breaker(specs: tuple[dict[str, Any], ...], want: tuple[int, str]) -> None:
    found = limits(world_with(*specs), "n1", "rack")
    assert (found.percent, found.label) == want
