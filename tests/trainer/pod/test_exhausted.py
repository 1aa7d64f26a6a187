"""A rank without memory says what was expected, what takes most, and what to change."""

import dataclasses
import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from internlm2_spec import config, memory
from internlm2_spec.config import Parallel, Zero
from internlm2_spec.contract import ENV_METRICS_PORT, ENV_TERMINATION_LOG, ExitCode, FailureClass, Termination
from internlm2_spec.presets import PRESETS
from internlm2_trainer.pod import ending, exhausted, rank
from tests import ranks
from tests.trainer import parity

CPU_ALLOCATOR = "[enforce fail at alloc_cpu.cpp:123] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        torch.OutOfMemoryError("unexpected words"),
        RuntimeError(CPU_ALLOCATOR),
        RuntimeError("CUDA error: out of memory"),
        MemoryError(),
    ],
    ids=lambda error: f"{type(error).__name__} {error}"[:40],
)
def test_every_allocator_s_failure_is_the_configuration_s(error: Exception) -> None:
    end = ending.explain(error, rank=3, step=7, advice="use less")

    assert (end.failure, end.reason, end.exit_code) == (FailureClass.USER, "OutOfMemory", ExitCode.CONFIG)
    assert end.message.startswith("use less (")
    assert type(error).__name__ in end.traceback


def test_other_errors_are_not_about_memory() -> None:
    assert not ending.out_of_memory(RuntimeError("shape mismatch"))
    assert ending.explain(RuntimeError("shape mismatch")).exit_code == ExitCode.BUG


def test_the_advice_names_the_estimate_its_largest_part_and_what_needs_less() -> None:
    stage = dataclasses.replace(
        parity.stage(),
        model=PRESETS["internlm2-7b"],
        sequence_length=4096,
        global_batch_tokens=4 * 2**20,
        parallel=Parallel(zero=Zero(3, 8), micro_batch=4),
    )
    held = memory.of_stage(stage, 8, memory.CUDA)

    text = exhausted.advice(stage, 8, memory.CUDA)

    assert text.startswith(f"out of memory: {held.total / 2**30:.1f} GiB were estimated for a rank, ")
    assert f"{held.activations / 2**30:.1f} GiB of it activations; use parallel.recompute Full (" in text
    assert "parallel.microBatch 2" in text
    assert len(text) < 400  # the termination message keeps the error's own text behind it


def test_a_rank_that_cannot_allocate_its_model_ends_with_the_advice(tmp_path: Path) -> None:
    """A petabyte of weights: no allocator has that, whatever it promises."""
    stage = dataclasses.replace(parity.stage(), model=dataclasses.replace(parity.SIZES, ffn=2**42))
    (tmp_path / "job.json").write_text(config.to_json(stage))

    (code,) = ranks.run(1, train, str(tmp_path))

    end = Termination.from_json((tmp_path / "termination").read_text())
    assert end
    assert (code, end.exit_code, end.reason, end.rank) == (64, 64, "OutOfMemory", 0)
    total = memory.of_stage(stage, 1, memory.CPU).total
    assert end.message.startswith(f"out of memory: {total / 2**30:.1f} GiB were estimated for a rank, ")
    assert "of it optimizer; use " in end.message


def train(_rank: int, _world: int, folder: str) -> int:
    dist.destroy_process_group()  # a rank makes its own
    os.environ |= {ENV_TERMINATION_LOG: f"{folder}/termination", ENV_METRICS_PORT: "0"}
    return rank.main(f"{folder}/job.json")
