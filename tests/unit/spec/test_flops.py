"""FLOPs per token against values computed by hand."""

import pytest

from internlm2_spec import flops
from internlm2_spec.presets import PRESETS


@pytest.mark.parametrize(
    ("preset", "sequence_length", "causal", "full"),
    [
        # (7,737,708,544 - 92,544 x 4,096) x 6, and 6 or 12 x 32 x 4,096 x 4,096 for attention
        ("internlm2-7b", 4096, 47_373_115_392, 50_594_340_864),
    ],
)
def test_flops_per_token_count_weights_and_attention(preset: str, sequence_length: int, causal: int, full: int) -> None:
    assert flops.per_token_causal(PRESETS[preset], sequence_length) == causal
    assert flops.per_token_full(PRESETS[preset], sequence_length) == full
