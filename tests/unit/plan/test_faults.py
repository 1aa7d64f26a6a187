"""When the record of a fault is final, and whose word its times are."""

import dataclasses

import pytest

from internlm2_operator.api.status import Fault, FaultTimes
from internlm2_operator.plan.faults import EXPLAINED_WITHIN, IN_PLACE, final
from tests.unit.plan.world import GPUS, T0, after, four_nodes, job, trained_world

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
