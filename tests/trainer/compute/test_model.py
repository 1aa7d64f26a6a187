"""The model against a reference written from the report, on one rank."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from internlm2_spec.config import Model
from internlm2_trainer.compute.model import INIT_STD, init_std
from tests import ranks
from tests.trainer import parity


def test_wqkv_rows_are_kv_group_then_queries_key_value_then_head_size() -> None:
    assert ranks.run(1, largest_difference_to_reference) == [pytest.approx(0.0, abs=2e-5)]


def test_a_document_is_computed_as_if_it_were_alone() -> None:
    assert ranks.run(1, largest_difference_to_alone) == [pytest.approx(0.0, abs=2e-5)]


def test_parameter_names_and_shapes_are_those_of_the_hugging_face_checkpoint() -> None:
    (names,) = ranks.run(1, shapes)
    head = parity.SIZES.hidden // parity.SIZES.heads

    assert names["model.tok_embeddings.weight"] == (parity.SIZES.vocab, parity.SIZES.hidden)
    assert names["output.weight"] == (parity.SIZES.vocab, parity.SIZES.hidden)
    assert names["model.norm.weight"] == (parity.SIZES.hidden,)
    assert names["model.layers.1.attention.wqkv.weight"] == (
        (parity.SIZES.heads + 2 * parity.SIZES.kv_heads) * head,
        parity.SIZES.hidden,
    )
    assert {name.removeprefix("model.layers.0.") for name in names if ".layers.0." in name} == {
        "attention_norm.weight",
        "attention.wqkv.weight",
        "attention.wo.weight",
        "ffn_norm.weight",
        "feed_forward.w1.weight",
        "feed_forward.w2.weight",
        "feed_forward.w3.weight",
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.tok_embeddings.weight", INIT_STD),
        ("model.layers.3.attention.wqkv.weight", INIT_STD),
        ("model.layers.3.attention.wo.weight", INIT_STD / math.sqrt(8)),
        ("model.layers.0.feed_forward.w2.weight", INIT_STD / math.sqrt(2)),
        ("model.layers.0.ffn_norm.weight", None),
    ],
)
def test_weights_start_small_and_residual_projections_smaller_with_depth(name: str, expected: float | None) -> None:
    assert init_std(name) == expected


def shapes(_rank: int, _world: int) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in parity.trainer(parity.stage()).model.parameters().items()}


def largest_difference_to_reference(_rank: int, _world: int) -> float:
    run = parity.trainer(parity.stage())
    weights: dict[str, Tensor] = {name: p.full_tensor() for name, p in run.optimizer.parameters.items()}
    tokens = torch.arange(12).view(1, 12) * 7 % parity.SIZES.vocab
    ours = run.model.whole(tokens, torch.arange(12).view(1, 12), torch.zeros_like(tokens))
    return float((ours - reference(weights, tokens, parity.SIZES, run.stage.rope_base)).abs().max())


def largest_difference_to_alone(_rank: int, _world: int) -> float:
    model = parity.trainer(parity.stage()).model.whole
    first, second = torch.arange(9).view(1, 9), torch.arange(40, 47).view(1, 7)
    places = torch.arange(9).view(1, 9), torch.arange(7).view(1, 7)
    zeros = torch.zeros(1, 9, dtype=torch.int64), torch.zeros(1, 7, dtype=torch.int64)
    packed = model(torch.cat((first, second), 1), torch.cat(places, 1), torch.cat((zeros[0], zeros[1] + 1), 1))
    alone = torch.cat((model(first, places[0], zeros[0]), model(second, places[1], zeros[1])), 1)
    return float((packed - alone).abs().max())


def reference(weights: dict[str, Tensor], tokens: Tensor, sizes: Model, base: float) -> Tensor:
    """Compute logits [1, S, V] head by head, as the report describes the matrix."""
    x = weights["model.tok_embeddings.weight"][tokens[0]]
    for layer in range(sizes.layers):
        own = {name.split(f"layers.{layer}.")[1]: w for name, w in weights.items() if f"layers.{layer}." in name}
        x = x + reference_attention(own, norm(x, own["attention_norm.weight"]), sizes, base)
        y = norm(x, own["ffn_norm.weight"])
        gate = functional.silu(y @ own["feed_forward.w1.weight"].T) * (y @ own["feed_forward.w3.weight"].T)
        x = x + gate @ own["feed_forward.w2.weight"].T
    return (norm(x, weights["model.norm.weight"]) @ weights["output.weight"].T).unsqueeze(0)


def reference_attention(own: dict[str, Tensor], x: Tensor, sizes: Model, base: float) -> Tensor:
    size, n = sizes.hidden // sizes.heads, sizes.heads // sizes.kv_heads
    rows = own["attention.wqkv.weight"]
    heads = []
    for head in range(sizes.heads):
        group = head // n
        q, k, v = (x @ rows[((group * (n + 2)) + place) * size :][:size].T for place in (head % n, n, n + 1))
        scores = turn(q, base) @ turn(k, base).T / math.sqrt(size)
        hidden = torch.triu(torch.ones_like(scores, dtype=torch.bool), 1)
        heads.append(scores.masked_fill(hidden, float("-inf")).softmax(-1) @ v)
    return torch.cat(heads, -1) @ own["attention.wo.weight"].T


def turn(x: Tensor, base: float) -> Tensor:
    half = x.shape[1] // 2
    angles = torch.arange(x.shape[0]).unsqueeze(1) * base ** (-torch.arange(half) / half)
    a, b = x[:, :half], x[:, half:]
    return torch.cat((a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()), 1)


def norm(x: Tensor, weight: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * weight
