"""Context parallelism: a sequence split over ranks, by a ring, by an exchange of heads, or by both.

In the ring every rank keeps its queries while keys and values go round (Ring Attention, arXiv
2310.01889); results of the steps are merged by their log-sum-exp in fp32. The exchange gives each rank
all places of some heads for the time of the attention (DeepSpeed-Ulysses, arXiv 2309.14509). With both, a rank
of the ring is a group that exchanges. RoPE knows nothing of it: positions are split with the tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from internlm2_trainer.compute import attention, spans
from internlm2_trainer.compute.attention import Attend, Kernel
from internlm2_trainer.compute.mesh import Mesh, Ranks
from internlm2_trainer.compute.spans import Plan


def open_attention(mesh: Mesh, device: torch.device) -> Attend:
    """Return the attention of this rank: flash-attn's where it is installed and can be, torch's elsewhere."""
    whole = attention.flash_attn() if device.type == "cuda" and mesh.ring.size == 1 else None
    inner = whole or Ring(mesh.ring, attention.KERNELS[device.type])
    return inner if mesh.ulysses.size == 1 else Ulysses(mesh.ulysses, inner)


def own_places(mesh: Mesh, sequence_length: int) -> Tensor:
    """Return which places of a sequence this rank has, in its order, [S / context] int64."""
    ring, ulysses = (mesh.ring.rank, mesh.ring.size), (mesh.ulysses.rank, mesh.ulysses.size)
    return spans.places(sequence_length, ring=ring, ulysses=ulysses)


@dataclass(frozen=True, slots=True)
class Ring:
    """Attention over a sequence that is split over `ranks` in a zigzag. A ring of one sends nothing."""

    ranks: Ranks
    kernel: Kernel

    def plan(self, documents: Tensor) -> Plan:
        return spans.plan(documents, rank=self.ranks.rank, size=self.ranks.size)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, plan: Plan) -> Tensor:
        out: Tensor = _Ring.apply(q, torch.stack((k, v)), plan, self)
        return out.flatten(2)

    def pass_on(self, tensor: Tensor, tag: int) -> Callable[[], Tensor]:
        """Send a tensor to the next rank; return what waits for the one of the rank before."""
        size, rank, group = self.ranks.size, self.ranks.rank, self.ranks.group
        arriving = torch.empty_like(tensor)
        works = dist.batch_isend_irecv(
            [
                dist.P2POp(dist.isend, tensor, group=group, tag=tag, group_peer=(rank + 1) % size),
                dist.P2POp(dist.irecv, arriving, group=group, tag=tag, group_peer=(rank - 1) % size),
            ]
        )

        def wait() -> Tensor:
            for work in works:
                work.wait()
            return arriving

        return wait


@dataclass(frozen=True, slots=True)
class Ulysses:
    """Attention after an exchange: from all heads at some places to some heads at all places, and back."""

    ranks: Ranks
    inner: Attend

    def plan(self, documents: Tensor) -> Plan:
        return self.inner.plan(documents)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, plan: Plan) -> Tensor:
        batch, places, kv_heads, size = k.shape
        # By KV head its queries, key and value: one exchange for all three.
        grouped = torch.cat((q.view(batch, places, kv_heads, -1, size), k.unsqueeze(3), v.unsqueeze(3)), dim=3)
        grouped = _Exchange.apply(grouped, self.ranks, 2, 1)
        q, k, v = grouped[:, :, :, :-2].flatten(2, 3), grouped[:, :, :, -2], grouped[:, :, :, -1]
        out = self.inner(q, k, v, plan)
        whole: Tensor = _Exchange.apply(out.view(*k.shape[:3], -1), self.ranks, 1, 2)
        return whole.flatten(2)


# Two messages between the same ranks may be under way at once in the backward.
_KEYS_TAG, _GRADIENTS_TAG = 0, 1


class _Ring(torch.autograd.Function):
    """kv is [2, B, S, kv_heads, d], contiguous, as it travels."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, kv: Tensor, plan: Plan, ring: Ring) -> Tensor:
        out = q.new_empty(q.shape, dtype=torch.float32)
        log_sum = q.new_empty(q.shape[:3], dtype=torch.float32)
        held = kv
        for step, seen in enumerate(plan.steps):
            arriving = ring.pass_on(held, _KEYS_TAG) if step + 1 < len(plan.steps) else None
            for span in seen:
                queries, keys = (span.rows, span.queries), (span.rows, span.keys)
                part = ring.kernel.forward(q[queries], held[0][keys], held[1][keys], span.causal)
                _merge(out[queries], log_sum[queries], *part, first=span.causal)
            held = arriving() if arriving else held
        out = out.to(q.dtype)
        ctx.save_for_backward(q, kv, out, log_sum)
        ctx.plan, ctx.ring = plan, ring
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        q, kv, out, log_sum = ctx.saved_tensors
        steps, ring = ctx.plan.steps, ctx.ring
        # As in the forward, the triangles of the first step are the first to write each place.
        q_gradient = torch.empty_like(q, dtype=torch.float32)
        held, sum_arriving = kv, None
        for step, seen in enumerate(steps):
            arriving = ring.pass_on(held, _KEYS_TAG) if step + 1 < len(steps) else None
            kv_gradient = (torch.zeros_like if step else torch.empty_like)(kv, dtype=torch.float32)
            for span in seen:
                queries, keys = (span.rows, span.queries), (span.rows, span.keys)
                parts = ring.kernel.backward(
                    gradient[queries], q[queries], held[0][keys], held[1][keys], out[queries], log_sum[queries],
                    span.causal,
                )  # fmt: skip
                totals = q_gradient[queries], kv_gradient[0][keys], kv_gradient[1][keys]
                for total, part in zip(totals, parts, strict=True):
                    total.copy_(part) if span.causal else total.add_(part)
            # The gradients of keys follow them round the ring, one step behind, and end where the keys are at home.
            if sum_arriving:
                kv_gradient += sum_arriving()
            if len(steps) > 1:
                sum_arriving = ring.pass_on(kv_gradient, _GRADIENTS_TAG)
            held = arriving() if arriving else held
        if sum_arriving:
            kv_gradient = sum_arriving()
        return q_gradient.to(q.dtype), kv_gradient.to(kv.dtype), None, None


def _merge(out: Tensor, log_sum: Tensor, part: Tensor, part_log_sum: Tensor, *, first: bool) -> None:
    """Add a part of the keys to `out`, in place: each result weighs what its keys weigh in the softmax of all."""
    if first:
        out.copy_(part)
        log_sum.copy_(part_log_sum)
        return
    total = torch.logaddexp(log_sum, part_log_sum)
    out.mul_((log_sum - total).exp_().unsqueeze(-1)).add_(part * (part_log_sum - total).exp_().unsqueeze(-1))
    log_sum.copy_(total)


class _Exchange(torch.autograd.Function):
    """Split dimension `split` over ranks and join dimension `join` from them; the gradient goes the other way."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, ranks: Ranks, split: int, join: int) -> Tensor:
        ctx.ranks, ctx.split, ctx.join = ranks, split, join
        return _exchange(tensor, ranks, split, join)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return _exchange(gradient, ctx.ranks, ctx.join, ctx.split), None, None, None


def _exchange(tensor: Tensor, ranks: Ranks, split: int, join: int) -> Tensor:
    parts = torch.stack(tensor.chunk(ranks.size, split))
    arrived = torch.empty_like(parts)
    dist.all_to_all_single(arrived, parts, group=ranks.group)
    return torch.cat(arrived.unbind(0), join)
