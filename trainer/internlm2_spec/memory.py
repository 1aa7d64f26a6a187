"""What one rank holds in memory, before it runs.

Weights, gradients and moments are exact to the byte. Activations are counted as `activations` says. The
rest is what FSDP2 and the backward pass hold for a moment. The peak is the largest of three moments of a
step: at the loss, in the first backward layer, and when the last gradients are reduced. What an allocator
loses and what a driver takes is not part of it.

Samples are taken to be one document each; a mask for several comes on top where attention needs one.
"""

from dataclasses import dataclass, fields

from internlm2_spec import layout
from internlm2_spec.activations import CPU, CUDA, FLOAT32, Activations, Precision
from internlm2_spec.config import Stage
from internlm2_spec.layout import Degrees
from internlm2_spec.parameters import Share, shares

__all__ = ["CPU", "CUDA", "Memory", "Owned", "Precision", "of_stage", "owned"]


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


def owned(stage: Stage, mesh: Degrees, *, place: int = 0) -> Owned:
    """Return the state of the rank at `place` among the FSDP ranks, exact to the byte; place 0 has the most.

    Moments have the size of what the rank holds; weights and gradients lie in padded storage.
    """
    layer, outer = _shares(stage, mesh, place)
    own = layer * stage.model.layers + outer
    return Owned(own.padded * FLOAT32, own.padded * FLOAT32, own.held * 2 * FLOAT32)


def of_stage(stage: Stage, world: int, precision: Precision) -> Memory:
    """Return what the fullest rank of a stage holds at its peak.

    Raises:
        Refused: the stage has no legal layout on `world` ranks.
    """
    mesh = layout.degrees(stage.parallel, world)
    rank = _Rank(stage, mesh, layout.accumulation(stage, world), precision)
    return max((rank.at_loss(), rank.in_backward(), rank.at_end()), key=lambda memory: memory.total)


def saved(stage: Stage, mesh: Degrees, precision: Precision) -> int:
    """Return the bytes that one micro-batch leaves for its backward pass."""
    one, layers = _activations(stage, mesh, precision), stage.model.layers
    return layers * one.saved(stage.parallel.recompute) + one.rotary + one.lookup + one.head


def _activations(stage: Stage, mesh: Degrees, precision: Precision) -> Activations:
    tokens = stage.parallel.micro_batch * stage.sequence_length // mesh.context
    return Activations(stage.model, tokens, mesh.tensor, precision)


def _shares(stage: Stage, mesh: Degrees, place: int) -> tuple[Share, Share]:
    return shares(stage.model, tensor=mesh.tensor, shard=mesh.shard, place=place)


class _Rank:
    """One rank at the moments of its last micro-step that may be the peak."""

    def __init__(self, stage: Stage, mesh: Degrees, micro_steps: int, precision: Precision) -> None:
        self.own = owned(stage, mesh)
        self.layer, self.outer = _shares(stage, mesh, 0)
        self.whole = self.layer * stage.model.layers + self.outer
        self.zero, self.recompute = stage.parallel.zero.stage, stage.parallel.recompute
        self.sharded, self.accumulates = mesh.shard > 1, micro_steps > 1
        self.bytes = precision.compute
        self.one = _activations(stage, mesh, precision)
        self.saved = saved(stage, mesh, precision)

    def at_loss(self) -> Memory:
        """The forward pass is saved, and the logits are there."""
        return self._memory(
            gathered=self.outer if self.zero == 3 else self.whole,
            buffer=self.layer.gathered * self.bytes,
            activations=self.saved,
            working=self.one.loss,
        )

    def in_backward(self) -> Memory:
        """The last layer computes its gradients; the head's wait for the embedding's."""
        return self._memory(
            gathered=self.outer + self.layer * 2 if self.zero == 3 else self.whole,
            unreduced=(self.outer.gathered // 2 + self.layer.gathered) * self.bytes,
            buffer=self.layer.gathered * self.bytes,
            activations=self.saved - self.one.head,
            working=self.one.backward(self.recompute),
        )

    def at_end(self) -> Memory:
        """The last gradients, those of embedding and head, are packed for their reduction."""
        return Memory(
            self.own.weights, self.own.gradients, self.own.optimizer,
            gathered=self.outer.gathered * self.bytes,
            unreduced=self.outer.gathered * (FLOAT32 if self.zero == 1 and self.accumulates else self.bytes),
            activations=0, working=0,
            buffers=self.outer.gathered * FLOAT32,
        )  # fmt: skip

    def _memory(self, *, gathered: Share, buffer: int, activations: int, working: int, unreduced: int = 0) -> Memory:
        """Add what earlier micro-steps left: whole gradients under ZeRO 1, else reduced ones and the last message."""
        reduced, whole = self.accumulates and self.zero > 1, self.accumulates and self.zero == 1
        gathers = self.sharded and (self.zero == 3 or not self.accumulates)
        return Memory(
            self.own.weights, self.own.gradients * reduced, self.own.optimizer,
            gathered=gathered.gathered * self.bytes,
            unreduced=unreduced + self.whole.gathered * FLOAT32 * whole,
            activations=activations, working=working,
            buffers=buffer * gathers + self.outer.gathered * FLOAT32 * reduced,
        )  # fmt: skip
