"""What one rank holds in memory, before it runs.

Weights, gradients and moments are exact to the byte. Activations are counted as `activations` says. The
rest is what FSDP2 and the backward pass hold for a moment. The peak is the largest of three moments of a
step: at the loss, in the first backward layer, and when the last gradients are reduced. What an allocator
loses and what a driver takes is not part of it.

Samples are taken to be one document each. More of them cost nothing: attention has no mask.
"""

from dataclasses import dataclass, fields

from internlm2_spec import layout, pipeline
from internlm2_spec.activations import CPU, CUDA, FLOAT32, Activations, Precision
from internlm2_spec.config import Parallel, Stage
from internlm2_spec.layout import Degrees
from internlm2_spec.parameters import Share, shares
from internlm2_spec.pipeline import Part

__all__ = ["CPU", "CUDA", "Memory", "Owned", "Precision", "in_flight", "of_rank", "of_stage", "owned", "saved"]


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of one rank at the peak of a step, by what they are."""

    weights: int  # fp32 shards
    gradients: int  # reduced, fp32 shards
    optimizer: int  # two fp32 moments
    gathered: int  # weights that FSDP has put together to compute with
    unreduced: int  # gradients before their reduction
    activations: int  # saved for the backward pass
    working: int  # the logits at the loss, or one layer's backward
    buffers: int  # messages of FSDP

    @property
    def total(self) -> int:
        return sum(self.parts().values())

    @property
    def largest(self) -> str:
        parts = self.parts()
        return max(parts, key=lambda name: parts[name])

    def parts(self) -> dict[str, int]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True, slots=True)
class Owned:
    """Bytes of one rank's own state: fp32 weights, reduced gradients and both moments."""

    weights: int
    gradients: int
    optimizer: int


def owned(stage: Stage, mesh: Degrees, *, pipeline_rank: int = 0, place: int = 0) -> Owned:
    """Return the state of the rank at `place` among the FSDP ranks, exact to the byte; place 0 has the most.

    Moments have the size of what the rank holds; weights and gradients lie in padded storage.
    """
    own = _Held.of(stage, mesh, pipeline_rank, place).everything
    return Owned(own.padded * FLOAT32, own.padded * FLOAT32, own.held * 2 * FLOAT32)


def of_stage(stage: Stage, world: int, precision: Precision) -> Memory:
    """Return what the fullest rank of a stage holds at its peak.

    Raises:
        Refused: the stage has no legal layout on `world` ranks.
    """
    return max(
        (of_rank(stage, world, precision, rank) for rank in range(stage.parallel.pipeline)),
        key=lambda memory: memory.total,
    )


def of_rank(stage: Stage, world: int, precision: Precision, pipeline_rank: int) -> Memory:
    """Return what the ranks at one place of the pipeline hold at their peak.

    Raises:
        Refused: the stage has no legal layout on `world` ranks.
    """
    mesh, micro_steps = layout.degrees(stage.parallel, world), layout.accumulation(stage, world)
    rank = _Rank(stage, mesh, micro_steps, precision, pipeline_rank)
    return max(rank.at_loss(), rank.in_backward(), rank.at_end(), key=lambda memory: memory.total)


def saved(stage: Stage, mesh: Degrees, precision: Precision, part: Part) -> int:
    """Return the bytes that one micro-batch leaves in a part of the model for its backward pass."""
    one, parallel = _activations(stage, mesh, precision), stage.parallel
    again = len(layout.recomputed(stage.model.layers, parallel.recompute_fraction) & set(part.layers))
    layers = again * one.saved(parallel.recompute) + (len(part.layers) - again) * one.saved("None")
    # A stage of a pipeline keeps what it gave to the next one.
    ends = one.lookup * part.first + (one.head if part.last else one.stream)
    return layers + one.rotary + ends


def in_flight(parallel: Parallel, pipeline_rank: int, micro_steps: int) -> int:
    """Return how many passes a rank has done forward and not yet backward at most, counting each of its stages.

    As torch orders them: GPipe goes forward with all micro-batches first; the others go back as soon as they
    can, which the first ranks can last. A zero bubble keeps a pass until the gradients of weights are computed.
    """
    ranks, per_rank = parallel.pipeline, _stages_of_a_rank(parallel)
    later = ranks - 1 - pipeline_rank
    a_round = micro_steps // max(1, micro_steps // ranks)
    most = {
        "GPipe": micro_steps,
        "1F1B": later + 1,
        "Interleaved1F1B": (per_rank - 1) * a_round + 2 * later + 1,
        "InterleavedZeroBubble": (per_rank - 1) * a_round + ranks,
        "ZBVZeroBubble": min(ranks + later, micro_steps) + min(pipeline_rank + 1, micro_steps),
    }[parallel.schedule]
    return min(most, per_rank * micro_steps)


def _stages_of_a_rank(parallel: Parallel) -> int:
    return pipeline.stage_count(parallel) // parallel.pipeline


def _activations(stage: Stage, mesh: Degrees, precision: Precision) -> Activations:
    tokens = stage.parallel.micro_batch * stage.sequence_length // mesh.context
    return Activations(stage.model, tokens, stage.parallel, precision)


@dataclass(frozen=True, slots=True)
class _Held:
    """A rank's shares: of one layer, of how many layers, and of the outermost FSDP groups, embedding and head."""

    parts: tuple[Part, ...]
    layer: Share
    outer: Share
    head: Share

    @classmethod
    def of(cls, stage: Stage, mesh: Degrees, pipeline_rank: int, place: int = 0) -> "_Held":
        every = pipeline.parts(stage.model, pipeline.stage_count(stage.parallel), stage.sequence_length)
        parts = tuple(every[at] for at in pipeline.stages_of(stage.parallel, pipeline_rank))
        first, layer, last = shares(stage.model, tensor=mesh.tensor, shard=mesh.shard * mesh.context, place=place)
        head = last * any(part.last for part in parts)
        return cls(parts, layer, first * any(part.first for part in parts) + head, head)

    @property
    def layers(self) -> Share:
        return self.layer * sum(len(part.layers) for part in self.parts)

    @property
    def everything(self) -> Share:
        return self.layers + self.outer


class _Rank:
    """One rank at the moments of its last micro-step that may be the peak.

    Schedules of a pipeline leave gradients unreduced and weights gathered until the last micro-batch, at every
    stage of ZeRO.
    """

    def __init__(self, stage: Stage, mesh: Degrees, micro_steps: int, precision: Precision, pipeline_rank: int) -> None:
        self.own = owned(stage, mesh, pipeline_rank=pipeline_rank)
        self.held = _Held.of(stage, mesh, pipeline_rank)
        # Ranks that share no weights and cast none run without FSDP: each computes with the weights it owns.
        self.alone = mesh.replicate * mesh.shard * mesh.context == 1 and precision.compute == FLOAT32
        self.zero = 1 if mesh.pipeline > 1 or self.alone else stage.parallel.zero.stage
        self.recompute = stage.parallel.recompute if stage.parallel.recompute_fraction else "None"
        self.sharded, self.accumulates = mesh.shard * mesh.context > 1, micro_steps > 1
        # Until a rank has gone backward for the first time nothing is left of earlier micro-steps.
        alive = in_flight(stage.parallel, pipeline_rank, micro_steps)
        self.after_others = micro_steps * _stages_of_a_rank(stage.parallel) > alive
        self.bytes = precision.compute
        self.one = _activations(stage, mesh, precision)
        passes = [saved(stage, mesh, precision, part) for part in self.held.parts]
        self.saved = sum(passes) * alive // len(passes)

    def at_loss(self) -> Memory:
        """The forward pass is saved, and the logits are there."""
        return self._memory(
            gathered=self.held.outer if self.zero == 3 else self.held.everything,
            buffer=self.held.layer.gathered * self.bytes,
            activations=self.saved,
            working=self.one.loss if self._has_head else 0,
        )

    def in_backward(self) -> Memory:
        """The last layer computes its gradients; the head's wait for the embedding's."""
        return self._memory(
            gathered=self.held.outer + self.held.layer * 2 if self.zero == 3 else self.held.everything,
            unreduced=(self.held.head.gathered + self.held.layer.gathered) * self.bytes,
            buffer=self.held.layer.gathered * self.bytes,
            activations=self.saved - (self.one.head if self._has_head else 0),
            working=self.one.backward(self.recompute),
        )

    def at_end(self) -> Memory:
        """The last gradients, those of embedding and head, are packed for their reduction, where there is one."""
        last = max(self.held.outer, self.held.layer, key=lambda share: share.gathered).gathered * (not self.alone)
        return Memory(
            self.own.weights, self.own.gradients, self.own.optimizer,
            gathered=last * self.bytes,
            unreduced=last * (FLOAT32 if self.zero == 1 and self.accumulates else self.bytes),
            activations=0, working=0,
            buffers=last * FLOAT32,
        )  # fmt: skip

    @property
    def _has_head(self) -> bool:
        return self.held.head.gathered > 0

    def _memory(self, *, gathered: Share, buffer: int, activations: int, working: int, unreduced: int = 0) -> Memory:
        """Add what earlier micro-steps left: whole gradients under ZeRO 1, else reduced ones and the last message."""
        reduced, whole = self.after_others and self.zero > 1, self.after_others and self.zero == 1
        gathers = self.sharded and (self.zero == 3 or not self.accumulates)
        return Memory(
            self.own.weights, self.own.gradients * reduced, self.own.optimizer,
            gathered=gathered.gathered * self.bytes * (not self.alone),
            unreduced=unreduced + self.held.everything.gathered * FLOAT32 * whole,
            activations=activations, working=working,
            buffers=buffer * gathers + self.held.outer.gathered * FLOAT32 * reduced,
        )  # fmt: skip
