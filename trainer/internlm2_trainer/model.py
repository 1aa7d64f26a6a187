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
from internlm2_trainer.attention import Attend
from internlm2_trainer.loss import head_loss
from internlm2_trainer.spans import Plan
from internlm2_trainer.tensor import TensorGroup, embed, local

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
    rows over ranks gives each rank whole KV groups, or equal parts of one.
    """

    def __init__(self, sizes: config.Model, tp: TensorGroup, attend: Attend) -> None:
        super().__init__()
        self.tp = tp
        self.attend = attend
        self.head_size = sizes.hidden // sizes.heads
        self.q_per_kv = sizes.heads // sizes.kv_heads // tp.kv_copies.size
        self.wqkv = Weight((sizes.heads + 2 * sizes.kv_heads) * self.head_size, sizes.hidden)
        self.wo = Weight(sizes.hidden, sizes.heads * self.head_size)

    def forward(self, x: Tensor, rope: Rotary, plan: Plan) -> Tensor:
        """[B, S/tp, H] normalised -> [B, S/tp, H]."""
        rows = self.tp.own_groups(local(self.wqkv.weight), self.head_size)
        qkv = functional.linear(self.tp.gather_sequence(x), rows)
        qkv = qkv.view(*qkv.shape[:2], -1, self.q_per_kv + 2, self.head_size)
        q = attention.rotate(qkv[:, :, :, :-2].flatten(2, 3), *rope)
        k = attention.rotate(qkv[:, :, :, -2], *rope)
        out = self.attend(q, k, qkv[:, :, :, -1], plan)
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
    def __init__(self, sizes: config.Model, tp: TensorGroup, attend: Attend, *, recompute: bool) -> None:
        super().__init__()
        self.tp = tp
        self.recompute = recompute
        self.attention_norm = Weight(sizes.hidden)
        self.attention = Attention(sizes, tp, attend)
        self.ffn_norm = Weight(sizes.hidden)
        self.feed_forward = FeedForward(sizes, tp)

    def forward(self, x: Tensor, rope: Rotary, plan: Plan) -> Tensor:
        if not self.recompute:
            return self._compute(x, rope, plan)
        # Inside the FSDP unit, so that recomputing does not run FSDP's forward hooks a second time.
        out: Tensor = checkpoint(self._compute, x, rope, plan, use_reentrant=False, preserve_rng_state=False)
        return out

    def _compute(self, x: Tensor, rope: Rotary, plan: Plan) -> Tensor:
        x = x + self.attention(_norm(x, self.attention_norm, self.tp), rope, plan)
        out: Tensor = x + self.feed_forward(_norm(x, self.ffn_norm, self.tp))
        return out


class Decoder(nn.Module):
    """Parameters of everything below the head, under the checkpoint's prefix `model.`."""

    def __init__(self, sizes: config.Model, tp: TensorGroup, attend: Attend, *, recompute: bool) -> None:
        super().__init__()
        self.tok_embeddings = Weight(sizes.vocab, sizes.hidden)
        self.layers = nn.ModuleList(Block(sizes, tp, attend, recompute=recompute) for _ in range(sizes.layers))
        self.norm = Weight(sizes.hidden)


class InternLM2(nn.Module):
    def __init__(
        self,
        sizes: config.Model,
        tp: TensorGroup,
        attend: Attend,
        *,
        rope_base: float = 50000.0,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.sizes = sizes
        self.tp = tp
        self.attend = attend
        self.rope_base = rope_base
        self.model = Decoder(sizes, tp, attend, recompute=recompute)
        self.output = Weight(sizes.vocab, sizes.hidden)

    def forward(self, tokens: Tensor, positions: Tensor, documents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the loss summed over `labels` [B, S], or without labels the logits [B, S, V/tp].

        tokens, positions: [B, S] int64, S being the part of the sequence that this context rank has.
        documents: [B, whole sequence] int64. Positions restart in each document, and attention stays inside it.
        """
        rope = attention.rotary(positions, self.sizes.hidden // self.sizes.heads, self.rope_base)
        plan = self.attend.plan(documents)
        x = embed(tokens, local(self.model.tok_embeddings.weight), self.tp)
        for layer in self.model.layers:
            x = layer(x, rope, plan)
        x = self.tp.gather_sequence(_norm(x, self.model.norm, self.tp))
        head = local(self.output.weight)
        if labels is None:
            return functional.linear(x, head)
        return head_loss(x.flatten(0, 1), head, labels.flatten(), self.tp)


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
