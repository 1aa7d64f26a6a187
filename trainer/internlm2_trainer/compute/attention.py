"""Causal attention inside documents: the kernels that compute it, one signature for all of them, and RoPE.

Tensors are [B, S, heads, d]. Each KV head serves heads / kv_heads consecutive query heads; kernels take
KV heads as they are, so nothing is repeated.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import torch
from torch import Tensor

from internlm2_trainer.compute import spans
from internlm2_trainer.compute.spans import Plan


class Attend(Protocol):
    """Attention of one kind. `plan` is called once a batch, the object itself in every layer."""

    def plan(self, documents: Tensor) -> Plan:
        """Plan for whole sequences: documents [B, S] int64, of which this rank may hold a part."""
        ...

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, plan: Plan) -> Tensor:
        """Return attention of q [B, S, heads, d] over k, v [B, S, kv_heads, d] as [B, S, heads * d]."""
        ...


@dataclass(frozen=True, slots=True)
class Kernel:
    """Dense attention, and its backward from saved results: what a ring needs and autograd does not give.

    forward(q, k, v, causal) returns the output and the log-sum-exp of the scores, [B, S, heads] fp32.
    backward(gradient, q, k, v, output, log_sum, causal) returns the gradients of q, k and v; given output
    and log-sum-exp over more keys than these, it returns what these keys contribute.
    """

    forward: Callable[[Tensor, Tensor, Tensor, bool], tuple[Tensor, Tensor]]
    backward: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, bool], tuple[Tensor, Tensor, Tensor]]


def _forward_cpu(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> tuple[Tensor, Tensor]:
    attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    out, log_sum = attend(*_by_heads(q, k, v), 0.0, causal)
    return out.transpose(1, 2), log_sum.transpose(1, 2)


def _backward_cpu(
    gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, log_sum: Tensor, causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    gradients = attend(*_by_heads(gradient, q, k, v, out, log_sum), 0.0, causal)
    return gradients[0].transpose(1, 2), gradients[1].transpose(1, 2), gradients[2].transpose(1, 2)


def _forward_cuda(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> tuple[Tensor, Tensor]:
    out, log_sum, *_ = torch.ops.aten._scaled_dot_product_flash_attention(*_by_heads(q, k, v), 0.0, causal)
    return out.transpose(1, 2), log_sum.transpose(1, 2)


def _backward_cuda(
    gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, log_sum: Tensor, causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    unused = torch.zeros((), dtype=torch.int64, device=q.device)  # state of a dropout that there is not
    gradients = torch.ops.aten._scaled_dot_product_flash_attention_backward(
        *_by_heads(gradient, q, k, v, out), log_sum.transpose(1, 2).contiguous(),
        None, None, q.shape[1], k.shape[1], 0.0, causal, unused, unused,
    )  # fmt: skip
    return gradients[0].transpose(1, 2), gradients[1].transpose(1, 2), gradients[2].transpose(1, 2)


def _by_heads(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(tensor.transpose(1, 2) for tensor in tensors)


# torch's flash kernels, which `scaled_dot_product_attention` takes too. On a GPU: fp16 and bf16 only.
KERNELS: Final = {"cpu": Kernel(_forward_cpu, _backward_cpu), "cuda": Kernel(_forward_cuda, _backward_cuda)}


@dataclass(frozen=True, slots=True)
class FlashVarlen:
    """flash-attn's kernel for packed documents: one launch for all of a batch. On a GPU, and for whole sequences."""

    kernel: Callable[..., Tensor]

    def plan(self, documents: Tensor) -> Plan:
        return spans.plan(documents, rank=0, size=1)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, plan: Plan) -> Tensor:
        bounds, longest = plan.bounds
        out = self.kernel(
            q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), cu_seqlens_q=bounds, cu_seqlens_k=bounds,
            max_seqlen_q=longest, max_seqlen_k=longest, causal=True, deterministic=True,
        )  # fmt: skip
        return out.view(*q.shape[:2], -1)


def flash_attn() -> FlashVarlen | None:
    """Return flash-attn's kernel; None where the extra is not installed."""
    if importlib.util.find_spec("flash_attn") is None:
        return None
    module: Any = importlib.import_module("flash_attn")
    return FlashVarlen(module.flash_attn_varlen_func)


@dataclass(frozen=True, slots=True)
class DynamicNTK:
    """How far a model may read beyond the `max_positions` tokens of its training: about `factor` times."""

    factor: float
    max_positions: int


def stretched(base: float, head_size: int, ntk: DynamicNTK, positions: Tensor) -> float:
    """Return the rotary base for a batch that ends at the last of `positions`: `base` itself up to `max_positions`.

    Beyond, the slowest pair turns slower by the ratio below and the fastest, which tells neighbours apart, as
    fast as ever (dynamic NTK-aware scaling, which the released chat models ask for with factor 2).
    """
    length = int(positions.max()) + 1
    if length <= ntk.max_positions:
        return base
    ratio = ntk.factor * length / ntk.max_positions - (ntk.factor - 1)
    return float(base * ratio ** (head_size / (head_size - 2)))


def rotary(positions: Tensor, head_size: int, base: float) -> tuple[Tensor, Tensor]:
    """Return cos and sin, [B, S, 1, 1, head_size / 2] fp32, of the rotary angles at `positions` [B, S]."""
    pair = torch.arange(0, head_size, 2, dtype=torch.float32, device=positions.device)
    angles = positions[:, :, None, None, None].float() * base ** (-pair / head_size)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn heads x [B, S, KV heads, heads of each, d] by their positions: element i pairs with i + d/2."""
    turned: Tensor = _Rotate.apply(x, cos, sin)
    return turned


class _Rotate(torch.autograd.Function):
    """The gradient is turned the other way round, and of x nothing is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin, 1.0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turned(gradient, cos, sin, -1.0), None, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor, direction: float) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    out = torch.empty(x.shape, dtype=cos.dtype, device=x.device)
    real, imaginary = out.chunk(2, dim=-1)
    torch.mul(first, cos, out=real).addcmul_(second, sin, value=-direction)
    torch.mul(second, cos, out=imaginary).addcmul_(first, sin, value=direction)
    return out.to(x.dtype)
