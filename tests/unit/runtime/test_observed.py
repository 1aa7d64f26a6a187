"""When the checkpoint store must be looked at anew before a job is judged, and when a trainer was heard last."""

from collections.abc import Sequence
from datetime import timedelta

import pytest

from internlm2_operator.plan.snapshot import CheckpointView
from internlm2_operator.runtime.observed import Look, Observed, ended
from internlm2_operator.runtime.world import World
from tests.unit.runtime.test_sources import STEPPING
from tests.unit.runtime.test_world import job_of, pod

GONE = "Gone"
KEY = "ns/demo"
# What was seen of pods since the look, as namespace, uid and phase, and whether it is too old now.
SINCE: dict[str, tuple[Sequence[tuple[str, str, str]], bool]] = {
    "nothing": ([], False),
    "a pod runs on": ([("ns", "runs", "Running")], False),
    "a pod came": ([("ns", "new", "Running")], False),
    "a pod ended": ([("ns", "runs", "Succeeded")], True),
    "a pod is gone whose end nobody saw": ([("ns", "runs", GONE)], True),
    "a pod is gone whose end the look knew": ([("ns", "ended", GONE)], False),
    "a pod came and went": ([("ns", "new", "Running"), ("ns", "new", GONE)], True),
    "one of another job came and went": ([("other", "new", "Running"), ("other", "new", GONE)], False),
}


@pytest.mark.parametrize(("since", "stale"), SINCE.values(), ids=SINCE)
def test_a_look_is_as_good_as_what_it_came_after(since: Sequence[tuple[str, str, str]], stale: bool) -> None:
    world, observed = World(), Observed()
    assert world.put_job(job_of(1, "Pretrain"))
    assert world.put_pod(pod(1, "ended", "Failed"))
    assert world.put_pod(pod(2, "runs"))
    job = world.jobs[KEY]
    assert observed.stale(job, world), "never looked"
    pods = world.pods(KEY)
    observed.looks[KEY] = Look(job.status.stage_index, ended(pods), world.lost(KEY), CheckpointView(verified=3))
    for namespace, uid, phase in since:
        if phase == GONE:
            world.drop_pod(f"{namespace}/demo", uid)
        else:
            world.put_pod(pod(3, uid, phase, namespace))
    assert observed.stale(job, world) is stale


def test_of_the_trainers_on_a_node_the_one_that_answered_last_counts() -> None:
    """By the clock that runs while trainers are listened to; one that was asked and never answered has said nothing."""
    world, observed = World(), Observed()
    for number, uid in enumerate(("first", "second", "mute")):
        world.put_pod(pod(number + 1, uid))
    pods = {one.uid: one for one in world.pods(KEY)}
    observed.miss("mute", mute=True)
    assert observed.silence([pods["mute"]]) is None
    observed.hear(pods["first"], STEPPING)
    observed.listened = 7.0
    observed.hear(pods["second"], STEPPING)
    observed.listened = 10.0
    assert observed.silence(pods.values()) == timedelta(seconds=3)
    assert observed.silence([pods["first"], pods["mute"]]) == timedelta(seconds=10)
    assert observed.silence([]) is None
