"""What is left to compute of packed, split sequences, against the mask that it stands for."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from internlm2_trainer.compute import spans


def mask_of(documents: Tensor) -> Tensor:
    """Return which key each query may see, [B, S, S] bool: the definition."""
    same = documents.unsqueeze(2) == documents.unsqueeze(1)
    return same.tril()


def covered(documents: Tensor, size: int) -> Tensor:
    """Return how often each (query, key) is computed over all ranks and steps of a ring, [B, S, S]."""
    times = torch.zeros(*documents.shape, documents.shape[1], dtype=torch.int64)
    held = [spans.places(documents.shape[1], ring=(rank, size), ulysses=(0, 1)) for rank in range(size)]
    for rank, step in itertools.product(range(size), range(size)):
        for span in spans.plan(documents, rank=rank, size=size).steps[step]:
            queries, keys = held[rank][span.queries], held[(rank - step) % size][span.keys]
            seen = torch.ones(len(queries), len(keys), dtype=torch.int64)
            for row in range(documents.shape[0])[span.rows]:
                times[row, queries.unsqueeze(1), keys] += seen.tril() if span.causal else seen
    return times


@settings(max_examples=30, deadline=None)
@given(
    size=st.sampled_from([1, 2, 3, 4]),
    rows=st.lists(st.lists(st.booleans(), min_size=24, max_size=24), min_size=1, max_size=3),
)
def test_all_that_a_causal_document_mask_leaves_is_computed_once(size: int, rows: list[list[bool]]) -> None:
    documents = torch.tensor(rows).long().cumsum(1)
    assert torch.equal(covered(documents, size), mask_of(documents).long())


def test_the_check_sees_a_document_that_is_ignored() -> None:
    documents = torch.tensor([[0] * 10 + [1] * 14])
    assert not torch.equal(covered(torch.zeros_like(documents), 2), mask_of(documents).long())


@pytest.mark.parametrize("size", [1, 2, 4])
def test_every_rank_computes_the_same_share_of_a_causal_triangle(size: int) -> None:
    length = 64
    areas = []
    for rank in range(size):
        plan = spans.plan(torch.zeros(1, length, dtype=torch.int64), rank=rank, size=size)
        areas.append(sum(area(span) for span in itertools.chain(*plan.steps)))
    assert sum(areas) == length * (length + 1) // 2
    assert set(areas) == {areas[0]}


def area(span: spans.Span) -> int:
    queries: int = span.queries.stop - span.queries.start
    keys: int = span.keys.stop - span.keys.start
    return queries * (queries + 1) // 2 if span.causal else queries * keys


@pytest.mark.parametrize(("ring", "ulysses"), [(1, 1), (4, 1), (1, 4), (2, 2), (3, 2)])
def test_the_ranks_hold_each_place_once(ring: int, ulysses: int) -> None:
    held = [
        spans.places(24, ring=(r, ring), ulysses=(u, ulysses))
        for r, u in itertools.product(range(ring), range(ulysses))
    ]
    assert {len(mine) for mine in held} == {24 // (ring * ulysses)}
    assert torch.cat(held).sort().values.tolist() == list(range(24))


def test_a_ring_of_two_holds_the_outer_and_the_inner_quarters() -> None:
    held = [spans.places(8, ring=(rank, 2), ulysses=(0, 1)).tolist() for rank in range(2)]
    assert held == [[0, 1, 6, 7], [2, 3, 4, 5]]


def test_rows_alike_are_computed_together() -> None:
    documents = torch.tensor([[0, 0, 1, 1], [7, 7, 9, 9]])
    ((one, other),) = spans.plan(documents, rank=0, size=1).steps
    assert one == spans.Span(slice(None), slice(0, 2), slice(0, 2), causal=True)
    assert other == spans.Span(slice(None), slice(2, 4), slice(2, 4), causal=True)


def test_bounds_are_those_of_all_rows_end_to_end() -> None:
    bounds, longest = spans.plan(torch.tensor([[0, 0, 0, 1], [0, 1, 1, 1]]), rank=0, size=1).bounds
    assert (bounds.tolist(), bounds.dtype, longest) == ([0, 3, 4, 5, 8], torch.int32, 3)
