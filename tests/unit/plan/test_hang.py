"""A hang of an attempt is one fault, which names the rank that stands out of those of all pods, and its node."""

import dataclasses
from collections.abc import Mapping

import pytest

from internlm2_operator.api.status import Fault
from internlm2_spec.contract import Termination
from internlm2_spec.standstill import Cluster
from tests.unit.plan.world import World, hang, job, node, peer, trained_world

READ = "internlm2_trainer.data.source.micro_batch, line 71"
NODES = tuple(node(f"n{number}") for number in range(1, 8))
# Pods of two ranks: slot 1 has ranks 2 and 3.
READS = hang(Cluster((2,), "step", waits=True, place="reduce", call="all_reduce"), Cluster((3,), "step", place=READ))


def waits(slot: int) -> Termination:
    ranks = (2 * slot, 2 * slot + 1)
    return hang(Cluster(ranks, "step", waits=True, place="reduce", call="all_reduce"))


def training() -> World:
    """Four members without a spare, on n1 to n4."""
    return trained_world(job(low=4, high=4, spares=0), NODES)


def end(world: World, said: Mapping[int, Termination]) -> World:
    for slot, word in said.items():
        world = world.ended(slot, 77, reason="Error", termination=word)
    return world


def only(world: World) -> Fault:
    (fault,) = world.job.status.faults
    return fault


def test_the_fault_names_the_rank_that_waits_for_nobody_and_its_node() -> None:
    world = end(training().later(70), {0: waits(0), 1: READS, 2: waits(2), 3: waits(3)}).settled()

    fault = only(world)
    assert (fault.cause, fault.node, fault.verdict, fault.cordoned) == ("Hang", "n2", "unknown", False)
    assert fault.evidence[0] == f"rank 3 on n2 stands in {READ}; 7 others wait for it in all_reduce"
    assert world.job.status.attempt == 2
    assert world.job.status.restarts.infrastructure == 1


def test_it_waits_for_the_others_words_and_not_for_long() -> None:
    world = end(training().later(70), {1: READS}).settled()
    assert world.plan().trail[-1].startswith("hear_hang: WaitingForStacks")
    assert world.job.status.faults == ()

    heard = end(world.later(5), {0: waits(0), 2: waits(2), 3: waits(3)}).settled()
    assert only(heard).evidence[0].endswith("7 others wait for it in all_reduce")

    late = world.later(13).settled()
    assert (only(late).cause, only(late).node) == ("Hang", "n2")
    assert only(late).evidence[0].startswith(f"rank 3 on n2 stands in {READ}; 7 others")


def test_a_pod_that_said_nothing_at_all_is_the_suspect() -> None:
    """Its processes are stopped: it still runs, and the others ended because they waited for it."""
    world = end(training().later(70), {0: waits(0), 2: waits(2), 3: waits(3)}).settled().later(13).settled()
    fault = only(world.later(61).settled())
    assert (fault.cause, fault.node) == ("Hang", "n2")
    assert fault.evidence[0] == "ranks 2-3 on n2 left no word; 6 others wait for them in all_reduce"


def test_one_that_lost_its_peers_over_the_hang_is_no_suspect() -> None:
    world = end(training().later(70), {0: waits(0), 1: READS, 2: peer(), 3: waits(3)}).settled()
    assert only(world).node == "n2"


def test_where_all_wait_in_one_place_the_hang_has_no_node() -> None:
    world = end(training().later(70), {slot: waits(slot) for slot in range(4)}).settled()
    fault = only(world)
    assert (fault.cause, fault.node) == ("Hang", "")
    assert fault.evidence[0] == "no rank stands out from the others"


def test_a_node_that_died_explains_the_hang() -> None:
    world = end(training().later(70), {0: waits(0), 2: waits(2), 3: waits(3)}).dead("n2").settled()
    assert [(fault.cause, fault.node) for fault in world.job.status.faults] == [("NodeNotReady", "n2")]


def restarted(world: World, said: Mapping[int, Termination | None]) -> World:
    """Let torchrun start the processes of these slots again in place: they tell how those before ended."""
    again = world.restarted(13, resumed=10).progress
    slots = {pod.name: pod.slot for pod in world.pods}
    mixed = {
        name: dataclasses.replace(again[name], ended=said[slots[name]]) if slots[name] in said else before
        for name, before in world.progress.items()
    }
    return dataclasses.replace(world, progress=mixed)


ALL: dict[int, Termination | None] = {0: waits(0), 1: READS, 2: waits(2), 3: waits(3)}


def test_a_restart_in_place_after_a_hang_is_told_as_one() -> None:
    world = restarted(training().later(80), ALL).settled()
    fault = only(world)
    assert (fault.cause, fault.node) == ("Hang", "n2")
    assert fault.evidence[0] == f"rank 3 on n2 stands in {READ}; 7 others wait for it in all_reduce"
    assert (world.job.status.attempt, world.job.status.restarts.infrastructure) == (1, 0)


def test_a_restart_in_place_for_another_reason_is_not() -> None:
    """The control: the same processes, who lost a peer."""
    world = restarted(training().later(80), {slot: peer() for slot in range(4)}).settled()
    assert (only(world).cause, only(world).node) == ("ProcessRestart", "")


def test_words_that_come_one_by_one_complete_the_record() -> None:
    world = training().later(80)
    unfinished = restarted(world, {0: waits(0)})
    progress = {name: dataclasses.replace(said, first_step_time=None) for name, said in unfinished.progress.items()}
    first = dataclasses.replace(unfinished, progress=progress).settled()
    assert only(first).cause == "Hang"
    assert only(first).times.closed is None

    second = dataclasses.replace(first, progress=restarted(world, ALL).progress).settled()
    assert (only(second).id, only(second).node) == (only(first).id, "n2")


@pytest.mark.parametrize("ended", [peer(), None], ids=["lost its peers", "was a spare"])
def test_who_came_back_without_a_word_about_the_hang_is_no_suspect(ended: Termination | None) -> None:
    world = restarted(training().later(80), ALL | {2: ended}).settled()
    assert only(world).node == "n2"


def test_two_hangs_in_a_row_are_two_records() -> None:
    world = end(training().later(70), {slot: waits(slot) for slot in range(4)}).settled()
    world = world.later(5).settled().later(5)
    world = world.trained(20, resumed=10).settled().later(5).trained(25).settled()
    assert only(world).times.closed is not None
    world = end(world.later(70), {slot: waits(slot) for slot in range(4)}).settled()
    assert [fault.cause for fault in world.job.status.faults] == ["Hang", "Hang"]
    assert [fault.node for fault in world.job.status.faults] == ["", ""]
