"""The optimizer against torch's, and what a bad gradient does."""

import math

import pytest
import torch

from internlm2_spec.config import Optimizer
from internlm2_trainer.optim import learning_rate
from tests import ranks
from tests.trainer import parity

SETTINGS = Optimizer(lr=1.0, min_lr=0.1, warmup_steps=4)


@pytest.mark.parametrize(("step", "expected"), [(0, 0.25), (3, 1.0), (4, 1.0), (54, 0.55), (104, 0.1), (200, 0.1)])
def test_the_rate_warms_up_and_follows_a_cosine_to_the_minimum(step: int, expected: float) -> None:
    assert learning_rate(SETTINGS, step=step, steps=104) == pytest.approx(expected)


def test_a_step_is_torch_s_adamw_with_clipping() -> None:
    assert ranks.run(1, largest_difference_to_torch) == [pytest.approx(0.0, abs=1e-6)]


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    assert ranks.run(1, changed_by_nan) == [(False, 0, 0.0)]


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
