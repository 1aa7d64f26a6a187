"""Tensor and sequence parallelism on local tensors: collectives with gradients.

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

from internlm2_trainer.compute.mesh import Ranks


@dataclass(frozen=True, slots=True)
class TensorGroup:
    """The ranks that hold one copy of the model together. A group of one communicates nothing."""

    group: dist.ProcessGroup | None
    rank: int
    size: int
    kv_copies: Ranks  # those of them that need the same KV head

    def gather_sequence(self, part: Tensor) -> Tensor:
        """[B, S/size, H] -> [B, S, H]; the gradient is summed and scattered."""
        return part if self.size == 1 else _Gather.apply(part, self)

    def scatter_sequence(self, partial: Tensor) -> Tensor:
        """Sum partial results of all ranks: [B, S, H] -> [B, S/size, H]; the gradient is gathered."""
        return partial if self.size == 1 else _Scatter.apply(partial, self)

    def replicated(self, weight: Tensor) -> Tensor:
        """Use a weight that all ranks hold on this rank's part of the sequence; its gradient is summed."""
        return weight if self.size == 1 else _Replicated.apply(weight, self)

    def own_groups(self, wqkv: Tensor, head_size: int) -> Tensor:
        """Return the rows of wqkv that this rank computes with: its queries, then key and value, by KV head.

        With more ranks than KV heads a rank holds a part of its head's rows, as of any matrix. It computes
        with an equal part of the queries and the whole key and value, whose gradients add up.
        """
        if self.kv_copies.size == 1:
            return wqkv
        rows: Tensor = _GatherRows.apply(wqkv, self.kv_copies)
        rows = rows.view(-1, head_size, rows.shape[-1])
        queries = (rows.shape[0] - 2) // self.kv_copies.size
        first = self.kv_copies.rank * queries
        return torch.cat((rows[first : first + queries], rows[-2:])).flatten(0, 1)


def like(parameter: DTensor, shard: Tensor) -> DTensor:
    """Return a shard as the part of a whole that this rank has of `parameter`; they share memory."""
    return DTensor.from_local(
        shard, parameter.device_mesh, parameter.placements,
        run_check=False, shape=parameter.shape, stride=parameter.stride(),
    )  # fmt: skip


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


class _GatherRows(torch.autograd.Function):
    """[R, H] of each rank -> [size * R, H]; the gradient is summed and scattered."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        whole = rows.new_empty(ranks.size * rows.shape[0], rows.shape[1])
        dist.all_gather_into_tensor(whole, rows.contiguous(), group=ranks.group)
        return whole

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        mine = gradient.new_empty(gradient.shape[0] // ctx.ranks.size, gradient.shape[1])
        dist.reduce_scatter_tensor(mine, gradient.contiguous(), group=ctx.ranks.group)
        return mine, None
