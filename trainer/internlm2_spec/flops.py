"""Model FLOPs per token, for MFU: causal (what the mask leaves to compute) and full (what most reports count).

Backward costs twice the forward, hence 6 = 3 x 2 per weight and token. Recomputation is never counted:
MFU is about useful work.
"""

from internlm2_spec.config import Model
from internlm2_spec.presets import parameters


def per_token_causal(model: Model, sequence_length: int) -> float:
    """Return FLOPs per token when each token attends to the half of the sequence before it."""
    return 6.0 * _matmul_weights(model) + 6.0 * model.layers * model.hidden * sequence_length


def per_token_full(model: Model, sequence_length: int) -> float:
    """Return FLOPs per token when each token is counted as attending to the whole sequence."""
    return 6.0 * _matmul_weights(model) + 12.0 * model.layers * model.hidden * sequence_length


def _matmul_weights(model: Model) -> int:
    """Count the weights that take part in matrix products: the input embedding is only looked up."""
    return parameters(model) - model.vocab * model.hidden
