"""Kernels one by one: what a stand-in for flash-attn is given, and that torch still takes what we give its own."""

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from internlm2_trainer.compute import attention
from internlm2_trainer.compute.attention import KERNELS, FlashVarlen
from internlm2_trainer.compute.context import Ring
from internlm2_trainer.compute.mesh import ALONE


def qkv(device: str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    """Return two rows of 12 places: 4 query heads over 2 KV heads of size 8."""
    generator = torch.Generator().manual_seed(4)
    q, k, v = (torch.randn(2, 12, heads, 8, generator=generator).to(device) for heads in (4, 2, 2))
    return q, k, v


def flash_attn_varlen(
    q: Tensor, k: Tensor, v: Tensor, *, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, max_seqlen_q: int,
    max_seqlen_k: int, causal: bool, deterministic: bool,
) -> Tensor:  # fmt: skip
    """Do what flash-attn's kernel of this signature does, one sequence after the other."""
    assert cu_seqlens_q.dtype == torch.int32
    assert torch.equal(cu_seqlens_q, cu_seqlens_k)
    bounds = cu_seqlens_q.tolist()
    longest = max(after - first for first, after in pairwise(bounds))
    assert (max_seqlen_q, max_seqlen_k, causal, deterministic) == (longest, longest, True, True)
    parts = []
    for first, after in pairwise(bounds):
        one = [t[first:after].transpose(0, 1).unsqueeze(0) for t in (q, k, v)]
        out = functional.scaled_dot_product_attention(one[0], one[1], one[2], is_causal=True, enable_gqa=True)
        parts.append(out[0].transpose(0, 1))
    return torch.cat(parts)


def test_flash_attn_is_given_the_documents_of_all_rows() -> None:
    documents = torch.tensor([[0] * 5 + [1] * 7, [0] * 3 + [1] * 3 + [2] * 6])
    flash, ring = FlashVarlen(flash_attn_varlen), Ring(ALONE, KERNELS["cpu"])

    ours = flash(*qkv(), flash.plan(documents))

    torch.testing.assert_close(ours, ring(*qkv(), ring.plan(documents)), atol=1e-6, rtol=0)
    assert not torch.allclose(ours, flash(*qkv(), flash.plan(torch.zeros_like(documents))), atol=1e-2)


def test_torch_s_kernel_for_gpus_takes_what_it_is_given() -> None:
    """Without a GPU only its shapes can be had, but those catch another signature."""
    kernel = KERNELS["cuda"]
    q, k, v = (t.bfloat16() for t in qkv("meta"))

    out, log_sum = kernel.forward(q, k[:, :6], v[:, :6], False)
    gradients = kernel.backward(out, q, k[:, :6], v[:, :6], out, log_sum, False)

    assert (out.shape, log_sum.shape, log_sum.dtype) == (q.shape, q.shape[:3], torch.float32)
    assert [g.shape for g in gradients] == [q.shape, k[:, :6].shape, k[:, :6].shape]


def test_rotation_keeps_lengths_and_depends_on_distance_alone() -> None:
    x = torch.randn(1, 1, 1, 1, 8, generator=torch.Generator().manual_seed(5)).expand(1, 20, 1, 1, 8)
    turned = attention.rotate(x, *attention.rotary(torch.arange(20).unsqueeze(0), 8, 10000.0))[0, :, 0, 0]

    products = turned @ turned.t()

    torch.testing.assert_close(turned.norm(dim=-1), x[0, :, 0, 0].norm(dim=-1), atol=1e-5, rtol=0)
    torch.testing.assert_close(products[3, 7], products[13, 17], atol=1e-4, rtol=0)
    assert abs(products[3, 7] - products[3, 8]) > 1e-2


def test_the_gradient_of_a_rotation_is_autograd_s_own() -> None:
    x = torch.randn(2, 5, 2, 3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(6), requires_grad=True)
    cos, sin = (angle.double() for angle in attention.rotary(torch.arange(10).view(2, 5), 8, 100.0))

    assert torch.autograd.gradcheck(lambda heads: attention.rotate(heads, cos, sin), (x,))
