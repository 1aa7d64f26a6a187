"""Which splits of heads and sequence are legal: tensor and context parallelism share both."""

import math

from internlm2_spec.config import Model, Parallel, Refused


def kv_copies(model: Model, parallel: Parallel) -> int:
    """Return how many tensor ranks compute with one KV head: 1 until there are more ranks than KV heads."""
    return max(1, parallel.tensor // model.kv_heads)


def kv_heads_per_rank(model: Model, parallel: Parallel) -> int:
    """Return how many KV heads a tensor rank computes with."""
    return max(1, model.kv_heads // parallel.tensor)


def legal_tensor(model: Model) -> list[int]:
    """Return the tensor degrees that give each rank whole heads, ascending.

    Up to the KV heads these are their divisors; above, their multiples that leave each rank whole queries
    and an equal share of its KV group's rows of wqkv.
    """
    head, queries = model.hidden // model.heads, model.heads // model.kv_heads
    few = [degree for degree in range(1, model.kv_heads + 1) if model.kv_heads % degree == 0]
    copies = range(2, queries + 1)
    return few + [model.kv_heads * n for n in copies if queries % n == 0 and (queries + 2) * head % n == 0]


def sequence_unit(parallel: Parallel) -> int:
    """Return what the sequence is a multiple of: one place a rank, and two equal chunks for each rank of a ring."""
    ring = parallel.context // parallel.ulysses
    return math.lcm(parallel.context * parallel.tensor, 2 * ring if ring > 1 else 1)


def check_context(model: Model, parallel: Parallel, sequence_length: int) -> None:
    """Refuse tensor and context degrees that the heads or the sequence rule out.

    Raises:
        Refused: a rank would have parts of heads, or the sequence does not divide.
    """
    _check_heads(model, parallel)
    unit = sequence_unit(parallel)
    if sequence_length % unit:
        below, above = sequence_length // unit * unit, -(-sequence_length // unit) * unit
        raise Refused(
            "sequenceLength",
            wrong=f"{sequence_length} is not divisible by {unit}, for tensor {parallel.tensor}"
            f" x context {parallel.context} with ulysses {parallel.ulysses}",
            right=f"use a multiple of {unit}, such as {f'{below} or ' if below else ''}{above}",
        )


def _check_heads(model: Model, parallel: Parallel) -> None:
    tensor, context, ulysses = parallel.tensor, parallel.context, parallel.ulysses
    if tensor not in legal_tensor(model):
        raise Refused(
            "parallel.tensor",
            wrong=f"{tensor} does not divide kvHeads {model.kv_heads}, nor do heads {model.heads} divide by both",
            right=f"use {', '.join(map(str, legal_tensor(model)))}",
        )
    heads = kv_heads_per_rank(model, parallel)
    legal = [d for d in range(1, heads + 1) if heads % d == 0 and context % d == 0]
    right = f"use {' or '.join(map(str, legal))}, and the rest of context is a ring"
    if ulysses < 1 or context % ulysses:
        raise Refused("parallel.ulysses", wrong=f"{ulysses} does not divide context {context}", right=right)
    if heads % ulysses:
        wrong = f"{ulysses} does not divide the KV heads of a rank, {heads} of {model.kv_heads} at tensor {tensor}"
        raise Refused("parallel.ulysses", wrong=wrong, right=right)
