"""Which stages there are, who holds them, and which layers each has."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internlm2_spec.config import Model, Parallel
from internlm2_spec.pipeline import Part, parts, stage_count, stages_of
from internlm2_spec.presets import PRESETS


@pytest.mark.parametrize(
    ("parallel", "held"),
    [
        (Parallel(), [(0,)]),
        (Parallel(schedule="ZBVZeroBubble"), [(0,)]),
        (Parallel(pipeline=3, schedule="GPipe"), [(0,), (1,), (2,)]),
        (Parallel(pipeline=3), [(0,), (1,), (2,)]),
        (Parallel(pipeline=2, schedule="Interleaved1F1B"), [(0, 2), (1, 3)]),
        (Parallel(pipeline=2, schedule="InterleavedZeroBubble"), [(0, 2), (1, 3)]),
        (Parallel(pipeline=3, schedule="ZBVZeroBubble"), [(0, 5), (1, 4), (2, 3)]),
    ],
)
def test_ranks_hold_stages_in_a_loop_or_a_v(parallel: Parallel, held: list[tuple[int, ...]]) -> None:
    assert [stages_of(parallel, rank) for rank in range(parallel.pipeline)] == held
    assert stage_count(parallel) == sum(map(len, held))


@pytest.mark.parametrize(
    ("preset", "stages", "layers"),
    [
        # A head of the 1.8B costs 2.7 layers of 4,096 tokens, of the 7B 1.6.
        ("internlm2-1.8b", 4, [6, 7, 7, 4]),
        ("internlm2-7b", 4, [8, 8, 9, 7]),
        ("internlm2-7b", 8, [4, 4, 4, 4, 4, 4, 5, 3]),
        ("internlm2-20b", 1, [48]),
        ("internlm2-tiny", 4, [1, 1, 1, 1]),
    ],
)
def test_the_head_takes_the_place_of_layers(preset: str, stages: int, layers: list[int]) -> None:
    assert [len(part.layers) for part in parts(PRESETS[preset], stages, 4096)] == layers


def test_embedding_and_head_are_at_the_ends() -> None:
    assert parts(PRESETS["internlm2-tiny"], 2, 64) == (Part(range(3), True, False), Part(range(3, 4), False, True))
    assert parts(PRESETS["internlm2-tiny"], 1, 64) == (Part(range(4), True, True),)


SIZES = st.builds(
    Model,
    layers=st.integers(1, 9),
    hidden=st.sampled_from([8, 64]),
    heads=st.just(4),
    kv_heads=st.sampled_from([1, 4]),
    ffn=st.integers(8, 256),
    vocab=st.integers(8, 20000),
)


@given(SIZES, st.integers(1, 9), st.integers(2, 4096))
def test_every_layer_is_in_one_stage_and_no_other_cut_is_faster(model: Model, stages: int, tokens: int) -> None:
    stages = min(stages, model.layers)
    cut = parts(model, stages, tokens)

    assert [layer for part in cut for layer in part.layers] == list(range(model.layers))
    assert [part.first for part in cut] == [True] + [False] * (stages - 1)
    assert [part.last for part in cut] == [False] * (stages - 1) + [True]
    assert all(part.layers for part in cut)
    lengths = tuple(len(part.layers) for part in cut)
    assert slowest(model, tokens, lengths) == min(slowest(model, tokens, each) for each in cuts(model.layers, stages))


def cuts(layers: int, stages: int) -> list[tuple[int, ...]]:
    """Every way to cut so many layers into stages of at least one."""
    return [
        tuple(end - start for start, end in zip((0, *inner), (*inner, layers), strict=True))
        for inner in combinations(range(1, layers), stages - 1)
    ]


def slowest(model: Model, tokens: int, lengths: tuple[int, ...]) -> int:
    """The multiply-adds a token of the slowest stage, counted weight by weight."""
    head = model.hidden // model.heads
    wqkv, wo = (model.heads + 2 * model.kv_heads) * head * model.hidden, model.heads * head * model.hidden
    layer = wqkv + wo + 3 * model.hidden * model.ffn + 2 * model.hidden * tokens // 2
    costs = [length * layer for length in lengths]
    costs[0] += model.hidden
    costs[-1] += model.vocab * model.hidden
    return max(costs)
