"""Ring, exchange of heads and both against attention by its definition, on four ranks."""

from typing import Final

import pytest
import torch
from torch import Tensor

from internlm2_spec.config import Parallel
from internlm2_trainer.compute import context, spans
from internlm2_trainer.compute.attention import Attend
from internlm2_trainer.compute.mesh import open_mesh
from tests import ranks
from tests.trainer import parity
from tests.trainer.compute.test_spans import mask_of

LENGTH, HEADS, KV_HEADS, HEAD_SIZE = 48, 8, 4, 8
CPU: Final = torch.device("cpu")
ULYSSES: Final = {"ring of 4": 1, "ring of 2, exchange of 2": 2, "exchange of 4": 4}
DOCUMENTS: Final = {
    "one document": torch.zeros(2, LENGTH, dtype=torch.int64),
    "documents that end inside chunks": (torch.arange(LENGTH) // 17).expand(2, -1),
    "documents that end with chunks": (torch.arange(LENGTH) // 12).expand(2, -1),
    "a document a token": torch.arange(LENGTH).expand(2, -1),
    "rows of different documents": torch.stack((torch.arange(LENGTH) // 9, torch.arange(LENGTH).clamp(max=5))),
}
CASES: Final = [(layout, documents) for layout in ULYSSES for documents in DOCUMENTS]

# Output and gradients of standard normal inputs; the worst seen is 2e-6.
TOLERANCE = 1e-5


def inputs() -> list[Tensor]:
    """Return q, k, v and a gradient of the output, for two rows."""
    generator = torch.Generator().manual_seed(2)
    sizes = (HEADS, KV_HEADS, KV_HEADS, HEADS)
    return [torch.randn(2, LENGTH, heads, HEAD_SIZE, generator=generator) for heads in sizes]


def by_definition(documents: Tensor) -> list[Tensor]:
    """Return the output and the gradients of q, k and v, in fp64."""
    *qkv, gradient = (t.double() for t in inputs())
    q, k, v = (t.requires_grad_() for t in qkv)
    keys, values = (t.repeat_interleave(HEADS // KV_HEADS, dim=2) for t in (k, v))
    scores = torch.einsum("bqhd,bkhd->bhqk", q, keys) / HEAD_SIZE**0.5
    hidden = ~mask_of(documents).unsqueeze(1)
    out = torch.einsum("bhqk,bkhd->bqhd", scores.masked_fill(hidden, float("-inf")).softmax(-1), values)
    return [out.detach(), *torch.autograd.grad(out, (q, k, v), gradient)]


def differences(_rank: int, _world: int) -> dict[tuple[str, str], float]:
    """Return how far each case is from the definition, at worst, on this rank's places."""
    found = {}
    for layout, ulysses in ULYSSES.items():
        mesh = open_mesh(parity.SIZES, Parallel(context=4, ulysses=ulysses), "cpu")
        attend, mine = context.open_attention(mesh, CPU), context.own_places(mesh, LENGTH)
        for name, documents in DOCUMENTS.items():
            found[layout, name] = difference(attend, mine, planned=documents, expected=documents)
    mesh = open_mesh(parity.SIZES, Parallel(context=4, ulysses=2), "cpu")
    attend, mine = context.open_attention(mesh, CPU), context.own_places(mesh, LENGTH)
    one, packed = DOCUMENTS["one document"], DOCUMENTS["documents that end inside chunks"]
    found["control", "documents ignored"] = difference(attend, mine, planned=one, expected=packed)
    straight = torch.arange(LENGTH).chunk(4)[torch.distributed.get_rank()]
    found["control", "no zigzag"] = difference(attend, straight, planned=one, expected=one)
    return found


def difference(attend: Attend, mine: Tensor, *, planned: Tensor, expected: Tensor) -> float:
    q, k, v, gradient = (t[:, mine] for t in inputs())
    for tensor in (q, k, v):
        tensor.requires_grad_()
    out = attend(q, k, v, attend.plan(planned))
    ours = [out.view_as(q), *torch.autograd.grad(out, (q, k, v), gradient.flatten(2))]
    pairs = zip(ours, by_definition(expected), strict=True)
    return max(float((a - b[:, mine]).abs().max()) for a, b in pairs)


@pytest.fixture(scope="module")
def found() -> dict[tuple[str, str], float]:
    """Worst difference over the ranks; all cases in one start of four ranks."""
    results: list[dict[tuple[str, str], float]] = ranks.run(4, differences)
    return {case: max(result[case] for result in results) for case in results[0]}


@pytest.mark.parametrize(("layout", "documents"), CASES)
def test_a_split_sequence_is_attended_as_a_whole_one(
    layout: str, documents: str, found: dict[tuple[str, str], float]
) -> None:
    assert found[layout, documents] < TOLERANCE


@pytest.mark.parametrize("mistake", ["documents ignored", "no zigzag"])
def test_the_control_sees_a_mistake(mistake: str, found: dict[tuple[str, str], float]) -> None:
    assert found["control", mistake] > 1000 * TOLERANCE


def test_bf16_parts_are_merged_in_fp32() -> None:
    """A ring of four rounds no worse than one kernel over the whole sequence does, within a third."""
    ring = max(ranks.run(4, worst_in_bf16))
    (one,) = ranks.run(1, worst_in_bf16)
    assert 1e-3 < one < 2e-2
    assert ring < 1.33 * one


def worst_in_bf16(_rank: int, world: int) -> float:
    mesh = open_mesh(parity.SIZES, Parallel(context=world), "cpu")
    attend, mine = context.open_attention(mesh, CPU), context.own_places(mesh, LENGTH)
    documents = DOCUMENTS["one document"]
    q, k, v = (t[:, mine].bfloat16() for t in inputs()[:3])
    out = attend(q, k, v, attend.plan(documents)).view_as(q)
    return float((out - by_definition(documents)[0][:, mine]).abs().max())


def saved_bytes(_rank: int, world: int, splits: tuple[int, ...]) -> list[int]:
    """Return what one forward pass of the model saves for its backward, by degree of Ulysses."""
    return [_saved_bytes(world, ulysses) for ulysses in splits]


def _saved_bytes(world: int, ulysses: int) -> int:
    """Count every storage that is kept once, and no parameter."""
    model = parity.trainer(parity.stage(context=world, ulysses=ulysses)).model
    tokens = torch.arange(parity.SEQUENCE // world).view(1, -1)
    documents = torch.zeros(1, parity.SEQUENCE, dtype=torch.int64)
    saved: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = model.whole(tokens, tokens, documents)
    weights = {p.to_local().untyped_storage().data_ptr() for p in model.parameters().values()}
    kept = [t.untyped_storage().nbytes() for place, t in saved.items() if place not in weights]
    assert logits.requires_grad
    return sum(kept)


def test_what_a_rank_saves_falls_as_the_ranks_grow() -> None:
    ((one,),) = ranks.run(1, saved_bytes, (1,))
    # After an exchange wo needs the output by places, and the backward of attention has it by heads.
    outputs = parity.SIZES.layers * parity.SEQUENCE * parity.SIZES.hidden * 4
    assert one > 10 * outputs
    for world in (2, 4):
        for ring, exchange in ranks.run(world, saved_bytes, (1, 2)):
            assert ring == one / world
            assert exchange == (one + outputs) / world


def test_without_context_ranks_have_every_place() -> None:
    assert spans.places(8, ring=(0, 1), ulysses=(0, 1)).tolist() == list(range(8))
