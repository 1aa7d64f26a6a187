"""Model FLOPs for MFU: causal (what the mask leaves to compute) and full (what most reports count).

A weight costs 2 FLOPs a token forward and 4 backward; all count but the input embedding, which is only
looked up. Attention costs 4 x hidden FLOPs for each query
and key forward (scores, then values) and twice that backward, whatever the number of KV heads. Causal
counts half of each document's square, full the whole square of the sequence whatever documents it is
packed from. Recomputation is never counted: MFU is about useful work.
"""

from collections.abc import Iterable

from internlm2_spec.config import Model
from internlm2_spec.presets import parameters


def per_token_causal(model: Model, sequence_length: int) -> float:
    """Return FLOPs per token of samples of one document each."""
    return per_token(model, pairs=sequence_length / 2)


def per_token_full(model: Model, sequence_length: int) -> float:
    """Return FLOPs per token when each token is counted as attending to the whole sequence.

    Source: torchtitan's 6 (N - embedding) + 6 layers heads (2 head size) sequence.
    """
    return per_token(model, pairs=sequence_length)


def per_token(model: Model, *, pairs: float) -> float:
    """Return FLOPs per token when a token attends to `pairs` tokens on average."""
    return 6.0 * _weights(model) + 12.0 * model.layers * model.hidden * pairs


def of_documents_causal(model: Model, lengths: Iterable[int]) -> float:
    """Return FLOPs of packed documents of these lengths: attention is the sum of each document's own."""
    lengths = tuple(lengths)
    tokens, squares = sum(lengths), sum(length * length for length in lengths)
    return tokens * per_token(model, pairs=squares / 2 / tokens) if tokens else 0.0


def _weights(model: Model) -> int:
    return parameters(model) - model.vocab * model.hidden
