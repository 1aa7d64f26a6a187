"""How the size of a job follows its nodes and its bounds, on a real API server. Growth needs trainers: see e2e."""

from typing import Any, Final

import pytest

from tests.api.apiserver import wait_for
from tests.api.rest import Object, Rest
from tests.api.stage import OperatorProcess, Stage, node_of, on_stage
from tests.servers import S3Server

pytestmark = pytest.mark.api

# 64 sequences a step: 1, 2 and 4 nodes are legal.
NODES: Final = {"min": 2, "max": 4, "gpusPerNode": 2, "shrinkAfterSeconds": 3}
OWN_GRACE: Final = 120


def test_two_nodes_lost_at_once_shrink_the_job_and_below_min_it_is_queued_until_nodes_are_back(
    process: OperatorProcess, rest: Rest, store: S3Server
) -> None:
    with on_stage(rest, store, "shrinking") as stage:
        names = _started(stage)
        for name in names[2:]:
            stage.set_ready(name, ready=False)
        stage.wait_for_reason("WaitingForNodes")
        wait_for(lambda: _living(stage, 2, pods=2), what="two pods of attempt 2")
        assert stage.status()["size"] == 2

        stage.run_pods()
        stage.set_ready(names[1], ready=False)
        wait_for(lambda: _queued(stage), what="Queued")
        assert stage.condition("Scheduled")["message"].startswith("1 more nodes")

        (fresh,) = stage.make_nodes("e")
        again = wait_for(lambda: _living(stage, stage.status()["attempt"], pods=2), what="two pods again")
        assert fresh in {node_of(pod) for pod in again}
        assert stage.status()["restarts"]["counted"] == 0
    assert process.healthy()


def test_lowered_max_stops_the_pods_with_their_own_grace_and_starts_fewer(
    process: OperatorProcess, rest: Rest, store: S3Server
) -> None:
    with on_stage(rest, store, "bounded") as stage:
        _started(stage)
        stage.edit(nodes={"max": 2})
        stage.wait_for_reason("Resizing")
        wait_for(lambda: stage.pods() == {}, what="every pod asked to stop")
        leaving = stage.rest.items(f"/api/v1/namespaces/{stage.name}/pods")
        assert [pod["metadata"]["deletionGracePeriodSeconds"] for pod in leaving] == [OWN_GRACE] * 4
        wait_for(lambda: _living(stage, 2, pods=2), what="two pods of attempt 2")
        assert (stage.status()["size"], stage.status()["restarts"]["infrastructure"]) == (2, 0)
    assert process.healthy()


def test_node_that_comes_back_within_the_grace_takes_its_place_in_the_same_attempt(
    process: OperatorProcess, rest: Rest, store: S3Server
) -> None:
    with on_stage(rest, store, "patient") as stage:
        names = _started(stage, nodes=NODES | {"shrinkAfterSeconds": 600})
        stage.set_ready(names[3], ready=False)
        stage.wait_for_reason("WaitingForNodes")
        stage.make_nodes("e")
        wait_for(lambda: _living(stage, 1, pods=4), what="four pods again")
    assert process.healthy()


def _started(stage: Stage, **spec: Any) -> list[str]:
    """Make four nodes and a job on them, and let its pods run; returns the nodes by slot."""
    stage.make_nodes("a", "b", "c", "d")
    stage.make_job(**{"nodes": NODES} | spec)
    stage.wait_for_pods(4)
    stage.run_pods()
    wait_for(lambda: stage.status().get("nodes", {}).get("ready") == 4, what="four ready pods")
    return [node_of(pod) for _, pod in sorted(stage.pods().items())]


def _living(stage: Stage, attempt: int, *, pods: int) -> list[Object] | None:
    """Return the pods of an attempt once there are so many and no others; the kubelets let go of those before."""
    stage.say_goodbye()
    found = stage.pods()
    mine = [pod for name, pod in found.items() if f"-{attempt:03d}-" in name]
    return mine if len(mine) == len(found) == pods else None


def _queued(stage: Stage) -> bool:
    stage.say_goodbye()
    return stage.status().get("phase") == "Queued"
