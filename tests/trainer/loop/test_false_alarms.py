"""10,000 job-hours in which nothing hangs are called a hang by nobody, and hangs are found in time."""

from collections import Counter

import numpy as np
import pytest

from bench import hangs
from bench.hangs import LIMITS, Life, Model
from internlm2_spec.contract import TrainPhase
from internlm2_trainer.loop.hang import POLL_SECONDS, Watch


def test_in_10_000_hours_neither_trainer_nor_operator_is_wrong_and_simpler_rules_are() -> None:
    quiet = hangs.simulate(10_000, seed=0, model=Model())
    alarms = quiet["falseAlarms"]
    assert quiet["steps"] > 10**6
    assert quiet["pauses"] > 10**5
    assert quiet["starts"] > 1000
    assert (alarms.pop("trainer"), alarms.pop("operator")) == (0, 0)
    assert {rule: count > 10 for rule, count in alarms.items()} == dict.fromkeys(alarms, True)
    assert alarms["3 x median"] > 1000


def test_steps_that_stall_for_minutes_are_called_hangs() -> None:
    """The control of the control: the simulation finds alarms where there are any."""
    assert hangs.simulate(1000, seed=0, model=Model(cap=600.0, spike_alpha=0.5))["falseAlarms"]["trainer"] > 50


def test_every_hang_is_found_within_the_limit_and_one_poll() -> None:
    found = hangs.delays(200, seed=1, model=Model())
    assert [delay for delay, within in found if not within < delay <= within + POLL_SECONDS] == []
    assert min(within for _, within in found) == LIMITS.floor_seconds
    assert max(within for _, within in found) > 2 * LIMITS.floor_seconds


@pytest.mark.parametrize("seed", range(20))
def test_what_is_simulated_is_what_a_watch_does_step_by_step(seed: int) -> None:
    """A watch that is told each step and polls in between says the same as the simulation of whole arrays."""
    chance = np.random.default_rng(seed)
    steps = 30 * chance.lognormal(0, 0.3, 700)
    steps[chance.integers(1, 700, 5)] += chance.uniform(50, 400, 5)
    watch, alarms = Watch(lambda: TrainPhase.STEP, lambda _: None, LIMITS), 0
    for seconds in steps.tolist():
        alarms += watch.late(seconds)
        watch.step_finished(seconds)

    counted: Counter[str] = hangs.alarms(Life(steps, np.zeros(1), 0.0, 0.0))
    assert counted["trainer"] == alarms
    assert alarms > 0
