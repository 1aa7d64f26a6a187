"""How long the next pods are put off."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internlm2_operator.api.status import Fault, FaultTimes
from internlm2_operator.plan.backoff import JITTER, jitter, wait_until
from tests.examples import few
from tests.unit.plan.world import T0, after


def fault(cause: str, at: float, *, count: int = 1, closed: float | None = None, cordoned: bool = False) -> Fault:
    times = FaultTimes(signal=after(at), verdict=after(at), closed=None if closed is None else after(closed))
    return Fault(id=f"{cause}-{at}", cause=cause, count=count, cordoned=cordoned, times=times)


def kills(*at: float, closed: float | None = None) -> tuple[Fault, ...]:
    return tuple(fault("ProcessKilled", seconds, closed=closed) for seconds in at)


# Seconds after T0 at which the status is looked at, and the wait from then on without jitter, None for none.
WAITS = {
    "nothing happened": ((), 0, None),
    "three faults in a row are answered at once": (kills(0, 1, 2), 2, None),
    "the fourth waits a second": (kills(0, 1, 2, 3), 3, 1),
    "the sixth waits four": (kills(0, 1, 2, 3, 4, 5), 5, 4),
    "no row waits longer than a minute": (kills(*range(20)), 19, 60),
    "nodes lost at once are one round": (kills(*[0] * 20), 0, None),
    "cordoned nodes cannot fail again": (tuple(fault("Xid79", s, cordoned=True) for s in range(20)), 19, None),
    "faults that a step closed count for a minute": (kills(0, 1, 2, 3, closed=3), 3, 1),
    "and not longer": (kills(0, 1, 2, 3, closed=3), 64, None),
    "an image is waited for at once": ((fault("ImagePullFailed", 0),), 0, 30),
    "and longer each time": ((fault("ImagePullFailed", 0, count=3),), 0, 120),
    "but ten minutes at most": ((fault("ImagePullFailed", 0, count=30),), 0, 600),
    "waits are no faults in a row": (tuple(fault("QuotaExceeded", s) for s in range(4)), 3, 30),
    "an image that came is forgotten": ((fault("ImagePullFailed", 0, closed=1),), 0, None),
    "the longer of two waits holds": ((fault("DataRefused", 0), *kills(0, 1, 2, 3)), 3, 12),
}


@pytest.mark.parametrize(("faults", "now", "wait"), WAITS.values(), ids=WAITS)
def test_wait(faults: tuple[Fault, ...], now: float, wait: float | None) -> None:
    found = wait_until(faults, "uid", after(now))
    if wait is None:
        assert found is None
        return
    assert found is not None
    verdict = found[1].times.verdict
    assert verdict is not None
    base = wait + (after(now) - verdict).total_seconds()
    assert abs((found[0] - verdict).total_seconds() - base) <= JITTER * base


def test_first_pod_on_another_node_is_not_put_off_and_the_second_is() -> None:
    one, two = (fault("ImagePullFailed", 0, count=count) for count in (1, 2))
    assert wait_until((one,), "uid", T0, elsewhere=True) is None
    assert wait_until((two,), "uid", T0, elsewhere=True) is not None


def test_wait_that_is_over_is_none() -> None:
    faults = kills(0, 1, 2, 3)
    found = wait_until(faults, "uid", after(3))
    assert found is not None
    assert wait_until(faults, "uid", found[0]) is None
    assert wait_until(faults, "uid", found[0] - timedelta(milliseconds=1)) == found


@few
@given(st.text(max_size=40), st.integers(1, 1000))
def test_jitter_is_drawn_from_its_arguments_alone(salt: str, times: int) -> None:
    assert 1 - JITTER <= jitter(salt, times) < 1 + JITTER
    assert jitter(salt, times) == jitter(salt, times)


def test_jobs_that_fell_together_come_back_apart() -> None:
    drawn = [jitter(f"uid-{i}", 1) for i in range(1000)]
    assert len(set(drawn)) == 1000
    assert abs(sum(drawn) / 1000 - 1) < 0.02
