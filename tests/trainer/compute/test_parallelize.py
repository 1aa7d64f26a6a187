"""What a layout costs in collectives, and which precision is kept where."""

import pytest
import torch
from torch._dynamo.utils import counters
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.debug import CommDebugMode

from internlm2_spec.config import Stage
from internlm2_trainer.compute import parallelize
from internlm2_trainer.compute.model import Block
from internlm2_trainer.compute.spans import Plan
from internlm2_trainer.compute.tensor import local
from tests import ranks
from tests.trainer import parity

LAYERS = 3
Counts = tuple[int, int, int]
UNITS = LAYERS + 1  # FSDP gathers and reduces each layer as one, and the rest of the model


@pytest.fixture(scope="module", params=[2, 4], ids=["2 shards", "2 shards of 2 replicas"])
def counts(request: pytest.FixtureRequest) -> tuple[int, dict[int, Counts]]:
    """Ranks, and what a step takes of each ZeRO stage."""
    world: int = request.param
    stages = [parity.stage(layers=LAYERS, zero=zero, shard=2, micro_batch=1) for zero in (1, 2, 3)]
    of_ranks = ranks.run(world, collectives, stages)
    assert all(of_rank == of_ranks[0] for of_rank in of_ranks)
    return world, dict(enumerate(of_ranks[0], 1))


@pytest.mark.parametrize("zero", [1, 2, 3])
def test_a_zero_stage_is_the_collectives_it_takes(zero: int, counts: tuple[int, dict[int, Counts]]) -> None:
    world, taken = counts
    micro_steps = parity.GLOBAL_SAMPLES // world
    # Stage 1 gathers weights once and reduces gradients once; 2 reduces in each micro-step; 3 gathers as well, once
    # for the forward and once for the backward pass. Every reduction is also summed over the replicas (1 or 2).
    gathers = 2 * UNITS * micro_steps if zero == 3 else UNITS
    reductions = UNITS if zero == 1 else UNITS * micro_steps
    labels_and_totals = 2

    assert taken[zero] == (gathers, reductions, reductions + labels_and_totals)


def test_under_a_pipeline_gradients_are_reduced_once() -> None:
    stage = parity.stage(layers=LAYERS, pipeline=2, shard=2, micro_batch=1)
    first, last = 2 + 1, 1 + 1  # layers and the rest of each stage

    assert [counted[0][1] for counted in ranks.run(4, collectives, [stage])] == [first, first, last, last]


def collectives(_rank: int, _world: int, stages: list[Stage]) -> list[Counts]:
    """Count the all-gathers, reduce-scatters and all-reduces of one step of each stage."""
    counts = []
    for stage in stages:
        run = parity.trainer(stage)
        with CommDebugMode() as counted:
            run.step(0)
        seen, ops = counted.get_comm_counts(), torch.ops.c10d
        counts.append((seen[ops._allgather_base_], seen[ops._reduce_scatter_base_], seen[ops.allreduce_]))
    return counts


@pytest.mark.parametrize(
    ("world", "settings", "units"),
    [(1, {}, 0), (2, {"tensor": 2}, 0), (2, {"pipeline": 2}, 0), (2, {}, UNITS), (2, {"shard": 2}, UNITS)],
    ids=["alone", "tensor ranks", "pipeline ranks", "replicas", "shards"],
)
def test_ranks_that_share_no_weights_have_no_fsdp(world: int, settings: dict[str, int], units: int) -> None:
    stage = parity.stage(layers=LAYERS, micro_batch=1, **settings)
    assert ranks.run(world, fsdp_units, stage) == [(units, True)] * world


def test_a_rank_alone_that_casts_has_fsdp() -> None:
    assert ranks.run(1, fsdp_units, parity.stage(layers=LAYERS), torch.bfloat16) == [(UNITS, True)]


def fsdp_units(_rank: int, _world: int, stage: Stage, dtype: torch.dtype | None = None) -> tuple[int, bool]:
    """Count the units of FSDP, and say whether every parameter is a DTensor."""
    parts = parity.trainer(stage, dtype).model.parts.values()
    units = sum(isinstance(module, FSDPModule) for part in parts for module in part.modules())
    return units, all(isinstance(parameter, DTensor) for part in parts for parameter in part.parameters())


def test_passes_are_in_bf16_and_state_and_reduction_in_fp32() -> None:
    seen = {"weights in the pass": "bfloat16", "shards": "float32", "gradients": "float32", "moments": "float32"}
    assert ranks.run(2, precisions, parity.stage(shard=2, micro_batch=1)) == [seen] * 2


def test_rotary_angles_stay_in_fp32() -> None:
    assert ranks.run(1, rotary_precision, parity.stage()) == ["float32"]


def test_other_documents_compile_nothing_again() -> None:
    ((after_first, after_others, after_another_shape),) = ranks.run(1, graphs, parity.stage())
    assert 0 < after_first == after_others < after_another_shape


def graphs(_rank: int, _world: int, stage: Stage) -> tuple[int, int, int]:
    """Count the graphs of compiled layers after one batch, more with other documents, and one of another length."""
    model = parity.trainer(stage).model.whole
    parallelize.compile_layers(model, backend="eager")
    counts = []
    for lengths in ((5,), (7, 3, 1, parity.SEQUENCE), (4,)):
        for length in lengths:
            size = parity.SEQUENCE if lengths != (4,) else parity.SEQUENCE // 2
            tokens = torch.arange(size).unsqueeze(0)
            model(tokens, tokens, tokens // length, tokens).backward()
        counts.append(counters["stats"]["unique_graphs"])
    return counts[0], counts[1], counts[2]


def precisions(_rank: int, _world: int, stage: Stage) -> dict[str, str]:
    run = parity.trainer(stage, torch.bfloat16, parity.Recording)
    block = run.model.whole.model.layers["0"]
    assert isinstance(block, Block)
    during: set[torch.dtype] = set()
    block.feed_forward.register_forward_pre_hook(lambda module, _: during.add(local(module.w1.weight).dtype))
    run.step(0)
    assert isinstance(run.optimizer, parity.Recording)
    groups = {
        "weights in the pass": during,
        "shards": {shard.dtype for shard in run.optimizer.shards.values()},
        "gradients": {gradient.dtype for gradient, _ in (run.optimizer.gradients or {}).values()},
        "moments": {moment.dtype for moment in run.optimizer.averages.values()},
    }
    return {name: ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes) for name, dtypes in groups.items()}


def rotary_precision(_rank: int, _world: int, stage: Stage) -> str:
    run = parity.trainer(stage, torch.bfloat16)
    block = run.model.whole.model.layers["0"]
    assert isinstance(block, Block)
    seen: list[torch.dtype] = []
    compute = block.compute

    def look(x: torch.Tensor, rope: tuple[torch.Tensor, torch.Tensor], plan: Plan) -> torch.Tensor:
        seen.append(rope[0].dtype)
        return compute(x, rope, plan)

    block.compute = look
    run.step(0)
    return str(seen[0]).removeprefix("torch.")
