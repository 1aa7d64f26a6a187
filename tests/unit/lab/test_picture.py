"""What the picture of a chaos run leaves out."""

from lab.chaos.picture import truthful
from lab.watch import StepSeen


def step(number: int, time: float) -> StepSeen:
    return StepSeen(number, "0x1p0", time, "p", None)


def test_steps_by_a_clock_an_hour_off_are_not_drawn() -> None:
    """A step that was computed twice is: its second time lies in the run as well."""
    told = [step(3, 30), step(1, 10), step(2, 3620), step(2, -3580), step(2, 20), step(2, 25)]
    assert [s.time for s in truthful(told)] == [10, 20, 25, 30]
    assert truthful([]) == []
