"""What pipelines add to the table of layouts: checkpoints without stages, and what torch gets wrong."""

import dataclasses
from pathlib import Path
from typing import Any, cast

import numpy
import pytest
import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from internlm2_spec.config import Parallel, Stage
from internlm2_spec.pipeline import ZERO_BUBBLE
from internlm2_trainer import storage
from internlm2_trainer.loop.train import Trainer
from tests import ranks
from tests.trainer import parity
from tests.trainer.states import checkpointer

LAYERS = 5
ONE = parity.stage(layers=LAYERS)
V = parity.stage(layers=LAYERS, pipeline=2, schedule="ZBVZeroBubble", shard=2, micro_batch=1)
LOOP = parity.stage(layers=LAYERS, pipeline=2, schedule="Interleaved1F1B")


@pytest.mark.parametrize(("saved", "loaded"), [((4, V), (1, ONE)), ((1, ONE), (2, LOOP)), ((2, LOOP), (4, V))])
def test_a_checkpoint_knows_nothing_of_stages(
    saved: tuple[int, Stage], loaded: tuple[int, Stage], tmp_path: Path
) -> None:
    there: dict[str, str] = joined(ranks.run(saved[0], save_after_a_step, saved[1], f"file://{tmp_path}"))
    here: dict[str, str] = joined(ranks.run(loaded[0], load, loaded[1], f"file://{tmp_path}"))

    assert here == there
    assert len(there) == 3 * (7 * LAYERS + 3)  # weights and two moments


def test_torch_still_loses_gradients_when_a_zero_bubble_meets_dropped_weights(tmp_path: Path) -> None:
    """The combination that zero.stage 3 would be, built past its refusal. The day this fails, lift the refusal."""
    schedules = sorted(ZERO_BUBBLE)
    ranks.run(1, parity.reference, ONE, str(tmp_path))
    seen = ranks.run(4, errors_with_dropped_weights, schedules, str(tmp_path))

    for schedule in schedules:
        wrong: dict[str, float] = joined([of_rank[schedule] for of_rank in seen])
        first_stage = {name for name in wrong if "tok_embeddings" in name or ".layers.0." in name}
        assert max(wrong[name] for name in first_stage) < 1e-5  # its backward is not split
        assert min(error for name, error in wrong.items() if name not in first_stage) > 0.1


def joined(of_ranks: list[dict[str, Any]]) -> dict[str, Any]:
    """Join what the ranks hold. Ranks that hold the same agree on it."""
    everything: dict[str, Any] = {}
    for held in of_ranks:
        assert all(everything.get(name, value) == value for name, value in held.items())
        everything |= held
    return everything


def save_after_a_step(rank: int, world: int, stage: Stage, url: str) -> dict[str, str]:
    run = opened(rank, world, stage, url)
    run.step(0)
    run.save(1, wait=True)
    return parity.digests(run.state())


def load(rank: int, world: int, stage: Stage, url: str) -> dict[str, str]:
    run = opened(rank, world, stage, url)
    assert run.resume() == 1
    return parity.digests(run.state())


def opened(rank: int, world: int, stage: Stage, url: str) -> Trainer:
    run = parity.trainer(stage)
    run.checkpoints = checkpointer(storage.open_store(url), rank, world)
    return run


def errors_with_dropped_weights(_rank: int, _world: int, schedules: list[str], folder: str) -> dict[str, Any]:
    return {
        schedule: errors(dataclasses.replace(V.parallel, schedule=cast(Any, schedule)), folder)
        for schedule in schedules
    }


def errors(parallel: Parallel, folder: str) -> dict[str, float]:
    """Return how wrong each gradient of a step is, as a part of its largest element; one that is missing is so by 1."""
    run = parity.trainer(dataclasses.replace(V, parallel=parallel))
    for part in run.model.parts.values():
        for module in part.modules():
            if isinstance(module, FSDPModule):
                module.set_reshard_after_forward(True, recurse=False)
    run.forward_backward(run.batches(0))
    with numpy.load(Path(folder) / parity.REFERENCE) as expected:
        return {
            name: error(parameter.grad, torch.from_numpy(expected[name]))
            for name, parameter in run.optimizer.parameters.items()
        }


def error(gradient: Tensor | None, expected: Tensor) -> float:
    if gradient is None:
        return 1.0
    return float((parity.whole(gradient) - expected).abs().max() / expected.abs().max())
