"""How long an attempt may stand still, seen from outside: as short as its trainers and its silence allow."""

import dataclasses
from collections.abc import Mapping

import pytest

from internlm2_operator.plan.snapshot import Heard
from internlm2_operator.plan.stall import patience
from internlm2_spec.contract import TrainPhase
from tests.unit.plan.world import World, running, trained_world

STEPPING = dataclasses.replace(running(0, 9, 0.0, resumed=0, incarnation=0), limit_seconds=75.0)
ANSWERS, REFUSES, MUTE = Heard(50, 0.5), Heard(50, 40), Heard(50, 40, mute=True)
HICCUP = Heard(50, 5, mute=True)
STOPPED = Heard(50, 40, mute=True, stopped=True)
CASES = {
    "all answer: they find it themselves": ([75.0, 75.0], [ANSWERS, ANSWERS], 135),
    "one is mute while another sees no step": ([75.0, 75.0], [ANSWERS, MUTE], 90),
    "one was mute for a moment": ([75.0, 75.0], [ANSWERS, HICCUP], 180),
    "the others end and meet without the mute one": ([75.0, 75.0, 75.0], [REFUSES, REFUSES, MUTE], 135),
    "one refuses: its processes are being started again": ([75.0, 75.0], [ANSWERS, REFUSES], 180),
    "all refuse": ([75.0, 75.0], [REFUSES, REFUSES], 180),
    "nobody answers: perhaps we are cut off": ([75.0, 75.0], [MUTE, MUTE], 135),
    "all are stopped: nobody else can find it": ([75.0, 75.0], [STOPPED, STOPPED], 75),
    "one is stopped, to the other there is no way": ([75.0, 75.0], [STOPPED, MUTE], 135),
    "all were stopped for a moment": ([75.0, 75.0], [dataclasses.replace(STOPPED, silent=5)] * 2, 180),
    "one is stopped, the others meet without it": ([75.0, 75.0], [STOPPED, REFUSES], 135),
    "the longest of the limits holds": ([75.0, 1800.0], [ANSWERS, MUTE], 1815),
    "a limit that is not believed": ([1e9, 75.0], [ANSWERS, MUTE], 3615),
    "nor one of nothing": ([0.0, 0.0], [ANSWERS, MUTE], 25),
    "long steps, restarted": ([300.0, 300.0], [REFUSES, REFUSES], 360),
    "not everybody has been heard": ([75.0], [MUTE], 900),
    "nobody has": ([], [], 900),
}


@pytest.mark.parametrize(("limits", "heard", "seconds"), CASES.values(), ids=CASES.keys())
def test_patience(limits: list[float], heard: list[Heard], seconds: float) -> None:
    said = [dataclasses.replace(STEPPING, limit_seconds=limit) for limit in limits]
    assert patience(said, heard, 2, 16384) == seconds


def test_trainers_that_state_no_limit_have_that_of_their_speed_or_of_a_start() -> None:
    said = dataclasses.replace(STEPPING, limit_seconds=None)
    slow = dataclasses.replace(said, tokens_per_second=100.0)
    loads = dataclasses.replace(said, phase=TrainPhase.LOAD)
    assert patience([said, said], [], 2, 10_000) == 180
    assert patience([slow, slow], [], 2, 10_000) == 1000
    assert patience([loads, said], [], 2, 10_000) == 900


def heard(world: World, **by_slot: Heard) -> World:
    names = {f"slot{pod.slot}": pod.name for pod in world.pods}
    said = {name: dataclasses.replace(each, limit_seconds=60.0) for name, each in world.progress.items()}
    spare = {"slot2": Heard(10**4, 10**4)}  # it waits in the rendezvous, and nobody listens there
    told: Mapping[str, Heard] = {names[slot]: each for slot, each in (spare | by_slot).items()}
    return dataclasses.replace(world, progress=said, heard=told)


def test_a_pod_whose_processes_are_stopped_is_found_soon_after_the_trainers_limit_and_named() -> None:
    world = trained_world().later(300)
    before = heard(world, slot0=Heard(74, 1), slot1=Heard(74, 73, mute=True)).settled()
    assert before.job.status.faults == ()

    stalled = heard(world, slot0=Heard(76, 1), slot1=Heard(76, 75, mute=True)).settled()
    assert stalled.job.status.attempt == 2
    (fault,) = stalled.job.status.faults
    assert (fault.cause, fault.node, fault.cordoned) == ("Hang", "n2", False)
    assert fault.evidence[1].endswith("on n2 takes connections and does not answer")


def test_others_that_end_by_themselves_are_left_to_meet_again() -> None:
    """They found the hang at their limit: a spare may take the place of the mute one before the operator does."""
    world = trained_world().later(300)
    meets = heard(world, slot0=Heard(80, 10), slot1=Heard(80, 79, mute=True)).settled()
    assert meets.job.status.faults == ()
    never = heard(world, slot0=Heard(121, 50), slot1=Heard(121, 120, mute=True)).settled()
    assert [(fault.cause, fault.node) for fault in never.job.status.faults] == [("Hang", "n2")]


def test_nobody_is_named_where_all_are_mute() -> None:
    world = trained_world().later(300)
    mute = Heard(121, 120, mute=True)
    (fault,) = heard(world, slot0=mute, slot1=mute).settled().job.status.faults
    assert (fault.cause, fault.node) == ("Stalled", "")
    less = Heard(119, 118, mute=True)
    assert heard(world, slot0=less, slot1=less).settled().job.status.faults == ()


def test_a_job_all_of_whose_processes_are_stopped_is_found_at_its_trainers_limit() -> None:
    world = trained_world().later(300)
    at = Heard(61, 60, mute=True, stopped=True)
    (fault,) = heard(world, slot0=at, slot1=at).settled().job.status.faults
    assert (fault.cause, fault.node) == ("Stalled", "")
    before = dataclasses.replace(at, still=60)
    assert heard(world, slot0=before, slot1=before).settled().job.status.faults == ()
    cut_off = dataclasses.replace(at, stopped=False)
    assert heard(world, slot0=cut_off, slot1=cut_off).settled().job.status.faults == ()


def test_trainers_that_state_no_limit_are_given_all_their_time_also_when_they_are_stopped() -> None:
    said = dataclasses.replace(STEPPING, limit_seconds=None)
    assert patience([said, said], [STOPPED, STOPPED], 2, 16384) >= 60


@pytest.mark.parametrize("off", [-7200.0, 7200.0], ids=["behind", "ahead"])
def test_a_trainers_clock_that_jumps_is_no_stall_and_hides_none(off: float) -> None:
    world = trained_world().later(300)
    jumped = {name: dataclasses.replace(each, step_time=each.step_time + off) for name, each in world.progress.items()}
    world = dataclasses.replace(world, progress=jumped)
    moves = Heard(2, 1)
    assert heard(world, slot0=moves, slot1=moves).settled().job.status.faults == ()
    stands = Heard(125, 1)
    assert len(heard(world, slot0=stands, slot1=stands).settled().job.status.faults) == 1


def test_an_operator_that_has_just_started_waits_until_it_has_asked_everybody() -> None:
    world = dataclasses.replace(trained_world().later(10_000), progress={})
    (first, *rest) = [pod.name for pod in world.pods]
    just = Heard(1, 1)
    assert dataclasses.replace(world, heard={}).settled().job.status.faults == ()
    assert dataclasses.replace(world, heard={first: just}).settled().job.status.faults == ()
    asked = dict.fromkeys([first, *rest], just)
    assert dataclasses.replace(world, heard=asked).settled().job.status.faults == ()
    long = dict.fromkeys(asked, Heard(901, 901))
    assert [f.cause for f in dataclasses.replace(world, heard=long).settled().job.status.faults] == ["Stalled"]
