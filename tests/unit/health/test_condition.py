"""Events to the condition GPUHealthy, and back."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internlm2_operator.health import kernel
from internlm2_operator.health.condition import (
    MAX_EVENTS,
    MAX_MESSAGE,
    NOTE_KEPT,
    Condition,
    Event,
    Gravity,
    Kept,
    condition,
    event,
    event_of,
    events,
    forget,
    gravity,
    keep,
    restarted,
)

NOW = datetime(2026, 11, 26, 10, 0, 0, 123000, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def xid(code: int, seconds: float = 0, where: str = "0000:3b:00", detail: str = "") -> Event:
    return event(f"Xid{code}", where, at(seconds), detail)


def kept(*seen: Event) -> Kept:
    found = Kept()
    for one in seen:
        found = keep(found, one)
    return found


NOTHING_NEEDED = "changed from 0x1 [Reset] to 0x0 [None]"
RESET = "changed from 0x0 [None] to 0x1 [Reset]"
STARTING = event("DevicePluginRestarting", "nvidia.com/gpu", NOW)
BLIND = event("KernelLogUnreadable", "", NOW)

CASES: dict[str, tuple[Sequence[Event], tuple[str, str]]] = {
    "nothing": ((), ("True", "Healthy")),
    "off the bus": ((xid(79),), ("False", "Xid79")),
    "a program's fault is a note": ((xid(31),), ("True", "Healthy")),
    "a contained error is a note": ((xid(94),), ("True", "Healthy")),
    "a hard fault beats an earlier suspicion": ((xid(119, 0), xid(79, 5)), ("False", "Xid79")),
    "of two hard faults the first is the reason": ((xid(95, 5), xid(79, 0)), ("False", "Xid79")),
    "a recovery that asks for nothing": ((xid(154, detail=NOTHING_NEEDED),), ("True", "Healthy")),
    "a recovery that asks for a reset": ((xid(154, detail=RESET),), ("False", "Xid154")),
    "a fatal SXID": ((event("SXid20034", "0000:c1:00.0", NOW, "Fatal, Link 4, x"),), ("False", "SXid20034")),
    "an SXID that is not": ((event("SXid22013", "0000:c1:00.0", NOW, "Non-fatal, Link 4, x"),), ("True", "Healthy")),
    "a device plugin that starts": ((STARTING,), ("Unknown", "DevicePluginRestarting")),
    "a fault beats blindness": ((BLIND, event("DiskFull", "/", NOW)), ("False", "DiskFull")),
    "a limit of memory is a note": ((event("MemoryLimit", "", NOW),), ("True", "Healthy")),
    "a killed process is a note": ((event("OutOfMemory", "", NOW),), ("True", "Healthy")),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_status_and_reason(case: str) -> None:
    seen, want = CASES[case]
    found = condition(seen)
    assert (found.status, found.reason) == want


def test_the_message_is_for_people() -> None:
    seen = (xid(79), xid(31, 9, "0000:5e:00"), event("LinkDown", "eth0", at(1), "down"))
    assert condition(seen, left_out=7) == Condition(
        "False",
        "Xid79",
        "Xid 79 on 0000:3b:00 at 2026-11-26T10:00:00.123Z; LinkDown on eth0 at 2026-11-26T10:00:01.123Z (down);"
        " Xid 31 on 0000:5e:00 at 2026-11-26T10:00:09.123Z; and 7 more",
    )


PLACES = st.text(alphabet="0123456789abcdef:./-_ ;()é", max_size=120)
CAUSES = st.sampled_from(["Xid79", "Xid13", "Xid154", "SXid20034", "DiskFull", "LinkDown", "OutOfMemory", "GpuLost"])
TIMES = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))
EVENTS = st.lists(st.builds(event, CAUSES, PLACES, TIMES, st.text(max_size=300)), max_size=30)


@given(EVENTS, st.integers(min_value=0, max_value=10**30))
def test_what_is_written_is_read_back(seen: list[Event], left_out: int) -> None:
    found = condition(seen, left_out)
    back = events(found.message)
    assert len(found.message.encode()) <= MAX_MESSAGE
    assert "\n" not in found.message
    weights = [gravity(e) for e in back]
    assert weights == sorted(weights, reverse=True)
    assert Counter(back) <= Counter(seen)
    assert len(back) == len(seen) or " more" in found.message
    assert condition(back).status == found.status or not back


@given(st.text(max_size=400))
def test_no_message_raises(text: str) -> None:
    assert events(text) == () or " at " in text


def test_a_message_of_somebody_else_has_no_events() -> None:
    texts = ("", "node check passed", "Xid 79", "Xid 79 on a b at 2026-11-26T10:00:00.123Z", "Xid 79 on 1 at now")
    assert [events(text) for text in texts] == [()] * len(texts)
    assert events("x at 2026-02-31T10:00:00.123Z; DiskFull at 2026-02-31T10:00:00.123Z") == ()


def test_a_storm_is_one_event_and_a_number() -> None:
    found = kept(*(xid(13, seconds / 1000) for seconds in range(2000)))
    assert found == Kept((xid(13),), left_out=1999)


def test_the_same_after_a_minute_is_another_event() -> None:
    assert kept(xid(13), xid(13, 60)).events == (xid(13), xid(13, 60))


WORSE = {
    "an error that a link survived, and one that it did not": (
        event("Xid145", "0000:3b:00", NOW, "RLW_RXPIPE Nonfatal XC0 i0 Link 13"),
        event("Xid145", "0000:3b:00", at(5), "RLW_REMAP Fatal XC1 i0 Link 08"),
    ),
    "a switch that says Fatal at last": (
        event("SXid20034", "0000:c1:00.0", NOW, "Non-fatal, Link 4, LTSSM"),
        event("SXid20034", "0000:c1:00.0", at(5), "Fatal, Link 4, LTSSM"),
    ),
    "a recovery that is asked for at last": (
        event("Xid154", "0000:3b:00", NOW, "GPU recovery action changed from 0x1 [GPU Reset Required] to 0x0 [None]"),
        event(
            "Xid154", "0000:3b:00", at(5), "GPU recovery action changed from 0x0 [None] to 0x2 [Node Reboot Required]"
        ),
    ),
}


@pytest.mark.parametrize(("first", "worse"), WORSE.values(), ids=WORSE)
def test_what_weighs_more_is_no_repeat(first: Event, worse: Event) -> None:
    assert kept(first, worse) == Kept((first, worse))
    assert kept(worse, first) == Kept((worse,), left_out=1)
    assert condition(kept(first).events).status == "True"
    assert condition(kept(first, worse).events).status == "False"


def test_notes_never_push_a_fault_out() -> None:
    """The control: without the fault only notes are there."""
    storm = [xid(31, n * 60, f"0000:{n:02x}:00", "x" * 160) for n in range(1, 100)]
    found = kept(xid(79), *storm)
    assert len(found.events) == MAX_EVENTS
    assert found.left_out == 100 - MAX_EVENTS
    assert events(condition(found.events).message)[0] == xid(79)
    assert condition(kept(*storm).events).status == "True"


def test_a_programs_notes_never_push_out_what_explains_a_metric() -> None:
    survived = event("Xid145", "0000:3b:00", NOW, "RLW_RXPIPE Nonfatal XC0 i0 Link 13")
    storm = [xid(31, 1 + n / 100, f"0000:{n:02x}:00", "x" * 160) for n in range(1, 100)]
    told = condition(kept(survived, *storm).events)
    assert told.status == "True"
    assert events(told.message)[0] == survived


def test_time_ends_notes_and_no_fault() -> None:
    later = NOW + timedelta(days=400)
    assert forget(kept(xid(79), xid(119), xid(31)), later, None).events == (xid(119), xid(79))
    assert forget(kept(xid(31)), NOW + NOTE_KEPT - timedelta(seconds=1), None).events == (xid(31),)


def test_a_reset_ends_what_came_before_it() -> None:
    assert forget(kept(xid(79), xid(79, 100)), at(200), at(50)).events == (xid(79, 100),)


def test_a_start_of_the_driver_ends_what_is_a_gpus() -> None:
    check = event("MachineCheck", "CPU3", NOW)
    switch = event("SXid20034", "0000:c1:00.0", NOW, "Fatal")
    assert restarted(kept(xid(79), check, switch, event("GpuLost", "0000:3b:00.0", NOW))).events == (check,)


def test_lines_that_only_tell_where_to_look_are_no_events() -> None:
    hints = (kernel.LinkChanged("eth0"), kernel.FilesystemFailed("sda1"), kernel.DriverLoaded())
    assert [event_of(hint, NOW) for hint in hints] == [None, None, None]


def test_an_event_of_each_line() -> None:
    seen: tuple[kernel.Seen, ...] = (
        kernel.XidSeen(79, "0000:3b:00", "off; (bus)"),
        kernel.SXidSeen(20034, True, 4, "0000:c1:00.0", "LTSSM"),
        kernel.MachineCheck("CPU 3"),
    )
    assert [event_of(one, NOW) for one in seen] == [
        Event("Xid79", "0000:3b:00", NOW, "off, [bus]"),
        Event("SXid20034", "0000:c1:00.0", NOW, "Fatal, Link 4, LTSSM"),
        Event("MachineCheck", "CPU3", NOW),
    ]
    assert gravity(Event("Xid79", "", NOW)) is Gravity.HARD
    assert gravity(Event("Xid145", "", NOW, "RLW_REMAP Fatal XC1 i0 Link 08")) is Gravity.SUSPECT
    assert gravity(Event("Xid145", "", NOW, "RLW_RXPIPE Nonfatal XC0 i0 Link 13")) is Gravity.SURVIVED
