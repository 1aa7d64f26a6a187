"""Bytes that autograd saves for the backward pass, operator by operator, and what its busiest moments add.

T tokens of a micro-batch that a rank attends for, t tensor ranks: between blocks a rank has T/t rows, inside
them all T with its share of heads and of the feed-forward. Counted as the operators of `model.py` save them;
what two operators save is there once.
"""

from dataclasses import dataclass
from typing import Final

from internlm2_spec.config import Model

FLOAT32: Final = 4
INT64: Final = 8

# Tokens whose logits exist at a time: 190 MB in bf16 at InternLM2's vocabulary, and rows enough for a matrix product.
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
    tensor: int
    precision: Precision

    @property
    def stream(self) -> int:
        """Bytes of the residual stream between blocks: this rank's rows."""
        return self.tokens // self.tensor * self.model.hidden * self.precision.compute

    @property
    def wide(self) -> int:
        """Bytes of this rank's share of the feed-forward's inner values."""
        return self.tokens * self.model.ffn // self.tensor * self.precision.compute

    @property
    def layer(self) -> int:
        """All that one layer saves: two norms, two gathered inputs, q, k, v and output with its log-sum-exp, SwiGLU."""
        heads = self.tokens * self.model.heads // self.tensor
        kv_heads = self.tokens * max(1, self.model.kv_heads // self.tensor)
        head_size = self.model.hidden // self.model.heads
        attention = 2 * (heads + kv_heads) * head_size * self.precision.compute + heads * FLOAT32
        return 2 * self._norm + 2 * self._gathered + attention + 4 * self.wide

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
        """The last norm, and the gradients that the loss leaves: of the head's gathered input and of the head."""
        return self._norm + self._gathered + self._words * self.model.hidden * FLOAT32

    @property
    def loss(self) -> int:
        """What computing the loss and its gradients holds beside what is saved: input, logits, a part of the head's.

        Of one chunk of tokens; in bf16 the logits, their fp32 copy and their gradient.
        """
        copies = FLOAT32 if self.precision.compute == FLOAT32 else FLOAT32 + 2 * self.precision.compute
        logits = min(self.tokens, LOSS_CHUNK_TOKENS) * self._words * copies
        return self._gathered + logits + self._words * self.model.hidden * self.precision.compute

    def backward(self, recompute: str) -> int:
        """What the backward of one layer holds beside what is saved: it is busiest in the feed-forward."""
        return self.layer - self.saved(recompute) + 2 * self.wide + 2 * self.stream

    @property
    def _norm(self) -> int:
        """Input, reciprocal deviation and, without a fused kernel, the normalised values."""
        rows = self.tokens // self.tensor
        return self.stream * (1 if self.precision.fused_norm else 2) + rows * FLOAT32

    @property
    def _gathered(self) -> int:
        return self.tokens * self.model.hidden * self.precision.compute

    @property
    def _words(self) -> int:
        return self.model.vocab // self.tensor
