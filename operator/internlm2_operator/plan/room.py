"""Since when nodes for larger sizes have been free, and which of them can be relied on."""

from datetime import datetime, timedelta

from internlm2_operator.api.status import MAX_ROOM, Room


def tracked(known: tuple[Room, ...], size: int, best: int, now: datetime) -> tuple[Room, ...]:
    """Return the sizes above `size` that are possible, up to `best`, with the time since when each is.

    Ascending in size and in time: what is possible for a size is possible for every smaller one, so
    a size that falls away leaves its time to the next smaller one that remains.
    """
    if best <= size:
        return ()
    below = tuple(room for room in known if size < room.size < best)
    since = min((room.since for room in known if room.size >= best), default=now)
    return (*below, Room(size=best, since=since))[-MAX_ROOM:]


def ripe(room: tuple[Room, ...], steady: timedelta, now: datetime) -> tuple[int, datetime]:
    """Return the size to grow to and the moment from which it may be taken; the moment is past once it is ripe.

    A size is ripe when its nodes have been free for `steady` without a break. A larger one that is
    not ripe yet is waited for, as nodes come back one by one, but no longer than `steady` once more:
    nodes that come and go must not keep the job from those that stay.
    """
    known = [r for r in room if now - r.since >= steady]
    if not known:
        return room[0].size, room[0].since + steady
    if len(known) == len(room):
        return known[-1].size, known[-1].since + steady
    until = min(room[len(known)].since + steady, known[-1].since + 2 * steady)
    return known[-1].size, until
