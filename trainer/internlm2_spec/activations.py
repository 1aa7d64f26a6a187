"""Bytes that autograd saves for the backward pass, operator by operator, and what its busiest moments add.

T tokens of a micro-batch that a rank attends for, t tensor ranks: between blocks a rank has T/t rows, inside
them all T with its share of heads and of the feed-forward. Counted as the operators of `model.py` save them;
what two operators save is there once.
"""

from dataclasses import dataclass
from typing import Final

from internlm2_spec.config import Model, Parallel
from internlm2_spec.context import kv_copies, kv_heads_per_rank

FLOAT32: Final = 4
INT64: Final = 8

# The head computes the logits of so many tokens at a time: 190 MB in bf16 at InternLM2's vocabulary, and
# enough rows for a GPU's matrix product.
LOSS_CHUNK_TOKENS: Final = 1024


@dataclass(frozen=True, slots=True)
class Precision:
    """How a device computes.

    `compute` is the bytes of a number of gathered weights, activations and unreduced gradients. Master weights,
    moments and reduced gradients are always fp32. Without a fused norm, autograd saves the normalised values too.
    """

    compute: int
    fused_norm: bool


CPU: Final = Precision(compute=4, fused_norm=False)
CUDA: Final = Precision(compute=2, fused_norm=True)


@dataclass(frozen=True, slots=True)
class Activations:
    """Sizes of one micro-batch on one rank, from which each part follows."""

    model: Model
    tokens: int
    parallel: Parallel
    precision: Precision

    @property
    def tensor(self) -> int:
        return self.parallel.tensor

    @property
    def stream(self) -> int:
        """Bytes of the residual stream between blocks: this rank's rows."""
        return self.tokens // self.tensor * self.model.hidden * self.precision.compute

    @property
    def wide(self) -> int:
        """Bytes of this rank's share of the feed-forward's inner values."""
        return self.tokens * self.model.ffn // self.tensor * self.precision.compute

    @property
    def gathered(self) -> int:
        """Bytes of the residual stream as a matrix takes it: all rows."""
        return self.tokens * self.model.hidden * self.precision.compute

    @property
    def layer(self) -> int:
        """All that one layer saves: two norms and what the matrices take of them, attention, SwiGLU."""
        return 2 * self._norm + 2 * self.gathered + self._attention + 4 * self.wide

    def saved(self, recompute: str) -> int:
        """Return what one layer saves under a recompute mode."""
        return {"None": self.layer, "Selective": self.layer - 2 * self.wide, "Full": self.stream}[recompute]

    @property
    def rotary(self) -> int:
        """Cosines and sines, shared by all layers."""
        return 2 * self.tokens * self.model.hidden // self.model.heads * FLOAT32

    @property
    def lookup(self) -> int:
        """Token numbers, and where they are not this rank's rows."""
        return self.tokens * (INT64 + (self.tensor > 1))

    @property
    def head(self) -> int:
        """The last norm, and the gradients that the loss leaves: of the head's input, and of its matrix in fp32."""
        return self._norm + self.gathered + self._matrix // self.precision.compute * FLOAT32

    @property
    def loss(self) -> int:
        """What the loss holds beside what is saved: the head's input, a chunk's logits, its gradient of the matrix."""
        logits = min(self.tokens, LOSS_CHUNK_TOKENS) * self.model.vocab // self.tensor
        # In fp32 they become scores and gradients in place; in bf16 each is a tensor of its own.
        bytes_each = FLOAT32 if self.precision.compute == FLOAT32 else FLOAT32 + 2 * self.precision.compute
        return self.gathered + logits * bytes_each + self._matrix

    def backward(self, recompute: str) -> int:
        """What the backward of one layer holds beside what is saved: it is busiest in the feed-forward."""
        return self.layer - self.saved(recompute) + 2 * self.wide + 2 * self.stream

    @property
    def _norm(self) -> int:
        """Input, reciprocal deviation and, without a fused kernel, the normalised values."""
        rows = self.tokens // self.tensor
        return self.stream * (1 if self.precision.fused_norm else 2) + rows * FLOAT32

    @property
    def _attention(self) -> int:
        """Queries, keys, values, output and its fp32 log-sum-exp, by this rank's heads."""
        head = self.model.hidden // self.model.heads
        queries = self.tokens * self.model.heads // self.tensor
        keys = self.tokens * kv_heads_per_rank(self.model, self.parallel)
        # An exchange of heads leaves the output once by heads and once by places.
        outputs = 1 + (self.parallel.ulysses > 1)
        copies = kv_copies(self.model, self.parallel)
        rows = (self.model.heads // self.model.kv_heads // copies + 2) * head if copies > 1 else 0
        values = ((1 + outputs) * queries + 2 * keys) * head + rows * self.model.hidden
        return values * self.precision.compute + queries * FLOAT32

    @property
    def _matrix(self) -> int:
        """Bytes of this rank's share of the head."""
        return self.model.vocab * self.model.hidden // self.tensor * self.precision.compute
