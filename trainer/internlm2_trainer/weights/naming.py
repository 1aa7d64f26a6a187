"""Which rows of our tensors the tensors of a released folder hold: names and order, no bytes.

The format `internlm2` is that of the released InternLM2 models, which have our tensors as they are. `llama`
splits the interleaved wqkv into its queries, keys and values (InternLM2 report, section 2.2).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from internlm2_spec.architecture import Architecture
from internlm2_spec.config import Refused

Format: TypeAlias = Literal["internlm2", "llama"]

# Before the names of weights in a checkpoint, beside `optim.`.
PREFIX: Final = "model."

LLAMA_BLOCK: Final = {
    "input_layernorm": "attention_norm",
    "self_attn.o_proj": "attention.wo",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.up_proj": "feed_forward.w3",
    "mlp.down_proj": "feed_forward.w2",
}
LLAMA_OUTSIDE: Final = {
    "model.embed_tokens.weight": "model.tok_embeddings.weight",
    "model.norm.weight": "model.norm.weight",
    "lm_head.weight": "output.weight",
}


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows [start, start + count) of one of our tensors, under its name in a checkpoint."""

    tensor: str
    start: int
    count: int


@dataclass(frozen=True, slots=True)
class Foreign:
    """One tensor of a format: its name and shape there, and the rows of ours that it is made of, in order."""

    name: str
    shape: tuple[int, ...]
    rows: tuple[Rows, ...]


def tensors(architecture: Architecture, format: Format) -> tuple[Foreign, ...]:
    """Return every tensor of a model in a format, in the order of computation.

    Raises:
        Refused: the format has no place for the model's reward head.
    """
    ours = own_shapes(architecture)
    if format == "internlm2":
        return tuple(_whole(name, name, shape) for name, shape in ours.items())
    if architecture.reward_token is not None:
        wrong = "llama has no place for the reward head v_head"
        raise Refused("--format", wrong=wrong, right="use internlm2")
    return tuple(_llama(architecture, ours))


def own_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Return the shape of each parameter, by its name in the model, in the order of computation."""
    sizes = architecture.model
    head = sizes.hidden // sizes.heads
    block = {
        "attention_norm": (sizes.hidden,),
        "attention.wqkv": ((sizes.heads + 2 * sizes.kv_heads) * head, sizes.hidden),
        "attention.wo": (sizes.hidden, sizes.heads * head),
        "ffn_norm": (sizes.hidden,),
        "feed_forward.w1": (sizes.ffn, sizes.hidden),
        "feed_forward.w3": (sizes.ffn, sizes.hidden),
        "feed_forward.w2": (sizes.hidden, sizes.ffn),
    }
    last = ("output.weight", sizes.vocab) if architecture.reward_token is None else ("v_head.weight", 1)
    return {
        "model.tok_embeddings.weight": (sizes.vocab, sizes.hidden),
        **{
            f"model.layers.{layer}.{name}.weight": shape
            for layer in range(sizes.layers)
            for name, shape in block.items()
        },
        "model.norm.weight": (sizes.hidden,),
        last[0]: (last[1], sizes.hidden),
    }


def _llama(architecture: Architecture, ours: dict[str, tuple[int, ...]]) -> Iterator[Foreign]:
    outside = [_whole(name, own, ours[own]) for name, own in LLAMA_OUTSIDE.items()]
    yield outside[0]
    for layer in range(architecture.model.layers):
        prefix = f"model.layers.{layer}."
        yield from _split_wqkv(architecture, prefix)
        for name, own in LLAMA_BLOCK.items():
            yield _whole(f"{prefix}{name}.weight", f"{prefix}{own}.weight", ours[f"{prefix}{own}.weight"])
    yield from outside[1:]


def _split_wqkv(architecture: Architecture, prefix: str) -> Iterator[Foreign]:
    """Take wqkv's rows apart: per KV head the queries that share it, then one key, then one value."""
    sizes = architecture.model
    head = sizes.hidden // sizes.heads
    shared = sizes.heads // sizes.kv_heads
    places = (("q_proj", 0, shared), ("k_proj", shared, 1), ("v_proj", shared + 1, 1))
    for name, place, count in places:
        rows = tuple(
            Rows(f"{PREFIX}{prefix}attention.wqkv.weight", (group * (shared + 2) + place) * head, count * head)
            for group in range(sizes.kv_heads)
        )
        shape = (sizes.kv_heads * count * head, sizes.hidden)
        yield Foreign(f"{prefix}self_attn.{name}.weight", shape, rows)


def _whole(name: str, own: str, shape: tuple[int, ...]) -> Foreign:
    return Foreign(name, shape, (Rows(f"{PREFIX}{own}", 0, shape[0]),))
