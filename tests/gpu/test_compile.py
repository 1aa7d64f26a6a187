"""Compiled layers on a GPU compute what the others do."""

import torch
from torch._dynamo.utils import counters

from bench.contestants import Place
from tests.device_parity import BF16, distance, stage, train


def test_compiled_layers_train_what_the_others_train(gpu: Place) -> None:
    torch.compiler.reset()
    counters.clear()
    eager, compiled = train(stage(), gpu), train(stage(compile=True), gpu)

    assert counters["stats"]["unique_graphs"] > 0
    assert distance(compiled, eager).within(BF16), distance(compiled, eager)


def test_compiled_layers_give_the_same_bits_twice(gpu: Place) -> None:
    assert train(stage(compile=True), gpu).steps == train(stage(compile=True), gpu).steps
