"""The FLOPs formula against the operators that the model really runs, forward and backward."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from internlm2_spec import flops
from internlm2_spec.presets import parameters
from tests import ranks
from tests.trainer import parity


def test_counted_operators_are_the_formula() -> None:
    """torch counts attention in full, and of its backward also the scores computed once more: 14 instead of 12."""
    ((attention, everything),) = ranks.run(1, counted)

    model, tokens = parity.SIZES, 2 * parity.SEQUENCE
    scales = (2 * model.layers + 1) * model.hidden  # norms: no matrix product, counted in the formula's 6 N
    pairs = model.layers * model.hidden * parity.SEQUENCE * tokens
    assert parameters(model) > 100 * scales
    assert attention == 14 * pairs
    assert everything - attention == tokens * (flops.per_token_full(model, parity.SEQUENCE) - 6 * scales) - 12 * pairs


def counted(_rank: int, _world: int) -> tuple[int, int]:
    """Return what one forward and backward of two samples costs: attention, and everything."""
    run = parity.trainer(parity.stage())
    tokens = torch.zeros(2, parity.SEQUENCE, dtype=torch.int64)
    positions = torch.arange(parity.SEQUENCE).expand_as(tokens).contiguous()
    run.model.whole(tokens, positions, tokens, tokens).backward()  # FSDP sets itself up
    with FlopCounterMode(display=False) as counter:
        run.model.whole(tokens, positions, tokens, tokens).backward()
    by_operator = counter.get_flop_counts()["Global"]
    attention = sum(count for operator, count in by_operator.items() if "attention" in str(operator))
    return attention, counter.get_total_flops()
