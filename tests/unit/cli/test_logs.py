"""Which pod's log is meant."""

import dataclasses
from typing import Any

import pytest

from internlm2_operator.cli import logs
from internlm2_operator.plan.snapshot import PodPhase, PodRecord
from internlm2_spec.config import Refused
from tests.unit.plan.world import T0, after, job

POD = PodRecord("p", "default", "demo", "u", 0, 1, 0, 0, "n", PodPhase.RUNNING, T0)


def pod(name: str, **changes: Any) -> PodRecord:
    return dataclasses.replace(POD, name=name, **changes)


@pytest.mark.parametrize(
    ("pods", "wanted"),
    [
        ([pod("old", attempt=1, phase=PodPhase.FAILED), pod("new", attempt=2)], "new"),
        ([pod("first", phase=PodPhase.FAILED), pod("second", replacement=1)], "second"),
        ([pod("ran", phase=PodPhase.FAILED), pod("waits", attempt=2, phase=PodPhase.PENDING)], "ran"),
        ([pod("late", stage=1), pod("early", attempt=9)], "late"),
        ([pod("other", slot=1), pod("foreign", job="else", attempt=5), pod("mine")], "mine"),
    ],
    ids=["attempt", "replacement", "only one has started", "stage", "slot and job"],
)
def test_the_newest_that_has_started_is_taken(pods: list[PodRecord], wanted: str) -> None:
    assert logs.member(job(), pods, 0, previous=False).name == wanted
    assert logs.member(job(), pods[::-1], 0, previous=False).name == wanted


def test_the_previous_is_the_one_that_failed_last() -> None:
    failed = PodPhase.FAILED
    pods = [pod("a", phase=failed, finished=after(5)), pod("b", phase=failed, finished=after(9), slot=1), pod("c")]
    assert logs.member(job(), pods, 0, previous=True).name == "b"


@pytest.mark.parametrize(
    ("pods", "previous", "words"),
    [([], False, "it has no pods"), ([pod("a", slot=3)], False, "slots with pods: 3"), ([POD], True, "no failed pod")],
)
def test_where_there_is_none_it_says_what_there_is(pods: list[PodRecord], previous: bool, words: str) -> None:
    with pytest.raises(Refused, match=words):
        logs.member(job(), pods, 0, previous=previous)


@pytest.mark.parametrize(("slot", "rank", "wanted"), [(None, None, 0), (2, None, 2), (None, 5, 2), (None, 1, 0)])
def test_ranks_are_numbered_slot_by_slot(slot: int | None, rank: int | None, wanted: int) -> None:
    assert logs.slot_of(job(), slot, rank) == wanted
