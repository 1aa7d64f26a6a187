"""The best legal layouts of a stage on a cluster, and why each is where it is in the list."""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Final, Literal

from internlm2_spec import layout, memory, speed
from internlm2_spec.cluster import Cluster, Group
from internlm2_spec.config import Model, Parallel, Recompute, Refused, Schedule, Stage, Zero
from internlm2_spec.gpus import GIB, Gpu
from internlm2_spec.memory import Memory, Precision
from internlm2_spec.speed import Step, Utilisation

# What never is the trainer's: the driver's context, NCCL's channels, and what the allocator cannot use.
DRIVER_BYTES: Final = 2 * GIB
ALLOCATOR: Final = 0.95

TOLERANCE: Final = 0.02
MICRO_BATCHES: Final = (1, 2, 4, 8)
# Lightest first: what costs no time is tried before what costs some.
RECOMPUTES: Final[tuple[Recompute, ...]] = ("None", "Selective", "Full")
SCHEDULES: Final[tuple[Schedule, ...]] = ("1F1B", "Interleaved1F1B", "ZBVZeroBubble")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A layout with its prediction. `room` is what the GPU has for it."""

    stage: Stage
    cluster: Cluster
    memory: Memory
    step: Step
    use: Utilisation
    room: int

    @property
    def fits(self) -> bool:
        return self.memory.total <= self.room


def room(gpu: Gpu) -> int:
    """Return the bytes of a GPU that a rank can use."""
    return int((gpu.memory - DRIVER_BYTES) * ALLOCATOR)


def evaluate(stage: Stage, cluster: Cluster) -> Candidate:
    """Predict one layout.

    Raises:
        Refused: it is not legal on this cluster.
    """
    layout.check(stage, cluster.world)
    step = speed.predict(stage, cluster)
    held = memory.of_stage(stage, cluster.world, memory.CUDA)
    return Candidate(stage, cluster, held, step, speed.utilisation(stage, cluster, step), room(cluster.gpu))


def search(stage: Stage, cluster: Cluster) -> list[Candidate]:
    """Return the legal layouts of a stage that fit, best first; of `parallel` its degrees are not looked at.

    Of layouts that differ only in micro-batch, schedule or exchange of heads the fastest is kept. Recomputation
    is used where nothing fits without. Steps within 2 % of each other are as good as the prediction can tell:
    the simpler is first.
    """
    best: dict[tuple[object, ...], Candidate] = {}
    for parallel in _layouts(stage, cluster):
        found = _lightest(replace(stage, parallel=parallel), cluster)
        if found is None:
            continue
        key = (parallel.tensor, parallel.pipeline, parallel.context, parallel.zero)
        if key not in best or found.step.seconds < best[key].step.seconds:
            best[key] = found
    fastest = min((one.step.seconds for one in best.values()), default=0.0)
    return sorted(best.values(), key=lambda candidate: _rank(candidate, fastest))


def smallest(stage: Stage, cluster: Cluster) -> Candidate | None:
    """Return the legal layout that needs the least memory, whether it fits or not."""
    found = (_legal(replace(stage, parallel=replace(p, recompute="Full")), cluster) for p in _layouts(stage, cluster))
    return min((one for one in found if one is not None), key=lambda one: one.memory.total, default=None)


def _rank(candidate: Candidate, fastest: float) -> tuple[int, int, float]:
    parallel = candidate.stage.parallel
    kinds = sum(degree > 1 for degree in (parallel.tensor, parallel.pipeline, parallel.context))
    return int((candidate.step.seconds / fastest - 1) / TOLERANCE), kinds, candidate.step.seconds


def relief(stage: Stage, world: int, precision: Precision) -> list[tuple[str, int]]:
    """Return single changes of a stage that lower its memory on the same ranks, as (what to write, bytes then).

    The greatest relief is first.
    """
    parallel = stage.parallel
    now = memory.of_stage(stage, world, precision).total
    changes = {
        "recompute Selective": replace(parallel, recompute="Selective", recompute_fraction=1.0),
        "recompute Full": replace(parallel, recompute="Full", recompute_fraction=1.0),
        f"microBatch {parallel.micro_batch // 2}": replace(parallel, micro_batch=parallel.micro_batch // 2),
        "zero.stage 2": replace(parallel, zero=replace(parallel.zero, stage=2)),
        "zero.stage 3": replace(parallel, zero=replace(parallel.zero, stage=3)),
        f"zero.shard {parallel.zero.shard * 2}": replace(
            parallel, zero=replace(parallel.zero, shard=parallel.zero.shard * 2)
        ),
        f"tensor {parallel.tensor * 2}": replace(parallel, tensor=parallel.tensor * 2),
        f"context {parallel.context * 2}": replace(parallel, context=parallel.context * 2),
        f"pipeline {parallel.pipeline * 2}": replace(parallel, pipeline=parallel.pipeline * 2),
    }
    found = []
    for text, changed in changes.items():
        other = replace(stage, parallel=changed)
        with contextlib.suppress(Refused):
            layout.check(other, world)
            found.append((text, memory.of_stage(other, world, precision).total))
    return sorted((change for change in found if change[1] < now), key=lambda change: change[1])


def _layouts(stage: Stage, cluster: Cluster) -> Iterator[Parallel]:
    world = cluster.world
    ways = divisors(world)
    for tensor, pipeline, context in product(ways, ways, ways):
        ranks = tensor * pipeline * context
        # Tensor ranks wait for each other four times a layer and pass: across nodes that is never the best.
        if world % ranks or pipeline > stage.model.layers or tensor > cluster.gpus_per_node:
            continue
        for shard, micro_batch, ulysses in product(
            divisors(world // ranks), MICRO_BATCHES, _exchanges(stage.model, tensor, context)
        ):
            # Sharding over one rank is the same at every stage.
            stages: tuple[Literal[1, 2, 3], ...] = (1, 2, 3) if shard > 1 else (1,)
            for zero, schedule in product(stages, SCHEDULES if pipeline > 1 else SCHEDULES[:1]):
                yield replace(
                    stage.parallel, tensor=tensor, pipeline=pipeline, context=context, ulysses=ulysses,
                    zero=Zero(zero, shard), schedule=schedule, micro_batch=micro_batch, recompute_fraction=1.0,
                )  # fmt: skip


def _exchanges(model: Model, tensor: int, context: int) -> tuple[int, ...]:
    """Return the degrees of Ulysses to try: none, and the most that the KV heads of a rank allow."""
    most = math.gcd(context, max(1, model.kv_heads // tensor))
    return (1, most) if most > 1 else (1,)


def _lightest(stage: Stage, cluster: Cluster) -> Candidate | None:
    """Return the layout with the least recomputation that fits, None if none is legal or fits."""
    for recompute in RECOMPUTES:
        found = _legal(replace(stage, parallel=replace(stage.parallel, recompute=recompute)), cluster)
        if found is None or found.fits:
            return found
    return None


def _legal(stage: Stage, cluster: Cluster) -> Candidate | None:
    try:
        return evaluate(stage, cluster)
    except Refused:
        return None


def divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def reason(candidate: Candidate) -> str:
    """Say what keeps a layout from its best: what does not fit, or what the step waits for."""
    if not candidate.fits:
        held = candidate.memory
        return (
            f"does not fit: {held.total / GIB:.1f} of {candidate.room / GIB:.1f} GiB,"
            f" {held.parts()[held.largest] / GIB:.1f} of them {held.largest}"
        )
    costs = [f"{_words(name, candidate)} {part:.0%}" for name, part in candidate.step.overheads() if part >= 0.01]
    return ", ".join(costs[:3]) or "compute alone"


def _words(name: str, candidate: Candidate) -> str:
    mesh = layout.degrees(candidate.stage.parallel, candidate.cluster.world)
    between = speed.groups(mesh, candidate.cluster)
    steps = layout.accumulation(candidate.stage, candidate.cluster.world)
    return {
        "recompute": "recomputing",
        "tensor": f"tensor {mesh.tensor} messages {_where(between['tensor'])}",
        "context": f"context {mesh.context} messages {_where(max(between['ring'], between['ulysses'], key=_nodes))}",
        "pipeline": f"bubble of pipeline {mesh.pipeline} at {steps} micro-batches",
        "weights": f"gathering weights {_where(between['fsdp'])}",
        "gradients": f"reducing gradients {_where(between['replicate' if mesh.replicate > 1 else 'fsdp'])}",
        "optimizer": "optimizer",
    }[name]


def _nodes(group: Group) -> int:
    return group.nodes


def _where(group: Group) -> str:
    return "in the node" if group.nodes == 1 else f"across {group.nodes} nodes"
