"""What a process spent its wall time on: every second has one cause."""

from internlm2_spec.metrics import Cause


class Ledger:
    """Books time on causes, without gap or overlap. Moments are seconds of one clock that never goes back."""

    def __init__(self, now: float) -> None:
        self._until = now

    def spend(self, now: float) -> float:
        """Return the seconds since the last call, which are now spent."""
        seconds, self._until = now - self._until, now
        return seconds


def cause_of(step: int, *, updated: bool, given_up: int, reached: int) -> Cause:
    """Return what the time of `step` (from 1) is booked on.

    `given_up` is the highest step that a rollback has given up, `reached` the highest that was done before
    this process; 0 for none.
    """
    if not updated:
        return Cause.SKIPPED
    if step <= given_up:
        return Cause.ROLLED_BACK
    return Cause.REPEATED if step <= reached else Cause.PRODUCTIVE
