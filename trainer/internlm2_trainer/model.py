"""InternLM2 with the names and shapes of its Hugging Face checkpoints.

Pre-norm decoder, grouped-query attention with one interleaved wqkv, SwiGLU w2(silu(w1 x) * w3 x), no
biases, RMSNorm with eps 1e-5, rotate-half RoPE, untied head (InternLM2 report, section 2.2). Each rank
computes with its own share of every matrix; `tensor` says how shares meet.
"""

import math
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from internlm2_spec import config
from internlm2_trainer import attention
from internlm2_trainer.tensor import TensorGroup, cross_entropy_sum, embed, local

NORM_EPS: Final = 1e-5
INIT_STD: Final = 0.02

Rotary = tuple[Tensor, Tensor]


class Weight(nn.Module):
    """A matrix or vector named `<module>.weight`; the module that owns it does the computing."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(*shape))


class Attention(nn.Module):
    """wqkv's rows are (kv_head, q_per_kv queries then key then value, head_size): a plain split of the
    rows over ranks gives each rank whole KV groups.
    """

    def __init__(self, sizes: config.Model, tp: TensorGroup) -> None:
        super().__init__()
        self.tp = tp
        self.head_size = sizes.hidden // sizes.heads
        self.q_per_kv = sizes.heads // sizes.kv_heads
        self.wqkv = Weight((sizes.heads + 2 * sizes.kv_heads) * self.head_size, sizes.hidden)
        self.wo = Weight(sizes.hidden, sizes.heads * self.head_size)

    def forward(self, x: Tensor, rope: Rotary, mask: Tensor | None) -> Tensor:
        """[B, S/tp, H] normalised -> [B, S/tp, H]."""
        qkv = functional.linear(self.tp.gather_sequence(x), local(self.wqkv.weight))
        qkv = qkv.view(*qkv.shape[:2], -1, self.q_per_kv + 2, self.head_size)
        q = attention.rotate(qkv[:, :, :, :-2].flatten(2, 3), *rope)
        k = attention.rotate(qkv[:, :, :, -2], *rope)
        out = attention.attend(q, k, qkv[:, :, :, -1], mask)
        return self.tp.scatter_sequence(functional.linear(out, local(self.wo.weight)))


class FeedForward(nn.Module):
    def __init__(self, sizes: config.Model, tp: TensorGroup) -> None:
        super().__init__()
        self.tp = tp
        self.w1 = Weight(sizes.ffn, sizes.hidden)
        self.w3 = Weight(sizes.ffn, sizes.hidden)
        self.w2 = Weight(sizes.hidden, sizes.ffn)

    def forward(self, x: Tensor) -> Tensor:
        """[B, S/tp, H] normalised -> [B, S/tp, H]."""
        x = self.tp.gather_sequence(x)
        gate = functional.silu(functional.linear(x, local(self.w1.weight)))
        hidden = gate * functional.linear(x, local(self.w3.weight))
        return self.tp.scatter_sequence(functional.linear(hidden, local(self.w2.weight)))


class Block(nn.Module):
    def __init__(self, sizes: config.Model, tp: TensorGroup, *, recompute: bool) -> None:
        super().__init__()
        self.tp = tp
        self.recompute = recompute
        self.attention_norm = Weight(sizes.hidden)
        self.attention = Attention(sizes, tp)
        self.ffn_norm = Weight(sizes.hidden)
        self.feed_forward = FeedForward(sizes, tp)

    def forward(self, x: Tensor, rope: Rotary, mask: Tensor | None) -> Tensor:
        if not self.recompute:
            return self._compute(x, rope, mask)
        # Inside the FSDP unit, so that recomputing does not run FSDP's forward hooks a second time.
        out: Tensor = checkpoint(self._compute, x, rope, mask, use_reentrant=False, preserve_rng_state=False)
        return out

    def _compute(self, x: Tensor, rope: Rotary, mask: Tensor | None) -> Tensor:
        x = x + self.attention(_norm(x, self.attention_norm, self.tp), rope, mask)
        out: Tensor = x + self.feed_forward(_norm(x, self.ffn_norm, self.tp))
        return out


class Decoder(nn.Module):
    """Parameters of everything below the head, under the checkpoint's prefix `model.`."""

    def __init__(self, sizes: config.Model, tp: TensorGroup, *, recompute: bool) -> None:
        super().__init__()
        self.tok_embeddings = Weight(sizes.vocab, sizes.hidden)
        self.layers = nn.ModuleList(Block(sizes, tp, recompute=recompute) for _ in range(sizes.layers))
        self.norm = Weight(sizes.hidden)


class InternLM2(nn.Module):
    def __init__(
        self, sizes: config.Model, tp: TensorGroup, *, rope_base: float = 50000.0, recompute: bool = False
    ) -> None:
        super().__init__()
        self.sizes = sizes
        self.tp = tp
        self.rope_base = rope_base
        self.model = Decoder(sizes, tp, recompute=recompute)
        self.output = Weight(sizes.vocab, sizes.hidden)

    def forward(self, tokens: Tensor, positions: Tensor, documents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the loss summed over `labels` [B, S], or without labels the logits [B, S, V/tp].

        tokens, positions, documents: [B, S] int64. Positions restart in each document, and attention
        stays inside it.
        """
        rope = attention.rotary(positions, self.sizes.hidden // self.sizes.heads, self.rope_base)
        mask = attention.document_mask(documents)
        x = embed(tokens, local(self.model.tok_embeddings.weight), self.tp)
        for layer in self.model.layers:
            x = layer(x, rope, mask)
        x = self.tp.gather_sequence(_norm(x, self.model.norm, self.tp))
        logits = functional.linear(x, local(self.output.weight))
        return logits if labels is None else cross_entropy_sum(logits.flatten(0, 1), labels.flatten(), self.tp)


def _norm(x: Tensor, scale: Weight, tp: TensorGroup) -> Tensor:
    weight = tp.replicated(local(scale.weight))
    return functional.rms_norm(x, (x.shape[-1],), weight, NORM_EPS)


def init_std(name: str) -> float | None:
    """Return the standard deviation that a parameter starts with; None for norm scales, which start as 1.

    The two projections that write into the residual stream are scaled down by the depth at which they
    stand, sqrt(2 (layer + 1)), so that the stream's variance does not grow with depth.
    """
    if "norm" in name:
        return None
    if name.endswith(("attention.wo.weight", "feed_forward.w2.weight")):
        layer = int(name.split(".layers.")[1].split(".")[0])
        return INIT_STD / math.sqrt(2.0 * (layer + 1))
    return INIT_STD
