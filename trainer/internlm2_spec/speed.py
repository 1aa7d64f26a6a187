"""How long a step takes on a cluster, predicted: compute, messages that nothing hides, and bubbles.

A model of a dozen terms, not a simulation. Products run at one measured fraction of the peak. Messages of
tensor and context parallelism are waited for; those of FSDP hide behind the compute of their micro-step,
but for the outermost group's, which nothing precedes. Good for ranking layouts and for an MFU within about
a fifth on models of 1B and more; launch times, stragglers and the file system are not in it.
"""

from dataclasses import dataclass, fields
from typing import Final

from internlm2_spec import flops, layout, pipeline
from internlm2_spec.cluster import Cluster, Group
from internlm2_spec.config import Parallel, Stage
from internlm2_spec.context import kv_heads_per_rank
from internlm2_spec.layout import Degrees
from internlm2_spec.parameters import Share, shares

FLOAT32: Final = 4
BFLOAT16: Final = 2
# AdamW reads weight, gradient and two moments, and writes all but the gradient.
OPTIMIZER_BYTES: Final = 7 * FLOAT32


@dataclass(frozen=True, slots=True)
class Step:
    """Seconds of one optimizer step by what the slowest rank spends them on."""

    compute: float
    recompute: float
    tensor: float  # messages of tensor parallelism
    context: float  # messages of context parallelism
    pipeline: float  # bubble, and messages between stages
    weights: float  # gathering weights, as far as nothing hides it
    gradients: float  # reducing gradients, likewise
    optimizer: float

    @property
    def seconds(self) -> float:
        return sum(self.parts().values())

    def parts(self) -> dict[str, float]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def overheads(self) -> list[tuple[str, float]]:
        """Return everything but the useful compute as a fraction of the step, largest first."""
        parts = [(name, seconds / self.seconds) for name, seconds in self.parts().items() if name != "compute"]
        return sorted(parts, key=lambda part: part[1], reverse=True)


@dataclass(frozen=True, slots=True)
class Utilisation:
    """Model FLOPs utilisation in both conventions, and the tokens per second of all GPUs."""

    causal: float
    full: float
    tokens_per_second: float


def utilisation(stage: Stage, cluster: Cluster, step: Step) -> Utilisation:
    speed = stage.global_batch_tokens / step.seconds
    available = cluster.world * cluster.gpu.flops
    causal = flops.per_token_causal(stage.model, stage.sequence_length)
    full = flops.per_token_full(stage.model, stage.sequence_length)
    return Utilisation(speed * causal / available, speed * full / available, speed)


def predict(stage: Stage, cluster: Cluster) -> Step:
    """Predict one optimizer step of a stage on a cluster, of samples of one document each.

    Raises:
        Refused: the stage has no legal layout there.
    """
    mesh = layout.degrees(stage.parallel, cluster.world)
    micro_steps = layout.accumulation(stage, cluster.world)
    one = _MicroStep(stage, mesh, cluster)
    compute, again = one.compute, one.compute / 3 * one.recomputed + one.activations_again
    tensor, context = one.tensor_messages(), one.context_messages()
    busy = micro_steps * (compute + again + tensor + context)
    gathering, reducing = _sharding(stage, mesh, cluster, micro_steps, compute + again)
    return Step(
        compute=micro_steps * compute,
        recompute=micro_steps * again,
        tensor=micro_steps * tensor,
        context=micro_steps * context,
        pipeline=busy * _bubble(stage.parallel, micro_steps) + micro_steps * one.stage_messages(),
        weights=gathering,
        gradients=reducing,
        optimizer=_held(stage, mesh) * OPTIMIZER_BYTES / cluster.gpu.memory_bandwidth,
    )


def groups(mesh: Degrees, cluster: Cluster) -> dict[str, Group]:
    """Return the groups of a rank: tensor ranks are neighbours, pipeline ranks are furthest apart.

    FSDP shards over `shard` and `context` together.
    """
    fsdp = mesh.shard * mesh.context
    sizes = {"tensor": mesh.tensor, "fsdp": fsdp, "replicate": mesh.replicate, "pipeline": mesh.pipeline}
    ring = Group(mesh.context // mesh.ulysses, mesh.tensor * mesh.ulysses, cluster)
    found, stride = {"ulysses": Group(mesh.ulysses, mesh.tensor, cluster), "ring": ring}, 1
    for name, size in sizes.items():
        found[name] = Group(size, stride, cluster)
        stride *= size
    return found


class _MicroStep:
    """One micro-batch on the slowest rank. Messages are bf16 but for reduced gradients."""

    def __init__(self, stage: Stage, mesh: Degrees, cluster: Cluster) -> None:
        self.model, self.parallel, self.mesh = stage.model, stage.parallel, mesh
        self.between = groups(mesh, cluster)
        self.tokens = stage.parallel.micro_batch * stage.sequence_length // mesh.context
        self.layers = stage.model.layers / mesh.pipeline
        # "Selective" computes no product again: it reads gate and up and writes their activation and product.
        wide = self.tokens * self.model.ffn / mesh.tensor * BFLOAT16
        selective = stage.parallel.recompute_fraction if stage.parallel.recompute == "Selective" else 0.0
        self.activations_again = selective * self.layers * 4 * wide / cluster.gpu.memory_bandwidth
        self.recomputed = stage.parallel.recompute_fraction if stage.parallel.recompute == "Full" else 0.0
        self.passes = 2 + self.recomputed
        work = self.tokens * flops.per_token_causal(stage.model, stage.sequence_length)
        self.compute = work * _slowest(stage) / mesh.tensor / cluster.attained
        pairs = 6.0 * stage.model.layers * stage.model.hidden * stage.sequence_length * self.tokens
        self.attention = pairs / mesh.tensor / mesh.pipeline / cluster.attained

    def tensor_messages(self) -> float:
        """Two gathers and two scatters of the residual stream a layer and pass."""
        stream = self.tokens * self.model.hidden * BFLOAT16
        return self.passes * 4 * self.layers * self.between["tensor"].gather(stream)

    def context_messages(self) -> float:
        """Heads are exchanged and waited for; keys go round the ring, and attention hides what it can.

        The exchange has queries, keys and values before attention and its output after it. Behind the keys
        of a ring go their fp32 gradients.
        """
        ulysses, ring = self.between["ulysses"], self.between["ring"]
        head = self.model.hidden // self.model.heads
        queries = self.tokens * self.model.heads // self.mesh.tensor * head
        keys = 2 * self.tokens * kv_heads_per_rank(self.model, self.parallel) * head
        exchange = self.passes * (ulysses.exchange((queries + keys) * BFLOAT16) + ulysses.exchange(queries * BFLOAT16))
        forward, backward = ring.send(keys * BFLOAT16), ring.send(keys * (BFLOAT16 + FLOAT32))
        hides = self.attention / self.layers / ring.size / 3
        exposed = (self.passes - 1) * max(0.0, forward - hides) + max(0.0, backward - 2 * hides)
        return self.layers * (exchange + (ring.size - 1) * exposed)

    def stage_messages(self) -> float:
        """Activations to the next stage, and their gradients back."""
        stream = self.tokens // self.mesh.tensor * self.model.hidden * BFLOAT16
        return 2 * self.between["pipeline"].send(stream)


def _slowest(stage: Stage) -> float:
    """Return the share of the model's products that the busiest rank of a pipeline computes."""
    model, parallel = stage.model, stage.parallel
    parts = pipeline.parts(model, pipeline.stage_count(parallel), stage.sequence_length)
    every = flops.per_token_causal(model, stage.sequence_length)
    head = 6.0 * model.vocab * model.hidden / every
    layer = (1 - head) / model.layers
    ranks = ([parts[at] for at in pipeline.stages_of(parallel, rank)] for rank in range(parallel.pipeline))
    return max(sum(len(part.layers) * layer + head * part.last for part in rank) for rank in ranks)


def _bubble(parallel: Parallel, micro_steps: int) -> float:
    """Return the idle time of a pipeline as a fraction of its busy time.

    (ranks - 1) / micro-batches for GPipe and 1F1B, less by the stages of a rank (Megatron-LM, arXiv
    2104.04473, section 2.2). A zero bubble leaves a third of it, and the V nothing, where forward and both
    halves of the backward take the same time (arXiv 2401.10241, tables 1 and 3).
    """
    if parallel.pipeline == 1 or parallel.schedule == "ZBVZeroBubble":
        return 0.0
    idle = (parallel.pipeline - 1) * parallel.pipeline / pipeline.stage_count(parallel) / micro_steps
    return idle / 3 if parallel.schedule in pipeline.ZERO_BUBBLE else idle


def _sharding(stage: Stage, mesh: Degrees, cluster: Cluster, micro_steps: int, compute: float) -> tuple[float, float]:
    """Return the seconds that gathering weights and reducing gradients add to a step.

    ZeRO 1 gathers and reduces once a step, 2 reduces in each micro-step, 3 also gathers in each forward and
    backward. Layers hide behind the compute of their pass; the outermost group has nothing to hide behind.
    """
    between = groups(mesh, cluster)
    first, layer, last = shares(stage.model, tensor=mesh.tensor, shard=mesh.shard * mesh.context)
    outer, layers = first + last, stage.model.layers / mesh.pipeline
    zero = stage.parallel.zero.stage

    def gather(part: Share) -> float:
        return between["fsdp"].gather(part.gathered * BFLOAT16)

    def reduce(part: Share) -> float:
        return between["fsdp"].gather(part.gathered * FLOAT32) + between["replicate"].reduce(part.padded * FLOAT32)

    forward, backward = compute / 3, compute * 2 / 3
    gathers = micro_steps if zero == 3 else 1
    # The schedules of a pipeline reduce once.
    reductions = micro_steps if zero > 1 and mesh.pipeline == 1 else 1
    weights = gathers * (max(0.0, layers * gather(layer) - forward) + gather(outer))
    again, back = (layers * gather(layer) if zero == 3 else 0.0), layers * reduce(layer)
    shown = max(0.0, again + back - backward) / (again + back) if again + back else 0.0
    if zero == 3:
        weights += gathers * (again * shown + gather(outer))
    return weights, reductions * (back * shown + reduce(outer))


def _held(stage: Stage, mesh: Degrees) -> int:
    """Return the parameters that a rank's optimizer updates."""
    first, layer, last = shares(stage.model, tensor=mesh.tensor, shard=mesh.shard * mesh.context)
    return (layer * stage.model.layers + first + last).held // mesh.pipeline
