"""Pipeline stages: how many there are, which rank holds which, and which layers each computes."""

from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from internlm2_spec.config import Model, Parallel, Refused, refuse

# They split the backward pass into gradients of inputs and, later, of weights.
ZERO_BUBBLE: Final = frozenset({"InterleavedZeroBubble", "ZBVZeroBubble"})

# Stages of one rank. More of them mean shorter bubbles and more messages; V schedules need exactly two.
_STAGES_PER_RANK: Final = {"Interleaved1F1B": 2, "InterleavedZeroBubble": 2, "ZBVZeroBubble": 2}


@dataclass(frozen=True, slots=True)
class Part:
    """A run of the model's layers, with the embedding before the first and the head after the last."""

    layers: range
    first: bool
    last: bool


def stage_count(parallel: Parallel) -> int:
    """Return the stages that the model is cut into; 1 without a pipeline."""
    return parallel.pipeline * _STAGES_PER_RANK.get(parallel.schedule, 1) if parallel.pipeline > 1 else 1


def stages_of(parallel: Parallel, rank: int) -> tuple[int, ...]:
    """Return the stages that pipeline rank `rank` holds, ascending.

    Loops go round the ranks again; a V comes back the way it went, so that rank 0 has the first and the last.
    """
    stages, ranks = stage_count(parallel), parallel.pipeline
    if parallel.schedule == "ZBVZeroBubble" and ranks > 1:
        return (rank, stages - 1 - rank)
    return tuple(range(rank, stages, ranks))


def parts(model: Model, stages: int, sequence_length: int) -> tuple[Part, ...]:
    """Cut the model into stages so that the slowest is as fast as can be, each with one layer at least.

    Every layer costs the same, so giving the next layer to whoever is cheapest with it is optimal. Of
    equals the later stage takes it: earlier ones hold the activations of more micro-batches.
    """
    embedding, layer, head = _costs(model, sequence_length)
    fixed, layers = [0] * stages, [1] * stages
    fixed[0] += embedding
    fixed[-1] += head
    for _ in range(model.layers - stages):
        cheapest = min(reversed(range(stages)), key=lambda stage: fixed[stage] + layers[stage] * layer)
        layers[cheapest] += 1
    ends = tuple(accumulate(layers))
    return tuple(
        Part(range(start, end), first=start == 0, last=end == model.layers)
        for start, end in zip((0, *ends), ends, strict=False)
    )


def _costs(model: Model, sequence_length: int) -> tuple[int, int, int]:
    """Return what embedding, layer and head cost, in multiply-adds a token.

    Half of a long sequence's attention counts, the causal half. The embedding only adds rows up.
    """
    head_size = model.hidden // model.heads
    projections = model.hidden * head_size * (2 * model.heads + 2 * model.kv_heads)
    layer = projections + model.hidden * sequence_length + 3 * model.hidden * model.ffn
    return model.hidden, layer, model.hidden * model.vocab


def check_schedule(parallel: Parallel, micro_steps: int) -> None:
    """Refuse a schedule that the micro-batches of one step do not fill.

    Raises:
        Refused: fewer micro-batches than pipeline ranks, or a last round of another length than the others.
    """
    ranks = parallel.pipeline
    if ranks == 1:
        return
    legal = f"use a globalBatchTokens or a microBatch that gives a multiple of {ranks} micro-batches"
    if micro_steps < ranks:
        wrong = f"{micro_steps} micro-batches a step leave ranks of pipeline {ranks} idle"
        raise Refused("parallel.pipeline", wrong=wrong, right=f"{legal}, or pipeline {micro_steps} or less")
    if parallel.schedule.startswith("Interleaved") and micro_steps % (micro_steps // ranks):
        wrong = f"{parallel.schedule} cannot go round pipeline {ranks} with {micro_steps} micro-batches a step"
        raise Refused("parallel.schedule", wrong=wrong, right=f"{legal}, or 1F1B")


def check_pipeline(model: Model, parallel: Parallel) -> None:
    """Refuse a schedule that the model or the other settings rule out.

    Raises:
        Refused: fewer layers than stages, or a combination that trains wrongly or not at all.
    """
    if parallel.pipeline == 1:
        return
    stages, schedule = stage_count(parallel), parallel.schedule
    splits_backward = schedule in ZERO_BUBBLE
    refuse(
        ("parallel.pipeline", stages <= model.layers, f"{parallel.pipeline} with {schedule} makes {stages} stages,"
         f" and the model has {model.layers} layers",
         f"use pipeline {max(1, model.layers * parallel.pipeline // stages)} or less"),
        # The schedules add up whole gradients and reduce them after the last micro-batch: that is stage 1.
        ("parallel.zero.stage", parallel.zero.stage != 2, "2 reduces gradients after each micro-batch, and pipeline"
         f" schedules (pipeline {parallel.pipeline}) only after the last", "use 1 or 3"),
        # Silently wrong gradients: weights that FSDP has dropped are still in the half of the backward to come.
        ("parallel.zero.stage", not (splits_backward and parallel.zero.stage == 3),
         f"3 drops weights that {schedule} still needs", "use 1, or schedule 1F1B or Interleaved1F1B"),
        ("parallel.compile", not (splits_backward and parallel.compile),
         f"true makes graphs whose backward {schedule} cannot split",
         "use false, or schedule 1F1B or Interleaved1F1B"),
    )  # fmt: skip
