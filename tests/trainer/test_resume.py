"""A run that is stopped and resumed equals one that is not: bit by bit in the same layout, closely in another."""

import dataclasses
import pathlib
import shutil
from typing import Final

import pytest

from internlm2_spec.config import Stage
from internlm2_trainer import storage
from internlm2_trainer.checkpoint.memory import Memory
from tests import ranks
from tests.trainer import parity
from tests.trainer.states import checkpointer
from tests.trainer.test_layouts import FP32

STEPS: Final = 5
STOPPED_AFTER: Final = 3

Steps = list[tuple[str, str]]


def stage(*, tensor: int = 1, zero: int = 1, shard: int = 1) -> Stage:
    return dataclasses.replace(parity.stage(tensor=tensor, zero=zero, shard=shard), steps=STEPS)


def part(rank: int, world: int, stage: Stage, url: str, until: int) -> Steps:
    """Resume, train until a step and leave a checkpoint; return loss and gradient norm of each step, in hex."""
    run = parity.trainer(stage)
    run.checkpoints = checkpointer(storage.open_store(url), rank, world, incarnation=str(until))
    first = run.resume()
    totals = [run.step(step) for step in range(first, until)]
    run.save(until, wait=True)
    return [(each.loss.hex(), each.gradient_norm.hex()) for each in totals]


LAYOUT = stage(shard=2)

OTHERS = {
    "one process": (1, stage()),
    "tensor instead of data": (2, stage(tensor=2)),
    "more data ranks and another ZeRO stage": (4, stage(zero=3, shard=4)),
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Steps:
    steps: Steps = ranks.run(2, part, LAYOUT, f"file://{tmp_path_factory.mktemp('undisturbed')}", STEPS)[0]
    return steps


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, Steps]:
    """A run that was stopped: its folder, and the steps that it did."""
    folder = tmp_path_factory.mktemp("stopped")
    return folder, ranks.run(2, part, LAYOUT, f"file://{folder}", STOPPED_AFTER)[0]


def resumed(world: int, layout: Stage, stopped: pathlib.Path, folder: pathlib.Path) -> Steps:
    """Go on from a copy of a stopped run."""
    shutil.copytree(stopped, folder, dirs_exist_ok=True)
    steps: Steps = ranks.run(world, part, layout, f"file://{folder}", STEPS)[0]
    assert len(steps) == STEPS - STOPPED_AFTER
    return steps


def test_in_the_same_layout_every_step_is_bitwise_equal(
    undisturbed: Steps, stopped: tuple[pathlib.Path, Steps], tmp_path: pathlib.Path
) -> None:
    assert stopped[1] + resumed(2, LAYOUT, stopped[0], tmp_path) == undisturbed


@pytest.mark.parametrize("other", OTHERS)
def test_in_another_layout_every_step_is_close(
    other: str, undisturbed: Steps, stopped: tuple[pathlib.Path, Steps], tmp_path: pathlib.Path
) -> None:
    after = resumed(*OTHERS[other], stopped[0], tmp_path)
    for (loss, norm), (expected_loss, expected_norm) in zip(after, undisturbed[STOPPED_AFTER:], strict=True):
        assert float.fromhex(loss) == pytest.approx(float.fromhex(expected_loss), abs=FP32.loss)
        assert float.fromhex(norm) == pytest.approx(float.fromhex(expected_norm), rel=FP32.norm)


def test_the_control_without_the_moments_is_far_off(undisturbed: Steps) -> None:
    steps: Steps = ranks.run(1, part_from_weights)[0]
    assert abs(float.fromhex(steps[-1][0]) - float.fromhex(undisturbed[-1][0])) > 10 * FP32.loss


def part_from_weights(_rank: int, _world: int) -> Steps:
    """Train in one process, with the optimizer begun anew where the run was stopped."""
    run = parity.trainer(stage())
    steps = [run.step(step) for step in range(STOPPED_AFTER)]
    run.optimizer = type(run.optimizer)(run.model.parameters(), run.stage.optimizer)
    steps += [run.step(step) for step in range(STOPPED_AFTER, STEPS)]
    return [(each.loss.hex(), each.gradient_norm.hex()) for each in steps]


def copy_only(rank: int, world: int, url: str, folder: pathlib.Path) -> None:
    """Die after the last step's copy in memory and before its checkpoint."""
    run = parity.trainer(stage())
    checkpoints = checkpointer(storage.open_store(url), rank, world, memory=Memory(folder, 0, limit_bytes=2**30))
    checkpoints.restore(run.state())
    checkpoints.remember(STEPS, run.state(), run.extra(STEPS))
    checkpoints.wait()


def finish(rank: int, world: int, url: str, folder: pathlib.Path) -> tuple[int, int, int]:
    run = parity.trainer(stage())
    checkpoints = checkpointer(storage.open_store(url), rank, world, memory=Memory(folder, 0, limit_bytes=2**30))
    run.checkpoints = checkpoints
    step = run.resume()
    code = run.run(step)
    assert checkpoints.published is not None
    return step, int(code), checkpoints.published[0]


def test_a_last_step_that_only_memory_has_is_published_before_the_stage_is_done(tmp_path: pathlib.Path) -> None:
    url = f"file://{tmp_path}/bucket"
    ranks.run(1, copy_only, url, tmp_path)
    assert not storage.open_store(url).list("")
    assert ranks.run(1, finish, url, tmp_path) == [(STEPS, 0, STEPS)]
