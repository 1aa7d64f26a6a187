"""Every second of a process has one cause."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from internlm2_spec.contract import TrainPhase
from internlm2_spec.metrics import Cause
from internlm2_trainer.loop.reached import Reached
from internlm2_trainer.observe.goodput import cause_of
from internlm2_trainer.observe.metrics import Metrics
from tests import ranks
from tests.trainer import parity


def seconds_of(metrics: Metrics) -> dict[str, float]:
    """Return the seconds of each cause that has any."""
    samples = {cause: metrics.registry.get_sample_value("internlm2_train_seconds_total", {"cause": cause})
               for cause in Cause}  # fmt: skip
    return {str(cause): value for cause, value in samples.items() if value}


def ticking(step: float) -> Callable[[], float]:
    moments = iter(step * number for number in range(10_000))
    return lambda: next(moments)


@pytest.mark.parametrize(
    ("step", "updated", "given_up", "reached", "cause"),
    [
        (5, True, 0, 0, Cause.PRODUCTIVE),
        (5, True, 0, 5, Cause.REPEATED),
        (6, True, 0, 5, Cause.PRODUCTIVE),
        (5, True, 5, 9, Cause.ROLLED_BACK),
        (6, True, 5, 9, Cause.REPEATED),
        (5, False, 5, 9, Cause.SKIPPED),
    ],
)
def test_a_step_is_booked_on(step: int, updated: bool, given_up: int, reached: int, cause: Cause) -> None:
    assert cause_of(step, updated=updated, given_up=given_up, reached=reached) is cause


def test_causes_add_up_to_the_age_of_the_process() -> None:
    metrics = Metrics(parity.metrics().progress, age_seconds=7.0, clock=ticking(2.0))  # it is 0 now
    metrics.enter(TrainPhase.LOAD)
    metrics.enter(TrainPhase.STEP)
    metrics.spent(Cause.PRODUCTIVE)
    metrics.spent(Cause.SKIPPED)
    metrics.enter(TrainPhase.CHECKPOINT)
    metrics.enter(TrainPhase.STEP)
    metrics.enter(TrainPhase.DONE)

    seconds = seconds_of(metrics)

    assert seconds == {
        "init": 9.0, "load": 2.0, "productive": 2.0, "skipped": 2.0, "other": 4.0, "checkpoint_stall": 2.0,
    }  # fmt: skip
    assert sum(seconds.values()) == 7.0 + 7 * 2.0


def test_a_run_after_a_restart_knows_which_steps_it_repeats() -> None:
    (seconds,) = ranks.run(1, repeat_two_steps)
    assert seconds == {"init": 1.0, "repeated": 2.0, "productive": 2.0, "other": 2.0, "checkpoint_stall": 1.0}


def repeat_two_steps(_rank: int, _world: int) -> dict[str, float]:
    run = parity.trainer(parity.stage())
    run.metrics = Metrics(run.metrics.progress, clock=ticking(1.0))
    run.metrics.enter(TrainPhase.STEP)
    run.reached.before = 2
    run.run(0)
    run.metrics.enter(TrainPhase.DONE)
    return seconds_of(run.metrics)


def test_all_ranks_take_the_highest_step_that_any_knows(tmp_path: Path) -> None:
    assert ranks.run(2, resume_with_one_that_knows, str(tmp_path)) == [41, 41]


def resume_with_one_that_knows(rank: int, _world: int, folder: str) -> Any:
    run = parity.trainer(parity.stage())
    if rank == 1:  # rank 0 is of a new pod
        Reached(Path(folder)).note(41)
        run.reached = Reached(Path(folder))
    run.resume()
    return run.reached.before


def test_what_was_reached_outlives_the_process_and_not_the_folder(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    Reached(tmp_path).note(1_000)
    again = Reached(tmp_path)
    again.note(7)
    assert (again.before, Reached(tmp_path).before, Reached(tmp_path / "other").before) == (1_000, 7, 0)
    assert Reached(None).before == 0
