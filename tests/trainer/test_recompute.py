"""Recomputing saves the bytes it says and costs the products it says; the table shows that results stay the same."""

from typing import Any

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from internlm2_spec.config import Stage
from tests import ranks
from tests.trainer import parity

LAYERS = 4
SAMPLES = 2
TOKENS = SAMPLES * parity.SEQUENCE
FP32 = 4
PRODUCTS_OF_A_LAYER = 5  # wqkv, wo, w1, w3, w2


@pytest.fixture(scope="module")
def costs() -> dict[tuple[str, float], tuple[int, int]]:
    modes = [("None", 1.0), ("Selective", 1.0), ("Full", 1.0), ("Full", 0.5), ("Full", 0.0)]
    stages = [parity.stage(layers=LAYERS, recompute=mode, recompute_fraction=part) for mode, part in modes]
    return dict(zip(modes, ranks.run(1, measure, stages)[0], strict=True))


def test_selective_saves_the_two_widest_activations_for_no_product(costs: dict[Any, tuple[int, int]]) -> None:
    (none, products), (selective, selective_products) = costs["None", 1.0], costs["Selective", 1.0]

    assert none - selective == LAYERS * 2 * TOKENS * parity.SIZES.ffn * FP32
    assert selective_products == products


def test_full_keeps_a_layer_s_input_and_computes_its_products_again(costs: dict[Any, tuple[int, int]]) -> None:
    (none, products), (full, full_products) = costs["None", 1.0], costs["Full", 1.0]
    # gate, up, their activation and product; both norms, q, k and v, attention's output and what it is added to
    widths = 4 * parity.SIZES.ffn + 7 * parity.SIZES.hidden

    assert none - full > LAYERS * TOKENS * widths * FP32
    # Recomputing stops at the last tensor that the backward needs: w2's input, not its product.
    assert full_products - products == LAYERS * (PRODUCTS_OF_A_LAYER - 1)


def test_a_fraction_is_between(costs: dict[Any, tuple[int, int]]) -> None:
    assert costs["Full", 0.0] == costs["None", 1.0]
    (none, products), (half, half_products), (full, full_products) = (
        costs["None", 1.0], costs["Full", 0.5], costs["Full", 1.0]
    )  # fmt: skip
    assert half == pytest.approx((none + full) / 2, rel=0.01)
    assert half_products == (products + full_products) / 2


def measure(_rank: int, _world: int, stages: list[Stage]) -> list[tuple[int, int]]:
    return [bytes_and_products(stage) for stage in stages]


def bytes_and_products(stage: Stage) -> tuple[int, int]:
    """Return the bytes that the forward pass leaves behind for the backward, and the matrix products of both."""
    run = parity.trainer(stage)
    samples = run.source.micro_batch(0, data_rank=0, data_world=1, micro_step=0)
    inputs = (samples.tokens, samples.positions, samples.documents, samples.labels)
    run.model.whole(*inputs).backward()  # FSDP's own buffers are there from now on
    with Watch() as watch:
        loss = run.model.whole(*inputs)
        left = watch.alive()
        loss.backward()
    return left, watch.products


class Watch(TorchDispatchMode):
    """Counts matrix products, and knows which of the tensors made under it are still alive."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.products = 0
        self._made: dict[StorageWeakRef, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.products += func.overloadpacket is torch.ops.aten.mm
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self._made[StorageWeakRef(storage)] = storage.nbytes()
        return out

    def alive(self) -> int:
        left = (size for made, size in self._made.items() if not made.expired())
        return sum(left)
