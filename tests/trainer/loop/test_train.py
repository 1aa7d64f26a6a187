"""A step that must not count: all ranks leave it out together, whatever the layout."""

import math
from typing import Any

import pytest
import torch

from internlm2_spec.config import Stage
from internlm2_trainer.compute.optim import AdamW, Totals
from internlm2_trainer.compute.tensor import local
from tests import ranks
from tests.trainer import parity

LAYOUTS = {
    "shards": parity.stage(shard=2),
    "replicas": parity.stage(),
    "tensor": parity.stage(tensor=2),
    "pipeline": parity.stage(pipeline=2),
}


CASES = [(name, value) for name in LAYOUTS for value in (math.nan, math.inf)]


@pytest.fixture(scope="module")
def outcomes() -> dict[tuple[str, float], list[object]]:
    """What each rank saw of each case."""
    seen = ranks.run(2, skip_then_step, [(LAYOUTS[name], value) for name, value in CASES])
    return {case: [of_rank[number] for of_rank in seen] for number, case in enumerate(CASES)}


@pytest.mark.parametrize(("name", "value"), CASES)
def test_one_bad_gradient_on_one_rank_is_left_out_by_all(
    name: str, value: float, outcomes: dict[tuple[str, float], list[object]]
) -> None:
    # not finite, nothing changed, one skip counted; then a step as usual
    assert outcomes[name, value] == [(False, 0.0, 1.0, True, True)] * 2


class Poisoned(AdamW):
    """Has one bad element in one gradient of the last rank, once."""

    value: float | None = None

    def reduce(self, loss: torch.Tensor, **settings: Any) -> Totals:
        if self.value is not None:
            gradient = next(p.grad for name, p in self.parameters.items() if "wqkv" in name)
            assert gradient is not None
            local(gradient).view(-1)[3] = self.value
            self.value = None
        return super().reduce(loss, **settings)


def skip_then_step(rank: int, world: int, cases: list[tuple[Stage, float]]) -> list[object]:
    return [outcome(stage, value if rank == world - 1 else None) for stage, value in cases]


def outcome(stage: Stage, value: float | None) -> object:
    run = parity.trainer(stage, optimizer=Poisoned)
    assert isinstance(run.optimizer, Poisoned)
    run.optimizer.value = value
    before = {name: shard.clone() for name, shard in run.optimizer.shards.items()}
    bad = run.step(0)
    change = max(float((shard - before[name]).abs().max()) for name, shard in run.optimizer.shards.items())
    skipped = run.metrics.registry.get_sample_value("internlm2_train_skipped_steps_total")
    good = run.step(1)
    moved = any(bool((shard != before[name]).any()) for name, shard in run.optimizer.shards.items())
    return math.isfinite(bad.gradient_norm), change, skipped, math.isfinite(good.gradient_norm), moved
