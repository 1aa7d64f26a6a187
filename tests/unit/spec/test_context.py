"""Splits of heads and sequence: legal ones pass, others are refused with field, value and cure."""

import dataclasses

import pytest

from internlm2_spec.config import Parallel, Refused
from internlm2_spec.context import check_context, kv_copies, kv_heads_per_rank, legal_tensor, sequence_unit
from internlm2_spec.presets import PRESETS

SEVEN = PRESETS["internlm2-7b"]  # 32 heads, 8 KV heads

# name -> (layout, sequence length, what the message must hold: the field, the value, the cure)
REFUSED: dict[str, tuple[Parallel, int, tuple[str, str, str]]] = {
    "tensor between the KV heads and the heads": (
        Parallel(tensor=12), 4096, ("parallel.tensor: ", "12 does not divide kvHeads 8", "use 1, 2, 4, 8, 16, 32")
    ),
    "more tensor ranks than heads": (Parallel(tensor=64), 4096, ("parallel.tensor: ", "64", "use 1, 2, 4, 8, 16, 32")),
    "an exchange that context does not hold": (
        Parallel(context=4, ulysses=8), 4096, ("parallel.ulysses: ", "8 does not divide context 4", "use 1 or 2 or 4,")
    ),
    "an exchange without context": (
        Parallel(ulysses=2), 4096, ("parallel.ulysses: ", "2 does not divide context 1", "use 1,")
    ),
    "no exchange at all": (
        Parallel(context=2, ulysses=0), 4096, ("parallel.ulysses: ", "0 does not divide", "use 1 or 2,")
    ),
    "an exchange of parts of KV heads": (
        Parallel(tensor=4, context=4, ulysses=4), 4096,
        ("parallel.ulysses: ", "4 does not divide the KV heads of a rank, 2 of 8 at tensor 4", "use 1 or 2,"),
    ),
    "an exchange of a KV head that ranks share": (
        Parallel(tensor=16, context=2, ulysses=2), 4096, ("parallel.ulysses: ", "1 of 8 at tensor 16", "use 1,")
    ),
    "a sequence that tensor does not divide": (
        Parallel(tensor=8), 4092, ("sequenceLength: ", "4092 is not divisible by 8, for tensor 8", "4088 or 4096")
    ),
    "a sequence without two chunks for each rank of the ring": (
        Parallel(context=8), 4088, ("sequenceLength: ", "4088 is not divisible by 16", "multiple of 16, such as 4080")
    ),
    "a sequence shorter than the ranks": (
        Parallel(context=8), 8, ("sequenceLength: ", "8 is not divisible by 16", "such as 16")
    ),
}  # fmt: skip

LEGAL = {
    "one rank": (Parallel(), 1),
    "a ring of three": (Parallel(context=3), 12),
    "an odd sequence for an exchange, which needs no two chunks": (Parallel(context=2, ulysses=2), 4098),
    "256K over 8 x 8": (Parallel(tensor=8, context=8), 262144),
    "both, in a node of 8": (Parallel(tensor=2, context=4, ulysses=2), 32768),
    "a rank a query head": (Parallel(tensor=32), 4096),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_field_value_and_cure(name: str) -> None:
    parallel, length, (path, wrong, right) = REFUSED[name]
    with pytest.raises(Refused) as refused:
        check_context(SEVEN, parallel, length)
    assert refused.value.path == path.removesuffix(": ")
    assert wrong in refused.value.wrong
    assert right in refused.value.right


@pytest.mark.parametrize("name", LEGAL)
def test_accepted(name: str) -> None:
    parallel, length = LEGAL[name]
    check_context(SEVEN, parallel, length)
    assert length % sequence_unit(parallel) == 0


@pytest.mark.parametrize(("tensor", "heads", "copies"), [(1, 8, 1), (4, 2, 1), (8, 1, 1), (16, 1, 2), (32, 1, 4)])
def test_ranks_beyond_the_kv_heads_share_one(tensor: int, heads: int, copies: int) -> None:
    parallel = Parallel(tensor=tensor)
    assert (kv_heads_per_rank(SEVEN, parallel), kv_copies(SEVEN, parallel)) == (heads, copies)


def test_a_kv_group_whose_rows_do_not_divide_is_not_shared() -> None:
    # 3 queries, key and value of 2 rows each: 10 rows, which 3 ranks cannot hold in equal parts
    odd = dataclasses.replace(SEVEN, hidden=12, heads=6, kv_heads=2)
    assert legal_tensor(odd) == [1, 2]
