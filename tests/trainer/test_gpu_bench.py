"""What `make gpu` runs, on a CPU and small: contestants, turns, the search for the longest sequence."""

import json
import math
import os
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench import contestants, gpu
from bench.contestants import Contestant, Place, Step, Work
from bench.longest import longest
from internlm2_spec.config import Model
from tests import device_parity, programs, ranks
from tests.device_parity import BF16, Distance, distance

WORK = Work(Model(layers=1, hidden=32, heads=4, kv_heads=2, ffn=64, vocab=128), sequence_length=64)
TOP = Path(__file__).parents[2]


@given(most=st.integers(0, 300), doublings=st.integers(0, 6))
def test_the_longest_sequence_is_found_within_an_eighth(most: int, doublings: int) -> None:
    limit, tried = 4 << doublings, []

    def fits(length: int) -> bool:
        tried.append(length)
        return length <= most

    found = longest(fits, start=4, limit=limit)

    best = min(most // 4 * 4, limit)
    assert found <= best
    assert best - found < max(4, found // 8)
    assert len(set(tried)) == len(tried) <= 2 + 2 * math.ceil(math.log2(limit))
    assert max(tried) <= limit


def test_what_does_not_fit_is_none_and_the_others_go_on() -> None:
    (found,) = ranks.run(1, measured)

    assert found["speedByRecompute"]["None"]["too large"] is None
    assert found["longestSequence"]["too large"] is None
    assert found["longestSequence"]["up to 128"]["tokens"] == 128
    for mode in ("None", "Full"):
        for name in ("internlm2", "transformers"):
            one = found["speedByRecompute"][mode][name]
            assert one["tokensPerSecond"]["n"] == 2 * 2
            assert 0 < one["mfuCausal"] < one["mfuFull"] < 1
    assert found["transformers"] == ["transformers"]
    assert json.loads(json.dumps(found)) == found
    machine = {"device": "cpu"}
    assert any("out of memory" in line for line in gpu.table({"model": "tiny", "machine": machine, **found}))


def measured(_rank: int, _world: int) -> dict[str, Any]:
    def refuses_above(length: int) -> Callable[[Work, Place], Step]:
        def prepare(work: Work, place: Place) -> Step:
            if work.sequence_length > length:
                raise torch.OutOfMemoryError("no")
            return contestants.ours(work, place)

        return prepare

    found = [
        Contestant("internlm2", contestants.ours),
        Contestant("transformers", contestants.theirs),
        Contestant("too large", refuses_above(0)),
        Contestant("up to 128", refuses_above(128)),
    ]
    torch.distributed.destroy_process_group()
    with contestants.alone(torch.device("cpu")) as place:
        return gpu.measure(found, WORK, place, rounds=2, steps=2, limit=256)


def test_what_ran_out_of_memory_holds_nothing_any_more() -> None:
    made: list[weakref.ref[Circle]] = []

    def work() -> None:
        circle = Circle()
        made.append(weakref.ref(circle))
        raise torch.OutOfMemoryError("no")

    assert gpu.attempt(work) is None
    assert [each() for each in made] == [None]


class Circle:
    def __init__(self) -> None:
        self.itself = self


def test_recompute_is_on_for_both_or_for_none() -> None:
    """Count the matrix products of a step."""
    (products,) = ranks.run(1, products_of_a_step)

    for name in ("ours", "theirs"):
        assert products[name, "Full"] > products[name, "None"]


def products_of_a_step(_rank: int, _world: int) -> dict[tuple[str, str], int]:
    torch.distributed.destroy_process_group()
    with contestants.alone(torch.device("cpu")) as place:
        return {
            (name, mode): products(prepare(replace(WORK, recompute=mode), place))
            for name, prepare in (("ours", contestants.ours), ("theirs", contestants.theirs))
            for mode in ("None", "Full")
        }


def products(step: Step) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        step(torch.zeros(1, WORK.sequence_length, dtype=torch.int64))
    return int(counter.get_total_flops())


def test_bf16_is_as_near_to_fp32_as_a_gpu_has_to_be_and_the_control_is_not() -> None:
    """The comparison of tests/gpu, with a CPU's bf16 in place of a GPU's."""
    (found,) = ranks.run(1, distances)

    assert found["bf16"].within(BF16)
    assert found["another rope base"].gradient > 2 * BF16.gradient


def distances(_rank: int, _world: int) -> dict[str, Distance]:
    torch.distributed.destroy_process_group()
    stage, bf16 = device_parity.stage(), torch.bfloat16
    with contestants.alone(torch.device("cpu")) as place:
        reference = device_parity.train(stage, place)
        return {
            "bf16": distance(device_parity.train(stage, place, bf16), reference),
            "another rope base": distance(device_parity.train(replace(stage, rope_base=500.0), place, bf16), reference),
        }


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, which make gpu uses")
@pytest.mark.parametrize("command", [["pytest", str(TOP / "tests/gpu")], ["bench.gpu"]], ids=["tests", "benchmark"])
def test_without_a_device_one_line_says_so_and_it_has_failed(command: list[str], tmp_path: Path) -> None:
    output, errors = tmp_path / "output", tmp_path / "errors"
    fresh = command[0] == "pytest"  # which must be there before what it rewrites
    process = programs.start(command, environment=os.environ, output=output, errors=errors, fresh=fresh)

    assert programs.wait(process, 100) == 2
    said = output.read_text() + errors.read_text()
    assert [line for line in said.splitlines() if gpu.NO_DEVICE in line] != []
    assert "passed" not in said
