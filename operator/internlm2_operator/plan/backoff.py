"""How long to wait before the next pods, from the faults in the status: a restart of the operator forgets nothing."""

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from internlm2_operator.api.status import Fault
from internlm2_operator.plan.cause import Kind
from internlm2_operator.plan.causes import cause
from internlm2_operator.plan.faults import open_faults

# So many faults in a row are answered at once; then the infrastructure is given time to recover.
AT_ONCE: Final = 3
FIRST: Final = 1.0  # seconds, doubled for each further fault in the row
LONGEST: Final = 60.0
# A fault that a step closed, or that stopped nobody, still counts for so long: a job that ends right
# after its first step each time, or a spare that is refused each time, is slowed down, too.
IN_A_ROW: Final = timedelta(seconds=60)
# Jobs that fell together do not come back together: a wait is between 1 - and 1 + this of its length.
JITTER: Final = 0.25


def wait_until(
    faults: Sequence[Fault], salt: str, now: datetime, *, elsewhere: bool = False
) -> tuple[datetime, Fault] | None:
    """Return until when no pods are made and the fault that says so, None when they may be made now.

    `elsewhere` says that the next pod is one member's, on another node: the first of those is not put
    off, because what is missing may be there. `salt` is the job's uid: the jitter is drawn from it and
    from the length of the row, so that the same status always gives the same time.
    """
    waits = [wait for fault in faults if (wait := _own(fault, fault.count - elsewhere, salt)) is not None]
    if (row := _in_a_row(faults, salt, now)) is not None:
        waits.append(row)
    latest = max(waits, key=lambda wait: wait[0], default=None)
    return latest if latest is not None and latest[0] > now else None


def _own(fault: Fault, times: int, salt: str) -> tuple[datetime, Fault] | None:
    """The back-off of a cause that has its own."""
    wait = cause(fault.cause).backoff
    if wait is None or times < 1 or fault.times.closed is not None or fault.times.verdict is None:
        return None
    return _after(fault.times.verdict, wait, times, salt), fault


def _in_a_row(faults: Sequence[Fault], salt: str, now: datetime) -> tuple[datetime, Fault] | None:
    """The back-off of many faults in a row, whatever their causes."""
    opened = open_faults(faults)
    counted = [
        (f.times.verdict, f)
        for f in faults
        if f.times.verdict is not None and _may_repeat(f) and (f in opened or now - f.times.verdict <= IN_A_ROW)
    ]
    # One decision may record many faults: they are one round.
    rounds = len({verdict for verdict, _ in counted}) - AT_ONCE
    if rounds <= 0:
        return None
    verdict, last = max(counted, key=lambda item: item[0])
    return _after(verdict, (FIRST, LONGEST), rounds, salt), last


def _may_repeat(fault: Fault) -> bool:
    """A cordoned node cannot fail again, and what is waited for has its own back-off."""
    return not fault.cordoned and cause(fault.cause).kind is not Kind.WAITING


def _after(since: datetime, wait: tuple[float, float], times: int, salt: str) -> datetime:
    first, longest = wait
    seconds = min(longest, first * 2.0 ** min(times - 1, 20))
    return since + timedelta(seconds=seconds * jitter(salt, times))


def jitter(salt: str, times: int) -> float:
    """Return a factor between 1 - JITTER and 1 + JITTER that only depends on the arguments."""
    drawn = int.from_bytes(hashlib.sha256(f"{salt} {times}".encode()).digest()[:4]) / 2**32
    return 1 - JITTER + 2 * JITTER * drawn
