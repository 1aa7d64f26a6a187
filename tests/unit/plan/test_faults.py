"""When the record of a fault is final, what may explain it later, and whose word its times are."""

import dataclasses

import pytest

from internlm2_operator.api.status import Fault, FaultTimes
from internlm2_operator.plan.faults import EXPLAINED_WITHIN, IN_PLACE, final
from tests.unit.plan.world import GPUS, T0, World, after, four_nodes, job, trained_world

LATE = EXPLAINED_WITHIN.total_seconds()
OPEN, CLOSED = FaultTimes(signal=T0), FaultTimes(signal=T0, closed=T0)
RESTART = Fault(id="f", cause="ProcessRestart", action=IN_PLACE, times=CLOSED)
SILENT = Fault(id="f", cause="NodeNotReady", times=CLOSED)
# The fault, the seconds since its signal, and whether its record stays as it is.
CASES = {
    "open": (Fault(id="f", cause="Xid79", times=OPEN), 10, False),
    "open for long": (Fault(id="f", cause="Xid79", times=OPEN), 10 * LATE, False),
    "closed": (Fault(id="f", cause="Xid79", times=CLOSED), 10, True),
    "a restart in place": (RESTART, 10, False),
    "a restart in place that nothing explained": (RESTART, LATE + 1, True),
    "a symptom": (SILENT, 10, False),
    "a symptom with its cordon": (SILENT.model_copy(update={"cordoned": True}), 10, True),
    "a symptom that nobody saw begin": (SILENT.model_copy(update={"times": FaultTimes(closed=T0)}), 10, True),
}


@pytest.mark.parametrize(("fault", "seconds", "expected"), CASES.values(), ids=CASES)
def test_a_record_is_final(fault: Fault, seconds: float, expected: bool) -> None:
    assert final(fault, after(seconds)) is expected


@pytest.mark.parametrize("slot", [0, 1])
def test_a_pod_whose_clock_is_ahead_dates_no_fault_into_the_future(slot: int) -> None:
    world = trained_world(job(spares=0), four_nodes()).later(5).trained(20)
    (ahead,) = (name for name, p in world.progress.items() if p.rank == slot * GPUS)
    said = world.progress[ahead]
    first = (said.first_step_time or 0) + 3600
    lies = dataclasses.replace(said, step_time=said.step_time + 3600, first_step_time=first)
    world = dataclasses.replace(world, progress={**world.progress, ahead: lies})
    world = world.ended(1, 137, reason="Error").settled().later(40).settled()
    (fault,) = world.job.status.faults
    told = [time for time in fault.times.model_dump().values() if time is not None]
    assert max(told) <= world.now
    assert min(seconds for seconds in fault.seconds.values() if seconds is not None) >= 0


def since_closed(world: World, seconds: float) -> World:
    """Let the time come that is so many seconds after the end of the only fault."""
    (fault,) = world.job.status.faults
    assert fault.times.closed is not None
    return world.later((fault.times.closed - world.now).total_seconds() + seconds)


def unheard(world: World) -> World:
    """Let nothing have been heard after the first step of each process."""
    said = {name: dataclasses.replace(p, step_time=p.first_step_time or 0.0) for name, p in world.progress.items()}
    return dataclasses.replace(world, progress=said)


# What comes how many seconds after a restart in place is over, and whether it was the reason of that restart.
AFTERWARDS = {
    "a rank that was killed, seen a moment later": ("RankKilled", 4, True),
    "a rank that was killed next": ("RankKilled", 6, False),
    "a GPU that said so with the next scrape": ("Xid79", 4, True),
    "a GPU that fell next": ("Xid79", 20, False),
    "a node that is called dead after its grace": ("NodeNotReady", 50, True),
    "a node that died next": ("NodeNotReady", 70, False),
    "a node check of the suspect": ("NodeCheckFailed", 60, True),
}


def check_afterwards(world: World, name: str, seconds: float, explains: bool) -> None:
    """Let it come to the member of slot 1 on n2, and see whose record it is in."""
    world = since_closed(world, seconds)
    world = world.ended(1, 137, reason="Error") if name == "RankKilled" else world.faulty("n2", name)
    causes = [fault.cause for fault in world.settled().job.status.faults]
    assert len(causes) == (1 if explains else 2)
    assert explains is (causes[0] != "ProcessRestart")


@pytest.mark.parametrize(("name", "seconds", "explains"), AFTERWARDS.values(), ids=AFTERWARDS)
def test_what_is_told_late_explains_a_restart_and_what_came_later_does_not(
    name: str, seconds: float, explains: bool
) -> None:
    world = trained_world(job(spares=0), four_nodes(), step=12).later(30)
    check_afterwards(unheard(world.restarted(11, resumed=10)).settled(), name, seconds, explains)


@pytest.mark.parametrize(("name", "seconds", "explains"), AFTERWARDS.values(), ids=AFTERWARDS)
def test_the_end_of_one_that_had_become_a_spare_is_told_by_the_clock(name: str, seconds: float, explains: bool) -> None:
    """The others formed without it, as they do without a dead member, and nothing is heard of it since."""
    world = trained_world(step=12).later(30)
    again, names = world.restarted(11, resumed=10).progress, {pod.slot: pod.name for pod in world.pods}
    taken = dataclasses.replace(again[names[1]], incarnation=0)
    before = world.progress[names[1]]
    world = dataclasses.replace(world, progress={**again, names[1]: before, names[2]: taken}).settled()
    check_afterwards(world, name, seconds, explains)


# The cordon that comes how many seconds after a killed pod was replaced, and whether its node had killed that pod.
CORDONS = {
    "a GPU that said so with the next scrape": ("Xid79", 4, True),
    "a GPU that fell next": ("Xid79", 20, False),
    "a node that is called dead after its grace": ("NodeNotReady", 50, True),
    "a node that died next": ("NodeNotReady", 70, False),
    "a node check of the suspect": ("NodeCheckFailed", 70, True),
}


@pytest.mark.parametrize(("name", "seconds", "explains"), CORDONS.values(), ids=CORDONS)
def test_a_late_cordon_explains_the_end_of_a_pod_and_that_of_the_next_fault_does_not(
    name: str, seconds: float, explains: bool
) -> None:
    world = trained_world(step=12).later(20).ended(1, 137, reason="Error").settled().later(5).trained(13).settled()
    (killed,) = world.job.status.faults
    assert (killed.node, killed.cordoned) == ("n2", False)
    world = since_closed(unheard(world), seconds).faulty("n2", name).settled()
    explained = next(fault for fault in world.job.status.faults if fault.id == killed.id)
    assert explained.cause == (name if explains else killed.cause)
    assert explained.cordoned is explains


def test_a_cordon_explains_no_end_after_which_the_node_has_trained() -> None:
    """Torchrun may start the processes of a killed member again on the same node."""
    world = trained_world(step=12).later(20).ended(1, 137, reason="Error").settled().later(5).trained(13).settled()
    (killed,) = world.job.status.faults
    assert "n2" in world.on.values()
    world = world.later(3).trained(20).faulty("n2").settled()
    assert [(fault.cause, fault.cordoned) for fault in world.job.status.faults] == [
        (killed.cause, False),
        ("Xid79", True),
    ]
