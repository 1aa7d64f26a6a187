"""Which nodes are to be checked: what speaks for it, and what makes it old."""

import dataclasses
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest

from internlm2_operator.api.status import Fault, FaultTimes, Straggling
from internlm2_operator.health.condition import event
from internlm2_operator.health.node import SUSPECTED, HeldNote
from internlm2_operator.health.verdict import Action
from internlm2_operator.plan.suspects import (
    AGAIN,
    HANGS_WITHIN,
    SLOW_FOR,
    SUSPECT_FOR,
    hung_again,
    mended_at,
    suspects,
)
from tests.unit.plan.checks import checked, nodes_of
from tests.unit.plan.world import T0, after, note

HOUR = SUSPECT_FOR.total_seconds()
HELD = HeldNote(SUSPECTED, "Xid48", T0, Action.CHECK)


def fault(cause: str, node: str = "n", *, at: datetime = T0, **changes: Any) -> Fault:
    return Fault(id="f", cause=cause, node=node, times=FaultTimes(signal=at)).model_copy(update=changes)


def slow(node: str = "n", *, seconds: float = SLOW_FOR.total_seconds(), until: datetime | None = T0) -> Straggling:
    since = T0 - timedelta(seconds=seconds)
    return Straggling(node=node, slow_in="compute", since=since, until=until)


def cordoned(action: Action, cause: str = "Xid79") -> Any:
    return dataclasses.replace(note(cause), action=action)


MINUTE = after(60)


@dataclass(frozen=True, slots=True)
class Case:
    node: dict[str, Any] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()
    slow: tuple[Straggling, ...] = ()
    want: datetime | None = None  # since when it is a suspect
    now: datetime = MINUTE


BACK = {"ready_since": after(30)}
CASES = {
    "a node without a word against it": Case(),
    "something was found against it": Case({"held": HELD}, want=T0),
    "it was checked since": Case({"held": HELD, "check": checked(True, after(10))}),
    "it failed a check since": Case({"held": HELD, "check": checked(False, after(10))}),
    "it was checked before": Case({"held": HELD, "check": checked(True, after(-1))}, want=T0),
    "it was found too long ago": Case({"held": HELD}, now=after(HOUR + 1)),
    "a pod ended in a way that suspects it": Case(faults=(fault("ProcessKilled"),), want=T0),
    "a pod ended by its user's fault": Case(faults=(fault("ProgramError"),)),
    "a pod on another node did": Case(faults=(fault("ProcessKilled", "m"),)),
    "the fault convicted it": Case(faults=(fault("ProcessKilled", cordoned=True),)),
    "users cannot have it checked again and again": Case(
        {"check": checked(True, after(-1))}, (fault("ProcessKilled"),)
    ),
    "but after a while": Case(
        {"check": checked(True, T0 - AGAIN - timedelta(seconds=1))}, (fault("ProcessKilled"),), want=T0
    ),
    "it held up a job for long, which has left it": Case(slow=(slow(),), want=T0),
    "it held up a job for a moment": Case(slow=(slow(seconds=SLOW_FOR.total_seconds() - 1),)),
    "it holds one up still": Case(slow=(slow(until=None),)),
    "another node did": Case(slow=(slow("m"),)),
    "it did, and was checked since": Case({"check": checked(True, after(10))}, slow=(slow(),)),
    "users cannot have it checked as slow again and again": Case({"check": checked(True, after(-1))}, slow=(slow(),)),
    "it did too long ago": Case(slow=(slow(),), now=after(HOUR + 1)),
    "it was slow, and then a pod was killed": Case(
        faults=(fault("ProcessKilled", at=after(5)),), slow=(slow(),), want=after(5)
    ),
    "cordoned, and slow before": Case({"fault": cordoned(Action.CORDON_RESET)}, slow=(slow(),)),
    "cordoned, and nothing was done": Case({"fault": cordoned(Action.CORDON_RESET)}),
    "cordoned, and it came back": Case({"fault": cordoned(Action.CORDON_REBOOT), **BACK}, want=after(30)),
    "cordoned, and it is not back yet": Case({"fault": cordoned(Action.CORDON_REBOOT), **BACK, "ready": False}),
    "cordoned, and somebody says that it is repaired": Case(
        {"fault": cordoned(Action.CORDON_REPLACE), "reset": after(20)}, want=after(20)
    ),
    "cordoned long ago, and back now": Case(
        {"fault": cordoned(Action.CORDON_REBOOT), "ready_since": after(86400)}, want=after(86400), now=after(90000)
    ),
    "repaired, and the check failed": Case(
        {"fault": cordoned(Action.CORDON_REBOOT), **BACK, "check": checked(False, after(40))}
    ),
    "repaired once more after that": Case(
        {"fault": cordoned(Action.CORDON_REBOOT), **BACK, "check": checked(False, after(40)), "reset": after(50)},
        want=after(50),
    ),
    "cordoned for a link that is up again": Case({"fault": cordoned(Action.CORDON, "LinkDown")}, want=T0),
    "cordoned for a link that is still down": Case(
        {"fault": cordoned(Action.CORDON, "LinkDown"), "health": (event("LinkDown", "eth0", T0, ""),)}
    ),
    "cordoned because it was silent, as far as is known": Case({"fault": cordoned(Action.CORDON, "NodeNotReady")}),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_suspect(case: Case) -> None:
    found = suspects(nodes_of("n", **case.node).values(), case.faults, case.slow, case.now)
    assert [one.at for one in found] == ([] if case.want is None else [case.want])


def test_a_node_that_is_not_cordoned_is_not_mended() -> None:
    (node,) = nodes_of("n", ready_since=after(30), reset=after(40)).values()
    assert mended_at(node) is None


def hang(seconds: float, cause: str = "Hang", node: str = "", **changes: Any) -> Fault:
    return fault(cause, node, at=after(seconds), **changes)


HANGS: dict[str, tuple[tuple[Fault, ...], datetime | None, bool]] = {
    "no fault": ((), None, False),
    "one hang": ((hang(0),), None, False),
    "two hangs without a culprit": ((hang(0), hang(600)), None, True),
    "a stall and a hang": ((hang(0, "Stalled"), hang(600)), None, True),
    "one that came twice": ((hang(0, count=2),), None, True),
    "one of them names a node": ((hang(0), hang(600, node="n")), None, False),
    "another cause": ((hang(0), hang(600, "ProcessKilled")), None, False),
    "checked since the first": ((hang(0), hang(600)), after(300), False),
    "checked before both": ((hang(0), hang(600)), after(-1), True),
    "checked after both": ((hang(0), hang(600)), after(700), False),
    "the first is out of the window": ((hang(-HANGS_WITHIN.total_seconds()), hang(600)), None, False),
}


@pytest.mark.parametrize(("faults", "since", "want"), HANGS.values(), ids=HANGS)
def test_second_hang_without_a_culprit(faults: tuple[Fault, ...], since: datetime | None, want: bool) -> None:
    assert hung_again(faults, since, after(800)) is want
