"""The loss in chunks against torch's of whole logits, and how large a tensor ever is."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from internlm2_trainer.compute.loss import IGNORED_LABEL, head_loss
from internlm2_trainer.compute.mesh import ALONE
from internlm2_trainer.compute.tensor import TensorGroup
from tests import ranks

TOKENS, HIDDEN, VOCAB = 50, 16, 96


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(TOKENS, HIDDEN, generator=generator)
    head = torch.randn(VOCAB, HIDDEN, generator=generator)
    labels = torch.randint(VOCAB, (TOKENS,), generator=generator)
    labels[::7] = IGNORED_LABEL
    return x.requires_grad_(), head.requires_grad_(), labels


def whole() -> list[Tensor]:
    """Return the loss of whole logits and its gradients, all divided by the number of labels."""
    x, head, labels = inputs()
    loss = functional.cross_entropy(x @ head.t(), labels, ignore_index=IGNORED_LABEL)
    return [loss.detach(), *torch.autograd.grad(loss, (x, head))]


def in_chunks(chunk_tokens: int) -> list[Tensor]:
    x, head, labels = inputs()
    loss = head_loss(x, head, labels, alone(), chunk_tokens=chunk_tokens) / (labels != IGNORED_LABEL).sum()
    return [loss.detach(), *torch.autograd.grad(loss, (x, head))]


def alone() -> TensorGroup:
    return TensorGroup(None, 0, 1, ALONE)


@pytest.mark.parametrize("chunk_tokens", [1, 7, 25, TOKENS, 1024])
def test_chunks_of_any_size_give_the_loss_and_gradients_of_whole_logits(chunk_tokens: int) -> None:
    for ours, expected in zip(in_chunks(chunk_tokens), whole(), strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-6, rtol=0)


def test_a_head_split_over_ranks_gives_the_same() -> None:
    expected = whole()
    for loss, x_gradient, head_gradient in ranks.run(2, split_over_ranks):
        torch.testing.assert_close(torch.tensor(loss), expected[0], atol=1e-6, rtol=0)
        torch.testing.assert_close(torch.tensor(x_gradient), expected[1], atol=1e-6, rtol=0)
        torch.testing.assert_close(torch.tensor(head_gradient), expected[2], atol=1e-6, rtol=0)


def split_over_ranks(rank: int, world: int) -> tuple[float, Any, Any]:
    import torch.distributed as dist

    x, head, labels = inputs()
    group = TensorGroup(dist.group.WORLD, rank, world, ALONE)
    loss = head_loss(x, head.chunk(world)[rank], labels, group, chunk_tokens=8)
    loss = loss / (labels != IGNORED_LABEL).sum()
    x_gradient, head_gradient = torch.autograd.grad(loss, (x, head))
    # Each rank's is the part that its rows make; in the model the gather of the sequence sums them up.
    dist.all_reduce(x_gradient)
    dist.all_reduce(head_gradient)
    return float(loss.detach()), x_gradient.tolist(), head_gradient.tolist()


def test_no_labels_at_all_are_no_loss_and_no_gradient() -> None:
    x, head, labels = inputs()
    loss = head_loss(x, head, torch.full_like(labels, IGNORED_LABEL), alone(), chunk_tokens=8)
    gradients = torch.autograd.grad(loss, (x, head))
    assert [float(t.abs().max()) for t in (loss.detach(), *gradients)] == [0.0, 0.0, 0.0]


def test_a_loss_without_gradients_computes_none() -> None:
    x, head, labels = inputs()
    with torch.no_grad(), Largest() as seen:
        loss = head_loss(x, head, labels, alone(), chunk_tokens=8)
    assert float(loss) / int((labels != IGNORED_LABEL).sum()) == pytest.approx(float(whole()[0]), abs=1e-6)
    assert seen.products == -(-TOKENS // 8)


def test_logits_never_exist_whole() -> None:
    with Largest() as seen:
        in_chunks(8)
    assert seen.largest == VOCAB * HIDDEN  # the head's gradient
    with Largest() as control:
        whole()
    assert control.largest == TOKENS * VOCAB


class Largest(TorchDispatchMode):
    """Watches how many elements the largest tensor has that any operation makes, and counts matrix products."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.largest = 0
        self.products = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.products += "mm" in str(func)
        self.largest = max([self.largest, *(t.numel() for t in tree_leaves(out) if isinstance(t, Tensor))])
        return out
