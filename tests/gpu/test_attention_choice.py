"""Which attention a GPU takes, and that each of them is attention inside documents."""

import pytest
import torch
from torch import Tensor

from bench.contestants import Place
from internlm2_trainer.compute import attention, context
from internlm2_trainer.compute.attention import KERNELS, Attend, FlashVarlen
from internlm2_trainer.compute.context import Ring
from internlm2_trainer.compute.mesh import ALONE
from tests.device_parity import by_definition, packed

HEADS, KV_HEADS, SIZE = 4, 2, 64
# Measured with a CPU's kernel in bf16: 5e-3.
TOLERANCE = 0.02


def test_flash_attn_is_taken_where_it_is_installed_and_torch_s_kernel_elsewhere(gpu: Place) -> None:
    chosen = context.open_attention(gpu.mesh, gpu.device)

    assert isinstance(chosen, Ring if attention.flash_attn() is None else FlashVarlen)
    if isinstance(chosen, Ring):
        assert chosen.kernel is KERNELS["cuda"]


def inputs() -> list[Tensor]:
    """Return q, k, v and a gradient of the output, in numbers that bf16 has."""
    generator = torch.Generator().manual_seed(2)
    shape = packed()[0].shape
    return [
        torch.randn(*shape, heads, SIZE, generator=generator).bfloat16() for heads in (HEADS, KV_HEADS, KV_HEADS, HEADS)
    ]


def attended(attend: Attend, documents: Tensor, device: torch.device) -> list[Tensor]:
    """Return the output and the gradients of q, k and v."""
    *qkv, gradient = (tensor.to(device) for tensor in inputs())
    q, k, v = (tensor.requires_grad_() for tensor in qkv)
    out = attend(q, k, v, attend.plan(documents.to(device)))
    return [
        each.float().cpu()
        for each in (out.detach().view_as(q), *torch.autograd.grad(out, (q, k, v), gradient.flatten(2)))
    ]


def worst(ours: list[Tensor], expected: list[Tensor]) -> float:
    """Return the norm of the difference over the norm of what is expected, of the worst tensor."""
    return max(float((a - b).norm() / b.norm()) for a, b in zip(ours, expected, strict=True))


def kinds() -> dict[str, Attend | None]:
    return {"torch's kernel": Ring(ALONE, KERNELS["cuda"]), "flash-attn": attention.flash_attn()}


@pytest.mark.parametrize("kind", ["torch's kernel", "flash-attn"])
def test_it_is_causal_attention_inside_documents(kind: str, gpu: Place) -> None:
    attend = kinds()[kind]
    if attend is None:
        pytest.skip("flash-attn is not installed: pip install 'internlm2[flash-attn]'")
    documents, _ = packed()
    expected = by_definition(inputs(), documents)

    assert worst(attended(attend, documents, gpu.device), expected) < TOLERANCE
    assert worst(attended(attend, torch.zeros_like(documents), gpu.device), expected) > 10 * TOLERANCE


def test_parts_of_the_keys_add_up_to_all_of_them(gpu: Place) -> None:
    """What a ring does on more than one GPU: triangles and rectangles, merged by their log-sum-exp."""
    q, k, v, gradient = (tensor.to(gpu.device) for tensor in inputs())
    kernel, half = KERNELS["cuda"], q.shape[1] // 2
    whole, whole_sum = kernel.forward(q, k, v, True)
    late = q[:, half:]
    before, before_sum = kernel.forward(late, k[:, :half], v[:, :half], False)
    own, own_sum = kernel.forward(late, k[:, half:], v[:, half:], True)
    total = torch.logaddexp(before_sum, own_sum)
    weighed = [part * (each - total).exp().unsqueeze(-1) for part, each in ((before, before_sum), (own, own_sum))]

    assert worst([weighed[0] + weighed[1], total], [whole[:, half:].float(), whole_sum[:, half:]]) < TOLERANCE

    expected = kernel.backward(gradient, q, k, v, whole, whole_sum, True)
    gradient, late, out, total = (tensor[:, half:].contiguous() for tensor in (gradient, q, whole, whole_sum))
    rectangle = kernel.backward(gradient, late, k[:, :half], v[:, :half], out, total, False)
    triangle = kernel.backward(gradient, late, k[:, half:], v[:, half:], out, total, True)
    ours = [(rectangle[0] + triangle[0]).float(), triangle[1].float(), triangle[2].float()]
    assert worst(ours, [each[:, half:].float() for each in expected]) < TOLERANCE
