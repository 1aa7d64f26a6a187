"""Whose silence the absence of the API server explains."""

from datetime import UTC, datetime, timedelta

import pytest

from internlm2_operator.health.contact import BLIP, HEARD, KUBELET_AWAY, LATE, Contact, lives

T0 = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def after(*calls: tuple[float, bool]) -> Contact:
    contact = Contact()
    for seconds, answered in calls:
        contact = contact.heard(at(seconds), answered=answered)
    return contact


THERE = ((0, True), (1, True), (2, True))
AWAY = (*THERE, (3, False), (4, False), (9, False))
BACK = (*AWAY, (10, True), (11, True))
LATEST = LATE.total_seconds()
# The calls and whether they were answered, when a node was called silent, and until when it may only have been cut off.
CASES = {
    "the API server was there": (THERE, 2, None),
    "it is away": (AWAY, 9, 9 + LATEST),
    "it went after the last call that was answered": (AWAY, 2, 2 + LATEST),
    "the node was silent before": (AWAY, 1, None),
    "it was away": (BACK, 5, 10 + LATEST),
    "it is back, and the kubelet has not tried again": (BACK, 12, 10 + LATEST),
    "the kubelet had the time to": (BACK, 10 + LATEST, None),
    "silent before it went": (BACK, 1, None),
    "a call that failed once": ((*THERE, (3, False), (1 + BLIP.total_seconds(), True)), 3, None),
    "a blip after an absence": ((*BACK, (12, False), (12.5, True)), 14, 10 + LATEST),
    "it has never answered": (((0, False), (5, False)), 4, 4 + LATEST),
    "it answered at last": (((0, False), (5, True)), 7, 5 + LATEST),
    "nobody asked it": ((), 0, None),
}


@pytest.mark.parametrize(("calls", "silent", "expected"), CASES.values(), ids=CASES)
def test_a_node_may_only_have_been_cut_off(
    calls: tuple[tuple[float, bool], ...], silent: float, expected: float | None
) -> None:
    assert after(*calls).excuses(at(silent)) == (None if expected is None else at(expected))


@pytest.mark.parametrize(("heard", "until"), [(-20, -15), (0, 5), (40, 45), (58, 60), (3600, 60)])
def test_trainers_that_answer_speak_for_their_node_until_its_kubelet_is_away_too_long(heard: int, until: int) -> None:
    assert (HEARD.total_seconds(), KUBELET_AWAY.total_seconds()) == (5, 60)
    assert lives(at(0), at(heard)) == at(until)
