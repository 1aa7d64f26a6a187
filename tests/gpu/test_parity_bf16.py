"""Passes in bf16 on a GPU against fp32 on a CPU, with fp32 kept for everything that adds up."""

import dataclasses

import pytest
import torch
import torch.distributed as dist

from bench.contestants import Place, alone, build
from tests import device_parity
from tests.device_parity import BF16, Run, distance, stage, train


@pytest.fixture(scope="module")
def on_cpu() -> Run:
    with alone(torch.device("cpu")) as place:
        return train(stage(), place)


@pytest.fixture(scope="module")
def on_gpu(on_cpu: Run, gpu: Place) -> Run:  # noqa: ARG001 - one group at a time, the CPU's first
    return train(stage(), gpu)


def test_bf16_on_a_gpu_trains_what_fp32_on_a_cpu_trains(on_gpu: Run, on_cpu: Run) -> None:
    assert distance(on_gpu, on_cpu).within(BF16), distance(on_gpu, on_cpu)


def test_the_control_sees_another_rope_base(on_cpu: Run, gpu: Place) -> None:
    other = train(dataclasses.replace(stage(), rope_base=500.0), gpu)

    assert distance(other, on_cpu).gradient > 2 * BF16.gradient


def test_the_same_run_twice_is_the_same_bits(on_gpu: Run, gpu: Place) -> None:
    assert "nccl" in dist.get_backend()
    assert torch.are_deterministic_algorithms_enabled()
    again = train(stage(), gpu)

    assert again.steps == on_gpu.steps
    assert all(torch.equal(again.weights[name], weight) for name, weight in on_gpu.weights.items())


def test_weights_gradients_and_moments_are_fp32_while_passes_are_bf16(gpu: Place) -> None:
    model, optimizer = build(stage(), gpu)
    labels, loss = device_parity.forward(model, gpu.device, 0)
    (loss / labels).backward()

    kept = [*optimizer.shards.values(), *optimizer.averages.values(), *optimizer.squares.values()]
    gradients = [p.grad for p in optimizer.parameters.values()]
    assert {tensor.dtype for tensor in kept} == {torch.float32}
    assert {g.dtype for g in gradients if g is not None} == {torch.float32}
    assert (model.dtype, loss.dtype) == (torch.bfloat16, torch.float32)
