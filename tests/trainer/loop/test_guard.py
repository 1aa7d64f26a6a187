"""When a loss is a spike, and what a real run does about it: back to before, past the batches, same bits."""

import itertools
import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from internlm2_spec.config import Checkpoint, Guard, Optimizer, Stage
from internlm2_spec.contract import ExitCode
from internlm2_trainer import storage
from internlm2_trainer.checkpoint.checkpointer import Checkpointer
from internlm2_trainer.loop.guard import Diverged, History, Rollback, latest_healthy, limit, rolled_back, watch
from internlm2_trainer.loop.train import Trainer
from tests import ranks
from tests.examples import few
from tests.trainer import parity

SETTINGS = Guard(window=8, threshold=5.0, patience=2)
CALM = (2.0, 2.1, 1.9, 2.05, 1.95, 2.0, 2.1, 1.9)


def watched(losses: list[float] | tuple[float, ...], settings: Guard = SETTINGS) -> tuple[History, list[int]]:
    """Return the history after some losses, and the steps at which they made a spike."""
    history, spikes = History(), []
    for step, loss in enumerate(losses, start=1):
        history, spiked = watch(history, settings, loss)
        if spiked:
            spikes.append(step)
    return history, spikes


SPIKES: dict[str, tuple[tuple[float, ...], list[int]]] = {
    "calm losses": (CALM * 3, []),
    "one bad batch": ((*CALM, 9.0, *CALM), []),
    "a loss that stays up": ((*CALM, 9.0, 9.0), [10]),
    "a bad batch, a good one, a bad one": ((*CALM, 9.0, 2.0, 9.0), []),
    "a loss that is not a number twice": ((*CALM, math.nan, math.nan), [10]),
    "infinity and then a high loss": ((*CALM, math.inf, 9.0), [10]),
    "high losses before there is a window": ((2.0, 2.0, 9.0, 9.0, 9.0), []),
    "not a number before there is a window": ((2.0, math.nan, math.nan), [3]),
    "a rise of 4 % where nothing varied": ((2.0,) * 8 + (2.08,) * 4, []),
    "a rise of 6 % where nothing varied": ((2.0,) * 8 + (2.12,) * 4, [10, 11, 12]),
}


@pytest.mark.parametrize(("losses", "expected"), SPIKES.values(), ids=SPIKES)
def test_a_spike_is_a_loss_that_stays_above_the_window(losses: tuple[float, ...], expected: list[int]) -> None:
    assert watched(losses)[1] == expected


def test_a_guard_that_is_off_sees_and_remembers_nothing() -> None:
    assert watched((*CALM, 9.0, 9.0), replace(SETTINGS, spike="Off")) == (History(), [])


def test_a_reported_spike_starts_a_new_window_so_that_a_new_level_is_reported_once() -> None:
    history, spikes = watched((*CALM, *(9.0,) * 12), replace(SETTINGS, spike="Report"))
    assert (spikes, history.above, history.losses) == ([10], 0, (9.0,) * 8)


FINITE = st.floats(0.01, 100.0)


@few
@given(losses=st.lists(FINITE, max_size=60))
def test_losses_that_only_fall_are_never_a_spike(losses: list[float]) -> None:
    assert watched(sorted(losses, reverse=True))[1] == []


@few
@given(losses=st.lists(FINITE, max_size=40), scale=st.sampled_from([2.0**-10, 0.5, 4.0, 2.0**20]))
def test_the_judgement_does_not_depend_on_the_scale(losses: list[float], scale: float) -> None:
    assert watched(losses)[1] == watched([loss * scale for loss in losses])[1]


@few
@given(losses=st.lists(st.one_of(FINITE, st.just(math.nan), st.just(math.inf)), max_size=60))
def test_a_history_is_bounded_finite_and_the_same_after_a_checkpoint(losses: list[float]) -> None:
    history, _ = watched(losses)
    assert len(history.losses) <= SETTINGS.window
    assert all(map(math.isfinite, history.losses))
    rollback = Rollback(20, 10, (12, 25))
    history = replace(history, offset=5, rollbacks=(rollback,))
    assert History.from_extra(json.loads(json.dumps(history.to_extra()))) == history


@few
@given(losses=st.lists(FINITE, min_size=8, max_size=8), wild=st.lists(st.floats(100.0, 1e6), max_size=3))
def test_a_few_wild_losses_in_the_window_do_not_lift_the_limit_beyond_the_others_spread(
    losses: list[float], wild: list[float]
) -> None:
    history = History(losses=(*losses[len(wild) :], *wild))
    tame = sorted(losses[len(wild) :])
    assert limit(history, SETTINGS) <= tame[-1] + 5.0 * 1.4826 * (tame[-1] - tame[0]) + 0.05 * tame[-1] + 1e-9


@few
@given(st.integers(1, 500), st.integers(1, 10))
def test_a_rollback_never_goes_beyond_the_first_high_loss(steps: int, above: int) -> None:
    assert latest_healthy(History(above=above), steps) == steps - above


def test_a_second_spike_before_the_place_of_the_first_goes_further_back() -> None:
    history = History(above=2, rollbacks=(Rollback(noticed=50, resumed=40, batches=(40, 50)),))
    assert latest_healthy(history, 45) == 39
    assert latest_healthy(history, 60) == 58


@few
@given(
    offset=st.integers(0, 100),
    more=st.integers(0, 100),
    to=st.integers(0, 1000),
    lost=st.integers(1, 100),
    batches=st.integers(1, 50),
)
def test_after_a_rollback_no_batch_comes_again_and_none_after_it_is_left_out(
    offset: int, more: int, to: int, lost: int, batches: int
) -> None:
    steps = to + lost
    history = rolled_back(History(above=1, offset=offset + more), History(offset=offset), steps=steps, to=to)
    trained = [step + offset + more for step in range(steps)][-1]  # the last batch before the rollback
    after = [step + history.offset for step in range(to, to + batches)]
    assert after == list(range(trained + 1, trained + 1 + batches))
    assert history.rollbacks == (Rollback(steps, to, (to + offset, trained + 1)),)


# Real runs. All tokens are 7, which the model learns in a few steps; a poisoned batch says that 99 comes next.

STEPS = 22
BAD = range(13, 17)  # batches; with patience 4 the spike is noticed after step 17, and step 12 is healthy
BEFORE, NOTICED = 12, 17


def stage(folder: str, name: str, guard: Guard) -> Stage:
    return replace(
        parity.stage(shard=2, layers=1),
        name=name,
        steps=STEPS,
        checkpoint=Checkpoint(f"file://{folder}", every_steps=4, keep=10),
        optimizer=Optimizer(lr=1e-2, schedule="Constant"),
        guard=guard,
    )


GUARD = Guard(window=4, threshold=5.0, patience=4, max_rollbacks=2)


class Sevens:
    """Batches of sevens, poisoned from one batch to another; passes over `left_out`."""

    def __init__(self, bad: range, left_out: range = range(0)) -> None:
        self.bad, self.left_out = bad, left_out
        self.run: Trainer | None = None
        self.stop_at, self.break_at = -1, -1

    def micro_batch(self, batch: int, *, data_rank: int, data_world: int, micro_step: int) -> parity.Samples:  # noqa: ARG002
        assert self.run is not None
        if batch >= self.left_out.start:
            batch += len(self.left_out)
        if batch == self.break_at and data_rank == 1:
            for shard in self.run.optimizer.shards.values():
                shard.fill_(math.nan)
        self.run.stop.requested = batch == self.stop_at
        samples = parity.GLOBAL_SAMPLES // 4, parity.SEQUENCE
        tokens = torch.full(samples, 7)
        places = torch.arange(parity.SEQUENCE).expand(samples)
        labels = torch.full(samples, 99) if batch in self.bad else tokens
        return parity.Samples(tokens, labels, places.contiguous(), torch.zeros_like(tokens))


def trainer(stage: Stage, source: Sevens, rank: int, world: int) -> Trainer:
    run = parity.trainer(stage)
    run.source, source.run = source, run
    return parity.checkpointed(run, rank, world, incarnation=f"{stage.name}/{next(INCARNATIONS)}")


INCARNATIONS = itertools.count()


def outcome(run: Trainer, step: int = 0) -> dict[str, Any]:
    """Run to the end, and return what it came to."""
    code = run.run(step)
    assert isinstance(run.checkpoints, Checkpointer)
    run.checkpoints.close()
    weights = parity.digests(run.optimizer.parameters)
    counters = {
        name: run.metrics.registry.get_sample_value(f"internlm2_train_{name}_total")
        for name in ("loss_spikes", "rollbacks", "skipped_steps")
    }
    return {"code": code, "weights": weights, "history": run.history, **counters}


def left_by(stage: Stage) -> list[str]:
    store = storage.open_store(stage.checkpoint.url)
    return sorted({entry.key.split("/")[1] for entry in store.list(f"{stage.name}/")})


class Scenarios:
    """Runs on the ranks of one group, each with a stage of its own name."""

    def __init__(self, rank: int, world: int, folder: str) -> None:
        self.place = rank, world
        self.folder = folder

    def poisoned(self, name: str, guard: Guard, source: Sevens) -> dict[str, Any]:
        return outcome(trainer(stage(self.folder, name, guard), source, *self.place))

    def without_earlier_checkpoint(self) -> dict[str, Any]:
        """The first checkpoint is saved in the middle of the spike."""
        made = stage(self.folder, "too-early", GUARD)
        made = replace(made, checkpoint=replace(made.checkpoint, every_steps=NOTICED - 1))
        return {**outcome(trainer(made, Sevens(bad=BAD), *self.place)), "left": left_by(made)}

    def broken(self) -> dict[str, Any]:
        """One rank's weights become NaN, as after a bit flip."""
        source = Sevens(bad=range(0))
        source.break_at = BAD.start
        return self.poisoned("broken", GUARD, source)

    def killed(self) -> dict[str, Any]:
        """Stop a few steps after the rollback, and go on in a new trainer."""
        first, made = Sevens(bad=BAD), stage(self.folder, "killed", GUARD)
        first.stop_at = NOTICED + 1
        assert outcome(trainer(made, first, *self.place))["code"] is ExitCode.STOPPED
        again = trainer(made, Sevens(bad=BAD), *self.place)
        step = again.resume()
        return {"step": step, **outcome(again, step)}

    def poisoned_for_ever(self, max_rollbacks: int) -> dict[str, Any]:
        made = stage(self.folder, f"for-ever-{max_rollbacks}", replace(GUARD, max_rollbacks=max_rollbacks))
        run = trainer(made, Sevens(bad=range(BAD.start, 1000)), *self.place)
        with pytest.raises(Diverged) as caught:
            run.run(0)
        assert isinstance(run.checkpoints, Checkpointer)
        run.checkpoints.wait()
        return {"message": str(caught.value), "left": left_by(made)}

    def not_finite(self, guard: Guard) -> dict[str, Any]:
        """One rank's weights are NaN from the start, so that every rank's gradient is."""
        run = parity.trainer(replace(parity.stage(shard=2), guard=guard))
        broken = next(iter(run.optimizer.shards.values()))
        if self.place[0] == 1:
            broken.fill_(math.nan)
        before = {name: shard.clone() for name, shard in run.optimizer.shards.items()}
        ending = ""
        try:
            run.step(0)
        except Diverged as error:
            ending = str(error)
        unchanged = all(shard.equal(before[n]) or shard is broken for n, shard in run.optimizer.shards.items())
        skipped = run.metrics.registry.get_sample_value("internlm2_train_skipped_steps_total")
        return {"ending": ending, "skipped": skipped, "unchanged": unchanged}


def every_scenario(rank: int, world: int, folder: str) -> dict[str, dict[str, Any]]:
    scenarios = Scenarios(rank, world, folder)
    left_out = Sevens(bad=BAD, left_out=range(BEFORE, NOTICED))
    return {
        "undisturbed": scenarios.poisoned("undisturbed", GUARD, left_out),
        "rolled back": scenarios.poisoned("rolled-back", GUARD, Sevens(bad=BAD)),
        "off": scenarios.poisoned("off", replace(GUARD, spike="Off"), Sevens(bad=BAD)),
        "reported": scenarios.poisoned("reported", replace(GUARD, spike="Report"), Sevens(bad=BAD)),
        "too early": scenarios.without_earlier_checkpoint(),
        "broken": scenarios.broken(),
        "killed": scenarios.killed(),
        "for ever": scenarios.poisoned_for_ever(2),
        "without rollbacks": scenarios.poisoned_for_ever(0),
        "not finite": scenarios.not_finite(Guard()),
        "not finite and stopped": scenarios.not_finite(Guard(non_finite="Stop")),
    }


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What two ranks saw of every scenario, alike."""
    first, second = ranks.run(2, every_scenario, str(tmp_path_factory.mktemp("guard")))
    assert first == second
    result: dict[str, dict[str, Any]] = first
    return result


def test_a_spike_is_rolled_back_and_the_run_is_one_that_never_saw_its_batches(seen: dict[str, dict[str, Any]]) -> None:
    undisturbed, rolled = seen["undisturbed"], seen["rolled back"]
    assert (undisturbed["code"], undisturbed["loss_spikes"]) == (ExitCode.DONE, 0.0)
    assert rolled["weights"] == undisturbed["weights"]
    assert rolled["history"].rollbacks == (Rollback(NOTICED, BEFORE, (BEFORE, NOTICED)),)
    assert (rolled["code"], rolled["loss_spikes"], rolled["rollbacks"]) == (ExitCode.DONE, 1.0, 1.0)


@pytest.mark.parametrize(("control", "spikes"), [("off", 0.0), ("reported", 1.0)])
def test_the_control_without_rollback_learns_from_the_poison(
    control: str, spikes: float, seen: dict[str, dict[str, Any]]
) -> None:
    assert seen[control]["weights"] != seen["undisturbed"]["weights"]
    assert (seen[control]["rollbacks"], seen[control]["loss_spikes"]) == (0.0, spikes)


def test_without_a_checkpoint_from_before_the_spike_the_run_goes_on_and_keeps_those_it_has(
    seen: dict[str, dict[str, Any]],
) -> None:
    early = seen["too early"]
    assert (early["code"], early["loss_spikes"], early["rollbacks"]) == (ExitCode.DONE, 1.0, 0.0)
    assert early["weights"] == seen["reported"]["weights"]
    assert early["left"] == [f"step-{NOTICED - 1:08d}", f"step-{STEPS:08d}"]


def test_weights_that_broke_on_one_rank_come_back_from_before(seen: dict[str, dict[str, Any]]) -> None:
    assert seen["broken"]["weights"] == seen["undisturbed"]["weights"]
    assert seen["broken"]["skipped_steps"] == GUARD.patience


def test_killed_after_a_rollback_and_resumed_equals_undisturbed(seen: dict[str, dict[str, Any]]) -> None:
    assert seen["killed"]["step"] == BEFORE + 2  # it stopped after batch NOTICED + 1, the second after the rollback
    assert seen["killed"]["weights"] == seen["undisturbed"]["weights"]
    assert seen["killed"]["history"].rollbacks == seen["rolled back"]["history"].rollbacks


def test_rollbacks_are_bounded_and_each_goes_further_back(seen: dict[str, dict[str, Any]]) -> None:
    message, left = seen["for ever"]["message"], seen["for ever"]["left"]
    assert message.startswith("the loss spiked to")
    assert message.endswith("after 2 rollbacks; lower optimizer.lr, or raise guard.maxRollbacks")
    assert left == ["step-00000004", "step-00000008"]  # 12, and 16 which was saved in the spike, were withdrawn
    assert "after 0 rollbacks" in seen["without rollbacks"]["message"]
    assert seen["without rollbacks"]["left"][-1] == "step-00000016"


def test_a_gradient_that_is_not_finite_is_skipped_on_all_ranks_and_counted_or_ends_the_job(
    seen: dict[str, dict[str, Any]],
) -> None:
    assert seen["not finite"] == {"ending": "", "skipped": 1.0, "unchanged": True}
    ending = "gradient norm nan at step 1 and guard.nonFinite is Stop; lower optimizer.lr, or use Skip"
    assert seen["not finite and stopped"] == {"ending": ending, "skipped": 1.0, "unchanged": True}
