"""Events of one node as its condition `GPUHealthy`, and the events back out of the condition's message.

True     no fault, perhaps with notes: what a program causes, what was contained
False    a fault; the reason is the gravest, of equals the first in time
Unknown  the agent cannot see, or the device plugin is starting
"""

import enum
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

from internlm2_operator.health import kernel
from internlm2_operator.health.rules import MEMORY_LIMIT
from internlm2_operator.health.signals import Kind, Signal, Source
from internlm2_operator.health.verdict import Action
from internlm2_operator.health.xid import RECOVERY_CHANGED, WORDED, Act, recovery, rule_of

TYPE: Final = "GPUHealthy"
HEALTHY: Final = "Healthy"
MAX_MESSAGE: Final = 1024
MAX_EVENTS: Final = 24
BURST: Final = timedelta(seconds=60)
"""Within it the same cause at the same place is one event: drivers say a thing many times over."""
NOTE_KEPT: Final = timedelta(hours=1)
"""Long enough for an operator that was away; a fault is kept until its GPU starts afresh, however long that takes."""
_MAX_DETAIL: Final = 160
_NOTHING: Final = "no fault is seen"


class Gravity(enum.IntEnum):
    """What an event makes of the condition; a storm of lesser events never pushes a graver one out."""

    NOTE = 0
    SURVIVED = 1  # the hardware's and no fault: it explains a metric that has no words
    BLIND = 2
    DEGRADED = 3
    SUSPECT = 4
    HARD = 5


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened: `cause` in CamelCase, `where` a PCI address, path or interface, or empty.

    `at` has whole milliseconds, in UTC. Make it by `event`, which leaves out what the message could not carry.
    """

    cause: str
    where: str
    at: datetime
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Condition:
    """What is written; `message` is one line of at most MAX_MESSAGE bytes."""

    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Kept:
    """Events of the kernel log that count still, and how many more were seen and left out."""

    events: tuple[Event, ...] = ()
    left_out: int = 0


_GRAVITY: Final = {
    "GpuLost": Gravity.HARD,
    "DriverFailed": Gravity.SUSPECT,
    "MachineCheck": Gravity.SUSPECT,
    "DeviceUnhealthy": Gravity.SUSPECT,
    "DiskReadOnly": Gravity.SUSPECT,
    "LinkDown": Gravity.SUSPECT,
    "DiskFull": Gravity.DEGRADED,
    "ClockSkew": Gravity.DEGRADED,
    "DevicePluginRestarting": Gravity.BLIND,
    "KernelLogUnreadable": Gravity.BLIND,
}
_CODE: Final = re.compile(r"(S?Xid)(\d{1,6})", re.A)
_ENTRY: Final = re.compile(
    r"(?P<cause>S?Xid \d{1,6}|[A-Z][A-Za-z0-9]{0,62})(?: on (?P<where>[!-~]{1,100}))?"
    r" at (?P<at>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z)(?: \((?P<detail>[^;()]+)\))?",
    re.A,
)


def known(cause: str) -> bool:
    """Say whether a cause is a code, or one for which the agent calls a node unwell."""
    return cause in _GRAVITY or _CODE.fullmatch(cause) is not None


def event(cause: str, where: str, at: datetime, detail: str = "") -> Event:
    """Return the event with what the message cannot carry replaced: separators, anything but printable ASCII."""
    clean = "".join(char if " " <= char <= "~" else "?" for char in detail)
    clean = clean.translate(str.maketrans("();", "[],"))[:_MAX_DETAIL].strip()
    place = "".join(char for char in where if "!" <= char <= "~" and char not in "();")[:100]
    at = at.astimezone(UTC)
    return Event(cause, place, at.replace(microsecond=at.microsecond // 1000 * 1000), clean)


def event_of(seen: kernel.Seen, at: datetime) -> Event | None:
    """Return the event that a line of the kernel is; None for those that only tell where to look."""
    match seen:
        case kernel.XidSeen(code, pci, text):
            return event(f"Xid{code}", pci, at, text)
        case kernel.SXidSeen(code, fatal, link, pci, text):
            port = f", Link {link}" if link is not None else ""
            return event(f"SXid{code}", pci, at, f"{'Fatal' if fatal else 'Non-fatal'}{port}, {text}")
        case kernel.GpuLost(pci):
            return event("GpuLost", pci, at)
        case kernel.DriverFailed(pci):
            return event("DriverFailed", pci, at)
        case kernel.MachineCheck(where):
            return event("MachineCheck", where.replace(" ", ""), at)
        case kernel.OutOfMemory(pid):
            return event("OutOfMemory", "", at, f"process {pid} was killed")
        case kernel.MemoryLimit(pid):
            return event(MEMORY_LIMIT, "", at, f"process {pid} was killed")
        case _:
            return None


def gravity(one: Event) -> Gravity:
    """Return how much an event weighs; an SXID that does not say that it is not fatal is."""
    code = _CODE.fullmatch(one.cause)
    if code is None:
        return _GRAVITY.get(one.cause, Gravity.NOTE)
    if code[1] == "SXid":
        return Gravity.NOTE if one.detail.startswith("Non-fatal") else Gravity.SUSPECT
    if int(code[2]) == RECOVERY_CHANGED and (asked := recovery(one.detail)) is not None:
        return Gravity.SURVIVED if asked is Action.NONE else Gravity.HARD
    least = Gravity.SURVIVED if int(code[2]) in WORDED else Gravity.NOTE
    return {Act.CORDON: Gravity.HARD, Act.SUSPECT: Gravity.SUSPECT}.get(rule_of(int(code[2]), one.detail).act, least)


def keep(kept: Kept, new: Event) -> Kept:
    """Add an event; in a burst of its like, and beyond MAX_EVENTS the least and oldest, are only counted.

    One that weighs more than the others of its burst is news: the same code may say first that it is not fatal.
    """
    alike = [e for e in kept.events if (e.cause, e.where) == (new.cause, new.where)]
    if any(abs(e.at - new.at) < BURST and gravity(e) >= gravity(new) for e in alike):
        return replace(kept, left_out=kept.left_out + 1)
    events = sorted((*kept.events, new), key=_least_first)
    return Kept(tuple(events[-MAX_EVENTS:]), kept.left_out + max(0, len(events) - MAX_EVENTS))


def restarted(kept: Kept) -> Kept:
    """Forget what a start of the driver ends: all that is a GPU's or a switch's."""
    stay = tuple(e for e in kept.events if not _CODE.fullmatch(e.cause) and e.cause not in ("GpuLost", "DriverFailed"))
    return Kept(stay, 0)


def forget(kept: Kept, now: datetime, reset: datetime | None) -> Kept:
    """Forget what is over: notes by time, faults only when somebody says that they were dealt with at `reset`."""
    stay = tuple(
        e
        for e in kept.events
        if (reset is None or e.at > reset) and (gravity(e) > Gravity.SURVIVED or now - e.at < NOTE_KEPT)
    )
    return kept if stay == kept.events else Kept(stay, kept.left_out if stay else 0)


def condition(seen: Iterable[Event], left_out: int = 0) -> Condition:
    """Return the condition of a node where this is so."""
    order = sorted(seen, key=_least_first, reverse=True)
    gravest = max(map(gravity, order), default=Gravity.NOTE)
    message = _message(order, left_out)
    if gravest <= Gravity.SURVIVED:
        return Condition("True", HEALTHY, message)
    first = min((e for e in order if gravity(e) is gravest), key=lambda e: (e.at, e.cause, e.where))
    return Condition("Unknown" if gravest is Gravity.BLIND else "False", first.cause, message)


def events(message: str) -> tuple[Event, ...]:
    """Return the events of a message of ours, in its order; what is not in our form is passed over."""
    found = (_ENTRY.fullmatch(part) for part in message.split("; "))
    return tuple(one for match in found if match is not None and (one := _event(match)) is not None)


def signals(node: str, seen: Iterable[Event], *, job: str = "", domain: str = "") -> Iterator[Signal]:
    """Yield the events of a node's condition as signals about it; `job` and `domain` are the node's."""
    for one in seen:
        code = _CODE.fullmatch(one.cause)
        gpu = one.where.rpartition(".")[0] or one.where if ":" in one.where else ""
        xid, reason, words = None, "", f"kernel log: {one.detail}"
        if code is None:
            where = "" if gpu or not one.where else f" {one.where}"
            kind, source, reason = Kind.CONDITION, Source.NODE, one.cause
            words = f"the node agent says {one.cause}{where} {one.detail}".rstrip()
        elif code[1] == "Xid":
            kind, source, xid = Kind.XID, Source.DRIVER, int(code[2])
        else:
            kind, source, xid, gpu = Kind.SXID, Source.SWITCH, int(code[2]), ""
            reason = "SXidNonFatal" if one.detail.startswith("Non-fatal") else "SXidFatal"
        yield Signal(kind, source, node, one.at, words, gpu=gpu, xid=xid, reason=reason, job=job, domain=domain)


def say_time(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _event(match: re.Match[str]) -> Event | None:
    try:
        at = datetime.fromisoformat(match["at"])
    except ValueError:  # the 31st of February
        return None
    return Event(match["cause"].replace(" ", ""), match["where"] or "", at, match["detail"] or "")


def _least_first(one: Event) -> tuple[Gravity, datetime, str, str, str]:
    # Backwards it is the message's order: by gravity, then the newest. A program's notes cannot push a fault out.
    return (gravity(one), one.at, one.cause, one.where, one.detail)


def _message(order: Sequence[Event], left_out: int) -> str:
    said: list[str] = []
    room = MAX_MESSAGE - len("; and 9999999999 more")
    for one in order:
        words = _say(one)
        if room < len(words) + 2:
            break
        room -= len(words) + 2
        said.append(words)
    more = len(order) - len(said) + min(left_out, 10**9)
    return "; ".join([*(said or [_NOTHING]), *([f"and {more} more"] if more else [])])


def _say(one: Event) -> str:
    words = _CODE.sub(r"\1 \2", one.cause) if _CODE.fullmatch(one.cause) else one.cause
    where = f" on {one.where}" if one.where else ""
    detail = f" ({one.detail})" if one.detail else ""
    return f"{words}{where} at {say_time(one.at)}{detail}"
