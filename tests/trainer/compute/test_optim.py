"""The optimizer against torch's, and what a bad gradient does."""

import itertools
import math
from dataclasses import replace
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from internlm2_spec.config import Optimizer, Refused
from internlm2_trainer.compute.optim import learning_rate
from tests import ranks
from tests.examples import few
from tests.trainer import parity

COSINE = Optimizer(lr=1.0, min_lr=0.1, warmup_steps=4)
WSD = replace(COSINE, schedule="WSD", decay_steps=40, decay="Linear")
ROOT = replace(WSD, decay="OneMinusSqrt")
CONSTANT = replace(COSINE, schedule="Constant")

# Rates of a stage of 104 steps.
RATES = {
    "a cosine to the minimum": (COSINE, {0: 0.25, 3: 1.0, 4: 1.0, 54: 0.55, 104: 0.1, 200: 0.1}),
    "WSD by a line": (WSD, {0: 0.25, 3: 1.0, 63: 1.0, 64: 1.0, 84: 0.55, 104: 0.1, 200: 0.1}),
    "WSD by 1 - sqrt": (ROOT, {3: 1.0, 64: 1.0, 74: 0.55, 104: 0.1, 200: 0.1}),
    "a constant": (CONSTANT, {0: 0.25, 2: 0.75, 3: 1.0, 104: 1.0, 200: 1.0}),
}


@pytest.mark.parametrize(("settings", "expected"), RATES.values(), ids=RATES)
def test_the_rate_warms_up_and_follows(settings: Optimizer, expected: dict[int, float]) -> None:
    assert {s: learning_rate(settings, step=s, steps=104) for s in expected} == pytest.approx(expected)


@st.composite
def schedules(draw: st.DrawFn) -> tuple[Optimizer, int]:
    """Draw a legal schedule and the steps of its stage."""
    steps = draw(st.integers(2, 400))
    warmup = draw(st.integers(0, steps - 1))
    schedule: Literal["Cosine", "WSD", "Constant"] = draw(st.sampled_from(["Cosine", "WSD", "Constant"]))
    lr = draw(st.floats(1e-6, 1.0))
    return Optimizer(
        lr=lr,
        min_lr=draw(st.floats(0.0, lr)),
        warmup_steps=warmup,
        schedule=schedule,
        decay_steps=draw(st.integers(1, steps - warmup)) if schedule == "WSD" else 0,
        decay=draw(st.sampled_from(["Linear", "OneMinusSqrt"])),
    ), steps


@few
@given(schedules())
def test_a_rate_rises_to_its_height_and_falls_to_its_end_without_a_jump(drawn: tuple[Optimizer, int]) -> None:
    settings, steps = drawn
    rates = [learning_rate(settings, step=step, steps=steps) for step in range(steps + 1)]
    rising, falling = rates[: settings.warmup_steps], rates[settings.warmup_steps :]
    assert rising == sorted(rising)
    assert falling == pytest.approx(sorted(falling, reverse=True))
    assert max(rates) == pytest.approx(settings.lr)
    assert falling[0] == pytest.approx(settings.lr)  # the warm-up ends where the schedule begins
    assert falling[-1] == pytest.approx(settings.lr if settings.schedule == "Constant" else settings.min_lr)
    length = settings.decay_steps or steps - settings.warmup_steps
    # Between two steps a cosine falls by pi / 2 of a line's step at most; a root by the most in its first.
    steepest = (settings.lr - settings.min_lr) * min(1.0, max(math.pi / 2 / length, math.sqrt(1 / length)))
    assert all(before - after <= steepest + 1e-12 for before, after in itertools.pairwise(falling))


def test_a_decay_without_length_and_a_length_without_decay_are_refused() -> None:
    with pytest.raises(Refused, match=r"optimizer.decaySteps: 0 with schedule WSD; use 1 or more, about a tenth"):
        Optimizer(schedule="WSD")
    with pytest.raises(Refused, match=r"optimizer.decaySteps: 5 with schedule Cosine; use 0, or schedule WSD"):
        Optimizer(decay_steps=5)


def test_a_step_is_torch_s_adamw_with_clipping() -> None:
    assert ranks.run(1, largest_difference_to_torch) == [pytest.approx(0.0, abs=1e-6)]


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    assert ranks.run(1, changed_by_nan) == [(False, 0, 0.0)]


@pytest.mark.parametrize("clip", [0.5, 0.0])
def test_a_clip_of_0_is_none(clip: float) -> None:
    """AdamW hides a factor that all gradients have; its moments do not."""
    gradient = 0.1 * min(1.0, clip / 2.0) if clip else 0.1
    assert ranks.run(1, moment_of, clip) == [pytest.approx(gradient, rel=1e-4)]


def moment_of(_rank: int, _world: int, clip: float) -> float:
    """Return the first moment after a gradient of ones of which the norm is said to be 2."""
    stage = parity.stage()
    run = parity.trainer(replace(stage, optimizer=replace(stage.optimizer, grad_clip=clip)))
    for parameter in run.optimizer.parameters.values():
        parameter.grad = torch.ones_like(parameter)
    run.optimizer.step(1e-3, 2.0)
    return float(next(iter(run.optimizer.averages.values())).flatten()[0])


def largest_difference_to_torch(_rank: int, _world: int) -> float:
    run = parity.trainer(parity.stage())
    clones = {name: p.full_tensor().detach().clone().requires_grad_() for name, p in run.optimizer.parameters.items()}
    settings = run.stage.optimizer
    matrices = [c for c in clones.values() if c.ndim > 1]
    vectors = [c for c in clones.values() if c.ndim == 1]
    theirs = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=1e-3,
        betas=(settings.beta1, settings.beta2),
    )
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in run.optimizer.parameters.items():
            gradient = torch.randn(parameter.shape, generator=generator)
            clones[name].grad = gradient.clone()
            parameter.grad = torch.zeros_like(parameter)
            parameter.grad.to_local().copy_(gradient)  # type: ignore[attr-defined]
        norm = torch.nn.utils.clip_grad_norm_(list(clones.values()), settings.grad_clip)
        totals = run.optimizer.reduce(torch.zeros(()), copies=1, stop=False)
        assert totals.gradient_norm == pytest.approx(float(norm), rel=1e-5)
        theirs.step()
        run.optimizer.step(1e-3, totals.gradient_norm)
    return max(float((p.full_tensor() - clones[name]).abs().max()) for name, p in run.optimizer.parameters.items())


def changed_by_nan(_rank: int, _world: int) -> tuple[bool, int, float]:
    run = parity.trainer(parity.stage())
    before = {name: shard.clone() for name, shard in run.optimizer.shards.items()}
    updated = run.optimizer.step(1e-2, math.nan)
    change = max(float((shard - before[name]).abs().max()) for name, shard in run.optimizer.shards.items())
    return updated, run.optimizer.updates, change
