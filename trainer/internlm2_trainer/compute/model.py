"""InternLM2 with the names and shapes of its Hugging Face checkpoints.

Pre-norm decoder, grouped-query attention with one interleaved wqkv, SwiGLU w2(silu(w1 x) * w3 x), no
biases, RMSNorm with eps 1e-5, rotate-half RoPE, untied head (InternLM2 report, section 2.2). Each rank
computes with its own share of every matrix; `tensor` says how shares meet. A stage of a pipeline is
the same model with absent parts and the same names.
"""

import math
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from internlm2_spec import config
from internlm2_spec.layout import recomputed
from internlm2_spec.pipeline import Part
from internlm2_trainer.compute import attention
from internlm2_trainer.compute.attention import Attend
from internlm2_trainer.compute.loss import head_loss
from internlm2_trainer.compute.spans import Plan
from internlm2_trainer.compute.tensor import TensorGroup, embed, local

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
        self.attend: Callable[[Tensor, Tensor, Tensor, Plan], Tensor] = attend
        self.head_size = sizes.hidden // sizes.heads
        self.q_per_kv = sizes.heads // sizes.kv_heads // tp.kv_copies.size
        self.wqkv = Weight((sizes.heads + 2 * sizes.kv_heads) * self.head_size, sizes.hidden)
        self.wo = Weight(sizes.hidden, sizes.heads * self.head_size)

    def forward(self, x: Tensor, rope: Rotary, plan: Plan) -> Tensor:
        """[B, S/tp, H] normalised -> [B, S/tp, H]."""
        rows = self.tp.own_groups(local(self.wqkv.weight), self.head_size)
        qkv = functional.linear(self.tp.gather_sequence(x), rows)
        qkv = qkv.view(*qkv.shape[:2], -1, self.q_per_kv + 2, self.head_size)
        # One split, so that the gradient is put together once.
        q, k, v = qkv.split((self.q_per_kv, 1, 1), dim=3)
        q, k = (attention.rotate(heads, *rope).flatten(2, 3) for heads in (q, k))
        out = self.attend(q, k, v.flatten(2, 3), plan)
        return self.tp.scatter_sequence(functional.linear(out, local(self.wo.weight)))


class FeedForward(nn.Module):
    def __init__(self, sizes: config.Model, tp: TensorGroup, recompute: config.Recompute) -> None:
        super().__init__()
        self.tp = tp
        self.selective = recompute == "Selective"
        self.w1 = Weight(sizes.ffn, sizes.hidden)
        self.w3 = Weight(sizes.ffn, sizes.hidden)
        self.w2 = Weight(sizes.hidden, sizes.ffn)

    def forward(self, x: Tensor) -> Tensor:
        """[B, S/tp, H] normalised -> [B, S/tp, H]."""
        x = self.tp.gather_sequence(x)
        gate, up = functional.linear(x, local(self.w1.weight)), functional.linear(x, local(self.w3.weight))
        # Of what a layer saves, silu(gate) and its product with up are the widest and the cheapest to have again:
        # a third of the bytes for no matrix product and no message, since recomputing stops at w2's input.
        partial = _recompute(self._down, gate, up) if self.selective else self._down(gate, up)
        return self.tp.scatter_sequence(partial)

    def _down(self, gate: Tensor, up: Tensor) -> Tensor:
        return functional.linear(functional.silu(gate) * up, local(self.w2.weight))


class Block(nn.Module):
    def __init__(self, sizes: config.Model, tp: TensorGroup, attend: Attend, recompute: config.Recompute) -> None:
        super().__init__()
        self.tp = tp
        self.recompute = recompute
        self.attention_norm = Weight(sizes.hidden)
        self.attention = Attention(sizes, tp, attend)
        self.ffn_norm = Weight(sizes.hidden)
        self.feed_forward = FeedForward(sizes, tp, recompute)
        # What is compiled: FSDP's hooks are around the module and stay out of the graph.
        self.compute: Callable[[Tensor, Rotary, Plan], Tensor] = self._compute

    def forward(self, x: Tensor, rope: Rotary, plan: Plan) -> Tensor:
        if self.recompute == "Full":
            # Inside the FSDP unit, so that recomputing does not run FSDP's forward hooks a second time.
            return _recompute(self.compute, x, rope, plan)
        return self.compute(x, rope, plan)

    def _compute(self, x: Tensor, rope: Rotary, plan: Plan) -> Tensor:
        x = x + self.attention(_norm(x, self.attention_norm, self.tp), rope, plan)
        out: Tensor = x + self.feed_forward(_norm(x, self.ffn_norm, self.tp))
        return out


class Decoder(nn.Module):
    """Parameters of everything below the head, under the checkpoint's prefix `model.`."""

    def __init__(
        self, sizes: config.Model, tp: TensorGroup, attend: Attend, part: Part, again: dict[int, config.Recompute]
    ) -> None:
        super().__init__()
        self.tok_embeddings = Weight(sizes.vocab, sizes.hidden) if part.first else None
        blocks = {str(layer): Block(sizes, tp, attend, again.get(layer, "None")) for layer in part.layers}
        self.layers = nn.ModuleDict(blocks)  # by the layer's number in the whole model
        self.norm = Weight(sizes.hidden) if part.last else None


class InternLM2(nn.Module):
    """The whole model, or the part of it that is one stage of a pipeline."""

    def __init__(self, stage: config.Stage, tp: TensorGroup, attend: Attend, part: Part) -> None:
        super().__init__()
        sizes, parallel = stage.model, stage.parallel
        self.head_size = sizes.hidden // sizes.heads
        self.tp = tp
        self.attend = attend
        self.rope_base = stage.rope_base
        self.dynamic_ntk: attention.DynamicNTK | None = None  # for reading beyond the trained length
        again = dict.fromkeys(recomputed(sizes.layers, parallel.recompute_fraction), parallel.recompute)
        self.model = Decoder(sizes, tp, attend, part, again)
        self.output = Weight(sizes.vocab, sizes.hidden) if part.last else None

    def forward(self, x: Tensor, positions: Tensor, documents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the loss summed over `labels` [B, S], or without labels the logits [B, S, V/tp].

        x: tokens [B, S] int64, S being the part of the sequence that this context rank has, or what the
        stage before returned: a stage without head returns [B, S/tp, H]. positions: [B, S] int64.
        documents: [B, whole sequence] int64. Positions restart in each document, and attention stays inside it.
        """
        rope = self._rotary(positions)
        plan = self.attend.plan(documents)
        if self.model.tok_embeddings is not None:
            x = embed(x, local(self.model.tok_embeddings.weight), self.tp)
        for layer in self.model.layers.values():
            x = layer(x, rope, plan)
        if self.model.norm is None or self.output is None:
            return x
        x = self.tp.gather_sequence(_norm(x, self.model.norm, self.tp))
        head = local(self.output.weight)
        if labels is None:
            return functional.linear(x, head)
        return head_loss(x.flatten(0, 1), head, labels.flatten(), self.tp)

    def _rotary(self, positions: Tensor) -> Rotary:
        base = self.rope_base
        if self.dynamic_ntk is not None:
            base = attention.stretched(base, self.head_size, self.dynamic_ntk, positions)
        return attention.rotary(positions, self.head_size, base)


def _recompute(compute: Callable[..., Tensor], *inputs: object) -> Tensor:
    """Call `compute` and save its inputs alone; what its backward needs is computed again."""
    out: Tensor = checkpoint(compute, *inputs, use_reentrant=False, preserve_rng_state=False)
    return out


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
