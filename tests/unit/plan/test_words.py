"""What conditions say about starts and faults."""

from datetime import timedelta
from typing import Final

import pytest

from internlm2_operator.api.status import Fault, FaultTimes
from internlm2_operator.plan import words
from internlm2_operator.plan.view import look
from tests.unit.plan.world import T0, World, four_nodes, job, trained_world


def fault(cause: str = "Xid79", node: str = "n1", **changes: object) -> Fault:
    """Return a fault of a node at T0, whose member was replaced."""
    known = {"id": "1", "cause": cause, "node": node, "action": "member replaced", "times": FaultTimes(signal=T0)}
    return Fault.model_validate(known | changes)


OPEN: Final = {
    "a fault whose pods do not all run": (
        [fault()],
        "Xid79 on n1 since 2026-03-01T12:00:00Z: member replaced; waits for all pods to run",
    ),
    "a cordoned one that loads": (
        [fault(cordoned=True, times=FaultTimes(signal=T0, replacement=T0))],
        "Xid79 on n1 since 2026-03-01T12:00:00Z: member replaced, node cordoned; waits for the checkpoint to be loaded",
    ),
    "one without a node that has loaded": (
        [fault(cause="Stalled", node="", action="", times=FaultTimes(replacement=T0, resume=T0))],
        "Stalled: nothing done yet; waits for the first step",
    ),
}
PAST: Final = {
    "no fault": ((), "no fault so far"),
    "one that is over": (
        (fault(seconds={"total": 31.6}, steps_lost=2),),
        "the last fault, Xid79 on n1, was over after 32 s and 2 steps done twice",
    ),
    "the last of two, which cost nothing": (
        (fault(), fault(cause="Drained", node="", steps_lost=0)),
        "the last fault, Drained, was over",
    ),
}


@pytest.mark.parametrize(("opened", "told"), OPEN.values(), ids=OPEN)
def test_an_open_fault_is_told(opened: list[Fault], told: str) -> None:
    assert words.recovery(opened) == told


def test_many_open_faults_fit_into_one_condition() -> None:
    told = words.recovery([fault(node=f"n{i}") for i in range(20)])
    assert told.endswith("| and 17 earlier, see status.faults")
    assert ("on n19 " in told, "on n16 " in told, len(told) < 1024) == (True, False, True)


@pytest.mark.parametrize(("faults", "told"), PAST.values(), ids=PAST)
def test_a_past_fault_is_told(faults: tuple[Fault, ...], told: str) -> None:
    assert words.health(faults) == told


def test_a_start_is_told_from_the_first_pod_to_the_first_step() -> None:
    placed = World(job(), four_nodes()).settled()
    assert words.start(look(placed.snapshot(), placed.now)) == (
        "0 of 3 pods run, 0 of 2 trainers answer, 0 have done a step"
    )
    trains = trained_world()
    assert trains.now > T0 + timedelta(seconds=1)
    assert (
        words.start(look(trains.snapshot(), trains.now))
        == "3 of 3 pods run, 2 of 2 trainers answer, 2 have done a step"
    )
