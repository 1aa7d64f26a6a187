"""Tensor and sequence parallelism on local tensors: collectives with gradients, vocabulary-parallel loss.

Activations between blocks are split over the sequence (dimension 1 of [B, S, H]); a block gathers
them, computes with its share of heads or of the feed-forward, and scatters the sum. Parameters are
DTensors for the sake of state; `local` hands out the plain tensor that computes.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

IGNORED_LABEL = -100


@dataclass(frozen=True, slots=True)
class TensorGroup:
    """The ranks that hold one copy of the model together. A group of one communicates nothing."""

    group: dist.ProcessGroup
    rank: int
    size: int

    def gather_sequence(self, part: Tensor) -> Tensor:
        """[B, S/size, H] -> [B, S, H]; the gradient is summed and scattered."""
        return part if self.size == 1 else _Gather.apply(part, self)

    def scatter_sequence(self, partial: Tensor) -> Tensor:
        """Sum partial results of all ranks: [B, S, H] -> [B, S/size, H]; the gradient is gathered."""
        return partial if self.size == 1 else _Scatter.apply(partial, self)

    def replicated(self, weight: Tensor) -> Tensor:
        """Use a weight that all ranks hold on this rank's part of the sequence; its gradient is summed."""
        return weight if self.size == 1 else _Replicated.apply(weight, self)


def local(parameter: Tensor) -> Tensor:
    """Return the plain tensor of a parameter, gradients included."""
    plain: Tensor = parameter.to_local() if isinstance(parameter, DTensor) else parameter
    return plain


def embed(tokens: Tensor, table: Tensor, tp: TensorGroup) -> Tensor:
    """Look up [B, S] tokens in this rank's rows of the table, and return [B, S/size, H]."""
    if tp.size == 1:
        return torch.nn.functional.embedding(tokens, table)
    rows = tokens - tp.rank * table.shape[0]
    elsewhere = (rows < 0) | (rows >= table.shape[0])
    found = torch.nn.functional.embedding(rows.masked_fill(elsewhere, 0), table)
    return tp.scatter_sequence(found.masked_fill(elsewhere.unsqueeze(-1), 0.0))


def cross_entropy_sum(logits: Tensor, labels: Tensor, tp: TensorGroup) -> Tensor:
    """Return the summed loss of [N, V/size] logits against [N] labels; `IGNORED_LABEL` counts nothing.

    Every rank of the group gets the same value, in fp32, without the whole row existing anywhere.
    """
    loss: Tensor = _CrossEntropy.apply(logits, labels, tp)
    return loss


def _all_gather(part: Tensor, tp: TensorGroup) -> Tensor:
    batch, sequence, hidden = part.shape
    whole = part.new_empty(tp.size * batch, sequence, hidden)
    dist.all_gather_into_tensor(whole, part.contiguous(), group=tp.group)
    return whole.view(tp.size, batch, sequence, hidden).transpose(0, 1).reshape(batch, tp.size * sequence, hidden)


def _reduce_scatter(partial: Tensor, tp: TensorGroup) -> Tensor:
    batch, sequence, hidden = partial.shape
    split = partial.view(batch, tp.size, sequence // tp.size, hidden).transpose(0, 1)
    mine = partial.new_empty(batch, sequence // tp.size, hidden)
    dist.reduce_scatter_tensor(mine, split.flatten(0, 1).contiguous(), group=tp.group)
    return mine


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor, tp: TensorGroup) -> Tensor:
        ctx.tp = tp
        return _all_gather(part, tp)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _reduce_scatter(gradient.contiguous(), ctx.tp), None


class _Scatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, partial: Tensor, tp: TensorGroup) -> Tensor:
        ctx.tp = tp
        return _reduce_scatter(partial.contiguous(), tp)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _all_gather(gradient, ctx.tp), None


class _Replicated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, tp: TensorGroup) -> Tensor:
        ctx.tp = tp
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.contiguous().clone()
        dist.all_reduce(total, group=ctx.tp.group)
        return total, None


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, tp: TensorGroup) -> Tensor:
        scores = logits.float()
        top = scores.amax(dim=-1)
        if tp.size > 1:
            dist.all_reduce(top, op=dist.ReduceOp.MAX, group=tp.group)
        scores = scores - top.unsqueeze(-1)
        rows = labels - tp.rank * scores.shape[-1]
        here = (rows >= 0) & (rows < scores.shape[-1])
        rows = rows.masked_fill(~here, 0).unsqueeze(-1)
        target = scores.gather(-1, rows).squeeze(-1).masked_fill(~here, 0.0)
        exponents = scores.exp_()
        both = torch.stack((exponents.sum(dim=-1), target))
        if tp.size > 1:
            dist.all_reduce(both, group=tp.group)
        total, target = both
        counted = labels != IGNORED_LABEL
        ctx.save_for_backward(exponents, total, rows, here, counted)
        ctx.dtype = logits.dtype
        loss: Tensor = ((total.log() - target) * counted).sum()
        return loss

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        exponents, total, rows, here, counted = ctx.saved_tensors
        softmax = exponents / total.unsqueeze(-1)
        softmax.scatter_add_(-1, rows, -here.to(softmax.dtype).unsqueeze(-1))
        softmax.mul_((gradient * counted).unsqueeze(-1))
        return softmax.to(ctx.dtype), None, None
