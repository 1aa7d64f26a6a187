"""The micro-batches of one step through the stages of a pipeline, by torch's schedules.

Only activations and their gradients travel: every rank of a pipeline reads the same samples, so that
positions and documents are there at every stage and labels at the last.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from internlm2_spec import layout, pipeline
from internlm2_spec.config import Stage
from internlm2_trainer.compute.mesh import Mesh
from internlm2_trainer.compute.model import InternLM2
from internlm2_trainer.compute.parallelize import LocalModel

# tokens, positions, documents, labels: each [B, S] int64
MicroBatch = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class Pipeline:
    """This rank's stages and the order in which micro-batches pass them."""

    schedule: Any  # a schedule of torch.distributed.pipelining, which has no public base class
    device: torch.device

    def forward_backward(self, batches: Sequence[MicroBatch], labels: Tensor) -> Tensor:
        """Accumulate gradients of the loss over all `labels`, and return it: 0 on a rank without the head."""
        losses: list[Tensor] = []
        self.schedule.step(
            arg_mbs=[(tokens,) for tokens, *_ in batches],
            kwarg_mbs=[{"positions": p, "documents": d, "labels": targets} for _, p, d, targets in batches],
            target_mbs=[targets for *_, targets in batches],
            losses=losses,
            return_outputs=False,
            loss_kwargs={"labels": labels},
        )
        return sum((loss.detach() for loss in losses), torch.zeros((), device=self.device))


def open_pipeline(stage: Stage, mesh: Mesh, model: LocalModel, device: torch.device) -> Pipeline | None:
    """Return the pipeline that this rank is a member of; None for a run without one."""
    if stage.parallel.pipeline == 1:
        return None
    # Here, because it imports torch.export, which nothing else needs: seconds at the start of every other run.
    from torch.distributed.pipelining import PipelineStage
    from torch.distributed.pipelining.schedules import PipelineScheduleMulti, get_schedule_class

    count, group = pipeline.stage_count(stage.parallel), mesh.pipeline.get_group()
    stages = []
    for number, part in model.parts.items():
        # Shapes that are told need no trial pass to find them out.
        taken, given = _shapes(stage, part, model.dtype)
        stages.append(PipelineStage(part, number, count, device, input_args=taken, output_args=given, group=group))
    kind = get_schedule_class(stage.parallel.schedule)
    held: Any = stages if issubclass(kind, PipelineScheduleMulti) else stages[0]
    micro_steps = layout.accumulation(stage, mesh.degrees.world)
    # The loss is a sum, divided by the number of labels: nothing is left to scale.
    return Pipeline(kind(held, micro_steps, loss_fn=_share_of_mean, scale_grads=False), device)


def _shapes(stage: Stage, part: InternLM2, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return what a part takes and gives for one micro-batch, as tensors without storage."""
    parallel = stage.parallel
    batch, sequence = parallel.micro_batch, stage.sequence_length // parallel.context
    tokens = torch.empty(batch, sequence, dtype=torch.int64, device="meta")
    between = torch.empty(batch, sequence // parallel.tensor, stage.model.hidden, dtype=dtype, device="meta")
    loss = torch.empty((), device="meta")
    first, last = part.model.tok_embeddings is not None, part.output is not None
    return tokens if first else between.requires_grad_(), (loss if last else between).requires_grad_()


def _share_of_mean(loss: Tensor, _: Tensor, *, labels: Tensor) -> Tensor:
    """Turn the loss summed over a micro-batch into its share of the mean over all labels."""
    return loss / labels
