"""FLOPs per token against values computed by hand and against another trainer's formula."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internlm2_spec import flops
from internlm2_spec.config import Model
from internlm2_spec.presets import PRESETS, parameters


# A layer has hidden x (heads + 2 kv) x 128 (wqkv), hidden x hidden (wo), 3 x hidden x ffn and two norms:
#   1.8B  2048 x 4096 + 2048 x 2048 + 3 x 2048 x  8192 + 2 x 2048 =  62,918,656
#   7B    4096 x 6144 + 4096 x 4096 + 3 x 4096 x 14336 + 2 x 4096 = 218,112,000
#   20B   6144 x 8192 + 6144 x 6144 + 3 x 6144 x 16384 + 2 x 6144 = 390,082,560
# and outside of layers one norm, an embedding and a head of 92,544 x hidden.
@pytest.mark.parametrize(
    ("preset", "count"),
    [
        ("internlm2-1.8b", 24 * 62_918_656 + 2 * 189_530_112 + 2048),
        ("internlm2-7b", 32 * 218_112_000 + 2 * 379_060_224 + 4096),
        ("internlm2-20b", 48 * 390_082_560 + 2 * 568_590_336 + 6144),
    ],
)
def test_parameters_are_those_of_the_report_s_table(preset: str, count: int) -> None:
    assert parameters(PRESETS[preset]) == count


# 6 x (parameters - embedding), and 6 or 12 x layers x hidden x sequence for attention.
@pytest.mark.parametrize(
    ("preset", "sequence_length", "causal", "full"),
    [
        ("internlm2-1.8b", 4096, 11_405_438_976, 12_613_398_528),
        ("internlm2-1.8b", 262_144, 87_506_890_752, 164_816_302_080),
        ("internlm2-7b", 4096, 47_373_115_392, 50_594_340_864),
        ("internlm2-7b", 262_144, 250_310_320_128, 456_468_750_336),
        ("internlm2-20b", 4096, 123_003_113_472, 130_250_870_784),
        ("internlm2-20b", 32_768, 173_737_414_656, 231_719_473_152),
    ],
)
def test_flops_per_token_count_weights_and_attention(preset: str, sequence_length: int, causal: int, full: int) -> None:
    assert flops.per_token_causal(PRESETS[preset], sequence_length) == causal
    assert flops.per_token_full(PRESETS[preset], sequence_length) == full


@pytest.mark.parametrize("preset", PRESETS)
def test_full_flops_are_torchtitan_s(preset: str) -> None:
    model, sequence_length = PRESETS[preset], 8192
    head_size = model.hidden // model.heads
    theirs = (
        6 * (parameters(model) - model.vocab * model.hidden)
        + 6 * model.layers * model.heads * (2 * head_size) * sequence_length
    )
    assert flops.per_token_full(model, sequence_length) == theirs


def test_kv_heads_change_the_weights_and_not_the_attention() -> None:
    shared = Model(layers=2, hidden=64, heads=8, kv_heads=2, ffn=128, vocab=256)
    whole = Model(layers=2, hidden=64, heads=8, kv_heads=8, ffn=128, vocab=256)
    weights = 6 * 2 * 64 * 2 * (8 - 2) * 8
    assert flops.per_token_causal(whole, 512) - flops.per_token_causal(shared, 512) == weights


def test_a_document_costs_the_same_packed_or_alone() -> None:
    model = PRESETS["internlm2-tiny"]
    alone = flops.of_documents_causal(model, [100]) + flops.of_documents_causal(model, [28])
    assert flops.of_documents_causal(model, [100, 28]) == pytest.approx(alone)
    assert flops.of_documents_causal(model, []) == 0


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=20))
def test_packing_costs_no_more_than_one_document_of_the_length_of_all(lengths: list[int]) -> None:
    model = PRESETS["internlm2-tiny"]
    whole = sum(lengths) * flops.per_token_causal(model, sum(lengths))
    packed = flops.of_documents_causal(model, lengths)
    assert packed <= whole * (1 + 1e-12)
    assert (packed == pytest.approx(whole)) == (len(lengths) == 1)
