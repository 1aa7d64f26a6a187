"""Every parameter of a model: name, shape, how it is divided, and which of them travel together."""

import functools
import math
from dataclasses import dataclass

from internlm2_spec.config import Model


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter as the Hugging Face checkpoint names it. Tensor ranks split dimension `split`; None is replicated."""

    name: str
    shape: tuple[int, ...]
    split: int | None

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def rows(self, tensor: int) -> int:
        """Return the first dimension of one tensor rank's share, which FSDP cuts further."""
        return self.shape[0] // tensor if self.split == 0 else self.shape[0]

    def row_size(self, tensor: int) -> int:
        """Return the numbers in one row of one tensor rank's share."""
        return math.prod(self.shape[1:]) // (tensor if self.split == 1 else 1)


@dataclass(frozen=True, slots=True)
class Share:
    """How many numbers one rank has of a group of parameters that FSDP gathers together.

    `held` are its own. FSDP cuts rows like torch.chunk, ceil(rows / ranks) each, and pads every rank's
    part to that: `padded` is what storage and messages have, `gathered` the padded parts of all ranks.
    """

    held: int
    padded: int
    gathered: int

    def __add__(self, other: "Share") -> "Share":
        return Share(self.held + other.held, self.padded + other.padded, self.gathered + other.gathered)

    def __mul__(self, times: int) -> "Share":
        return Share(self.held * times, self.padded * times, self.gathered * times)


NOTHING = Share(0, 0, 0)


def embedding(model: Model) -> tuple[Parameter, ...]:
    return (Parameter("model.tok_embeddings.weight", (model.vocab, model.hidden), 0),)


def block(model: Model, layer: int = 0) -> tuple[Parameter, ...]:
    """Return the parameters of one layer: one FSDP group. All layers have the same shapes."""
    head, hidden, ffn = model.hidden // model.heads, model.hidden, model.ffn
    prefix = f"model.layers.{layer}"
    return (
        Parameter(f"{prefix}.attention_norm.weight", (hidden,), None),
        Parameter(f"{prefix}.attention.wqkv.weight", ((model.heads + 2 * model.kv_heads) * head, hidden), 0),
        Parameter(f"{prefix}.attention.wo.weight", (hidden, model.heads * head), 1),
        Parameter(f"{prefix}.ffn_norm.weight", (hidden,), None),
        Parameter(f"{prefix}.feed_forward.w1.weight", (ffn, hidden), 0),
        Parameter(f"{prefix}.feed_forward.w3.weight", (ffn, hidden), 0),
        Parameter(f"{prefix}.feed_forward.w2.weight", (hidden, ffn), 1),
    )


def head(model: Model) -> tuple[Parameter, ...]:
    """Return the last norm and the output matrix, which form the outermost FSDP group with the embedding."""
    return (
        Parameter("model.norm.weight", (model.hidden,), None),
        Parameter("output.weight", (model.vocab, model.hidden), 0),
    )


def share(parameters: tuple[Parameter, ...], *, tensor: int, shard: int, place: int = 0) -> Share:
    """Return what the rank at `place` of `shard` FSDP ranks has of `parameters`. Place 0 has the most."""
    total = NOTHING
    for parameter in parameters:
        rows, row = parameter.rows(tensor), parameter.row_size(tensor)
        most = -(-rows // shard)
        held = max(0, min(most, rows - place * most))
        total += Share(held * row, most * row, most * row * shard)
    return total


@functools.cache
def shares(model: Model, *, tensor: int, shard: int, place: int = 0) -> tuple[Share, Share, Share]:
    """Return a rank's share of the embedding, of one layer, and of the last norm with the head."""
    cut = {"tensor": tensor, "shard": shard, "place": place}
    return share(embedding(model), **cut), share(block(model), **cut), share(head(model), **cut)
