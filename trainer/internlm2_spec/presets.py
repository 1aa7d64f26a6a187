"""Released model sizes by name (InternLM2 report, table 3; parameter counts with untied embeddings)."""

from typing import Final

from internlm2_spec.config import Model
from internlm2_spec.parameters import block, embedding, head

PRESETS: Final = {
    # Not released: small enough to train on two CPU cores, same shape of computation.
    "internlm2-tiny": Model(layers=4, hidden=128, heads=8, kv_heads=4, ffn=448, vocab=2048),
    "internlm2-1.8b": Model(layers=24, hidden=2048, heads=16, kv_heads=8, ffn=8192, vocab=92544),
    "internlm2-7b": Model(layers=32, hidden=4096, heads=32, kv_heads=8, ffn=14336, vocab=92544),
    "internlm2-20b": Model(layers=48, hidden=6144, heads=48, kv_heads=8, ffn=16384, vocab=92544),
}


def parameters(model: Model) -> int:
    """Return how many parameters a model has, embedding and head included."""
    layer = sum(parameter.size for parameter in block(model))
    return model.layers * layer + sum(parameter.size for parameter in (*embedding(model), *head(model)))
