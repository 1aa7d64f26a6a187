"""The head and its loss, some tokens at a time: logits of a long sequence never exist whole.

Each tensor rank has its rows of the head, so the vocabulary is split as well. The sum needs only the
logits of a chunk, and so do its gradients: they are computed at once, and no logit is computed twice.
A micro-batch then holds gradients of `x` and of the head from its forward to its backward.
"""

from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor

from internlm2_spec.activations import LOSS_CHUNK_TOKENS
from internlm2_trainer.compute.tensor import TensorGroup

IGNORED_LABEL: Final = -100


def head_loss(
    x: Tensor, head: Tensor, labels: Tensor, tp: TensorGroup, *, chunk_tokens: int = LOSS_CHUNK_TOKENS
) -> Tensor:
    """Return the cross entropy of the logits x head^T, summed over the labels that are not `IGNORED_LABEL`.

    x: [N, H]. head: [V/size, H], this rank's rows. labels: [N] int64. Every rank of the group gets the
    same value, in fp32.
    """
    loss: Tensor = _HeadLoss.apply(x, head, labels, tp, chunk_tokens, torch.is_grad_enabled())
    return loss


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, head: Tensor, labels: Tensor, tp: TensorGroup, chunk_tokens: int, gradients: bool
    ) -> Tensor:
        loss = x.new_zeros((), dtype=torch.float32)
        x_gradient = torch.empty_like(x)
        head_gradient = torch.empty_like(head, dtype=torch.float32)
        for start in range(0, x.shape[0], chunk_tokens):
            rows = slice(start, start + chunk_tokens)
            part, gradient = _cross_entropy(x[rows] @ head.t(), labels[rows], tp)
            loss += part
            if gradients:
                torch.mm(gradient, head, out=x_gradient[rows])
                _add_product(head_gradient, gradient.t(), x[rows], first=start == 0)
        ctx.save_for_backward(x_gradient, head_gradient)
        ctx.dtype = head.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        # Not in place: a zero bubble calls this once for the inputs and again for the weights.
        x_gradient, head_gradient = ctx.saved_tensors
        return x_gradient * gradient, (head_gradient * gradient).to(ctx.dtype), None, None, None, None


def _add_product(total: Tensor, left: Tensor, right: Tensor, *, first: bool) -> None:
    """Add left @ right to a total in fp32, or set it to that; in fp32 without a tensor in between."""
    if left.dtype != total.dtype:
        product = left @ right
        total.copy_(product) if first else total.add_(product)
    else:
        torch.addmm(total, left, right, beta=0.0 if first else 1.0, out=total)


def _cross_entropy(logits: Tensor, labels: Tensor, tp: TensorGroup) -> tuple[Tensor, Tensor]:
    """Return the summed loss of [N, V/size] logits, which are overwritten, and its gradient by them."""
    scores = logits.float()
    top = scores.amax(dim=-1)
    if tp.size > 1:
        dist.all_reduce(top, op=dist.ReduceOp.MAX, group=tp.group)
    scores.sub_(top.unsqueeze(-1))
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
    loss = ((total.log() - target) * counted).sum()
    softmax = exponents.div_(total.unsqueeze(-1)).scatter_add_(-1, rows, -here.to(exponents.dtype).unsqueeze(-1))
    return loss, softmax.mul_(counted.unsqueeze(-1)).to(logits.dtype)
