"""Since when larger sizes are possible, and when one of them is taken."""

from datetime import timedelta

import pytest

from internlm2_operator.api.status import Room
from internlm2_operator.plan.room import ripe, tracked
from tests.unit.plan.world import after

STEADY = timedelta(seconds=60)


def rooms(*known: tuple[int, float]) -> tuple[Room, ...]:
    """Return sizes with the second since when each is possible."""
    return tuple(Room(size=size, since=after(since)) for size, since in known)


TRACKED = {
    "nothing above the size": ((), 2, ()),
    "the first room": ((), 4, ((4, 100),)),
    "room that stays keeps its time": (((4, 10),), 4, ((4, 10),)),
    "a larger size begins its own time": (((4, 10),), 8, ((4, 10), (8, 100))),
    "a size that falls away leaves its time to the next smaller one": (((8, 10),), 4, ((4, 10),)),
    "a smaller size that was known is the older one": (((4, 10), (8, 50)), 4, ((4, 10),)),
    "sizes in between": (((4, 10), (16, 50)), 8, ((4, 10), (8, 50))),
    "room that goes is forgotten": (((4, 10), (8, 50)), 2, ()),
}


@pytest.mark.parametrize(("known", "best", "want"), TRACKED.values(), ids=TRACKED.keys())
def test_tracked(known: tuple[tuple[int, float], ...], best: int, want: tuple[tuple[int, float], ...]) -> None:
    assert tracked(rooms(*known), 2, best, after(100)) == rooms(*want)


RIPE = {
    "not yet": (((4, 70),), (4, 130)),
    "ripe": (((4, 40),), (4, 100)),
    "the largest of ripe ones": (((4, 10), (8, 30)), (8, 90)),
    "a larger one that is about to be ripe is waited for": (((4, 35), (8, 60)), (4, 120)),
    "but no longer than as long again": (((4, 35), (8, 99)), (4, 155)),
    "nodes that come and go do not keep the job from those that stay": (((4, -30), (8, 99)), (4, 90)),
}


@pytest.mark.parametrize(("known", "want"), RIPE.values(), ids=RIPE.keys())
def test_ripe(known: tuple[tuple[int, float], ...], want: tuple[int, float]) -> None:
    assert ripe(rooms(*known), STEADY, after(100)) == (want[0], after(want[1]))
