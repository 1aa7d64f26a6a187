"""The FLOPs formula against the operators that the model really runs, forward and backward."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from internlm2_spec import flops
from internlm2_spec.config import Stage
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


LAYOUTS = (parity.stage(shard=2), parity.stage(tensor=2), parity.stage(pipeline=2), parity.stage(context=2))


def test_every_layout_counts_the_pairs_of_packed_documents_alike() -> None:
    """Samples of 32 hold documents of 9 and 23 tokens: half their squares are 305 pairs."""
    assert ranks.run(2, pairs_of, LAYOUTS) == [[305 / 32] * len(LAYOUTS)] * 2
    documents = flops.of_documents_causal(parity.SIZES, [9, 23])
    assert flops.per_token(parity.SIZES, pairs=305 / 32) * 32 == documents
    assert documents < 32 * flops.per_token_causal(parity.SIZES, 32)


def test_mfu_is_said_in_both_conventions() -> None:
    ((causal, full),) = ranks.run(1, utilisations)
    model = parity.SIZES
    assert causal == flops.per_token(model, pairs=305 / 32)
    assert full == flops.per_token_full(model, parity.SEQUENCE)


def pairs_of(_rank: int, _world: int, stages: tuple[Stage, ...]) -> list[float]:
    found = []
    for stage in stages:
        run = parity.trainer(stage)
        run.step(0)
        assert run.pairs is not None
        found.append(float(run.pairs))
    return found


def utilisations(_rank: int, _world: int) -> tuple[float | None, float | None]:
    """Return both at a token a second on a device of one FLOP/s."""
    run = parity.trainer(parity.stage())
    run.step(0)
    run.peak = 1.0
    return run.utilisation(1.0)


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
