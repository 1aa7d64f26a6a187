"""One paragraph: why a job is not running, or slow."""

import dataclasses
from typing import Any

import pytest

from internlm2_operator.api.status import Fault, FaultTimes, JobStatus, Phase, set_condition
from internlm2_operator.cli import why
from internlm2_operator.plan.snapshot import CheckpointView, PodPhase
from tests.unit.plan.world import T0, World, after, job, node, note

NODES = (node("a"), node("b"), node("c"))


def told(world: World) -> str:
    (paragraph,) = why.explain(world.snapshot(), world.now).lines
    return paragraph


def with_status(world: World, **fields: Any) -> World:
    status = world.job.status.model_copy(update=fields)
    return dataclasses.replace(world, job=world.job.model_copy(update={"status": status}))


def test_a_job_that_waits_for_nodes_says_how_many_and_since_when() -> None:
    world = World(job(), (node("a"),)).settled()
    later = dataclasses.replace(world, now=after(600))
    assert told(later).startswith("default/demo is Queued since 10m: 1 more nodes")


def test_a_cordoned_node_is_named_as_a_reason_for_few_nodes() -> None:
    nodes = (node("a"), node("b"), node("c", unschedulable=True, fault=note()))
    world = World(job(high=4, spares=0), nodes).settled()
    assert "It has 2 nodes and may have 4; of 3 nodes in the cluster 1 are cordoned by the operator" in told(world)


def test_a_pod_that_cannot_start_is_named_with_its_reason() -> None:
    world = World(job(spares=0), NODES).settled()
    stuck = tuple(
        dataclasses.replace(pod, waiting="ImagePullBackOff", message="no such image") if pod.slot == 1 else pod
        for pod in world.pods
    )
    paragraph = told(dataclasses.replace(world, pods=stuck))
    assert "pods of attempt 1 run." in paragraph
    assert "waits: ImagePullBackOff: no such image." in paragraph


@pytest.mark.parametrize(
    ("closed", "words"),
    [(None, "A fault is open since 60s: Xid79 on n1."),
     (after(50), "In the last hour 1 faults (Xid79) took 50s and 4 steps were done twice.")],
    ids=["open", "closed"],
)  # fmt: skip
def test_faults_explain_lost_time(closed: Any, words: str) -> None:
    fault = Fault(
        id="f", cause="Xid79", node="n1", steps_lost=4, times=FaultTimes(signal=T0, verdict=T0, closed=closed),
        seconds={"total": 50.0} if closed else {},
    )  # fmt: skip
    world = with_status(World(job(), (node("a"),)).settled(), faults=(fault,))
    assert words in told(dataclasses.replace(world, now=after(60)))


def running(**fields: Any) -> World:
    """Return a job that trains, as the operator has told; what the trainers say is not known here."""
    world = World(job(spares=0), NODES).settled()
    pods = tuple(dataclasses.replace(pod, phase=PodPhase.RUNNING) for pod in world.pods)
    return with_status(dataclasses.replace(world, pods=pods), phase=Phase.RUNNING, step=7, **fields)


def test_a_job_that_trains_is_believed_to_though_the_trainers_are_not_heard() -> None:
    assert told(running()) == "default/demo trains stage stage-0 on 2 nodes at step 7. Nothing is in its way."


def test_a_job_that_trains_after_a_fault_says_what_it_cost() -> None:
    fault = Fault(id="f", cause="Xid79", steps_lost=4, times=FaultTimes(signal=T0, closed=T0), seconds={"total": 9.0})
    words = "In the last hour 1 faults (Xid79) took 9s and 4 steps were done twice."
    assert told(running(faults=(fault,))).endswith(words)


def test_a_job_that_is_done_says_since_when_and_nothing_else() -> None:
    done = set_condition((), "Complete", status="True", reason="StagesComplete", message="", generation=1, now=T0)
    world = World(job(), NODES)
    status = JobStatus(phase=Phase.SUCCEEDED, completion_time=T0, conditions=done)
    world = dataclasses.replace(world, job=world.job.model_copy(update={"status": status}), now=after(7200))
    assert told(world) == "default/demo is Succeeded since 2h: StagesComplete."


def test_a_corrupt_checkpoint_is_a_problem_that_is_told() -> None:
    view = CheckpointView(verified=5, time=T0, corrupt=((10, "1-0.safetensors is missing"),))
    world = World(job(), (node("a"),), checkpoint=view).settled()
    assert "Its newest checkpoint is a problem: CorruptCheckpoint: step 10 was passed over" in told(world)


def test_wide_and_machines_get_the_trail_and_what_would_be_done() -> None:
    answer = why.explain(World(job(), NODES).snapshot(), T0)
    assert answer.wide is not None
    assert answer.wide[2] == "default/demo: what each decision says, in the order they are asked"
    assert any(line.strip().startswith("place_waiting: Placed") for line in answer.wide)
    assert answer.data["trail"][0].startswith("keep_finished: ")


def test_a_job_of_another_controller_is_left_alone() -> None:
    world = World(job(managedBy="kueue.x-k8s.io/multikueue"), NODES)
    assert told(world) == "default/demo is run by kueue.x-k8s.io/multikueue, and the operator leaves it alone."


def test_who_sees_the_job_alone_is_told_what_the_operator_wrote() -> None:
    """Nothing is said about nodes or pods that were not read."""
    world = with_status(World(job(high=4, spares=0), (node("a"), node("b"), node("c"))).settled(), phase=Phase.RUNNING)
    assert "It has 2 nodes and may have 4" in told(world)
    assert why.written(world.job, world.now) == (
        "default/demo trains stage stage-0 on 2 nodes at step 0. Nothing is in its way."
    )
    waiting = World(job(), (node("a"),)).settled()
    assert why.written(waiting.job, after(600)).startswith("default/demo is Queued since 10m: 1 more nodes")
