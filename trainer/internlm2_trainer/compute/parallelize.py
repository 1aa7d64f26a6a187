"""From a stage's sizes to what this rank computes: the part of the model, tensor parallel, compile, FSDP."""

import zlib
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from internlm2_spec import pipeline
from internlm2_spec.config import Stage
from internlm2_trainer.compute.context import open_attention
from internlm2_trainer.compute.mesh import Mesh
from internlm2_trainer.compute.model import Block, InternLM2, init_std
from internlm2_trainer.compute.tensor import TensorGroup, like, local

# Which dimension of a matrix is split over the tensor ranks, by the name of its module. Norms are replicated.
SPLIT_DIMENSION: Final = {"tok_embeddings": 0, "wqkv": 0, "wo": 1, "w1": 0, "w3": 0, "w2": 1, "output": 0}


@dataclass(frozen=True, slots=True)
class LocalModel:
    """What this rank has of the model: all of it, or its stages of the pipeline, by their number.

    A parameter has the name it has in the whole model, so checkpoints know nothing of stages.
    """

    parts: dict[int, InternLM2]
    dtype: torch.dtype  # of weights and activations in the passes; the shards themselves are fp32

    @property
    def whole(self) -> InternLM2:
        """The model of a run without a pipeline."""
        (model,) = self.parts.values()
        return model

    def parameters(self) -> dict[str, DTensor]:
        """Return this rank's parameters by name, in the order of the model."""
        named = (pair for part in self.parts.values() for pair in part.named_parameters())
        return {name: parameter for name, parameter in named if isinstance(parameter, DTensor)}


def build(stage: Stage, mesh: Mesh, device: torch.device, dtype: torch.dtype | None = None) -> LocalModel:
    """Return this rank's share of a stage's model with random weights, sharded over the mesh.

    Weights depend on the seed and the parameter's name only, so every layout starts from the same model.
    `dtype` is what the passes compute in: without it bf16 on a GPU and fp32 elsewhere.
    """
    dtype = dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
    parts = pipeline.parts(stage.model, pipeline.stage_count(stage.parallel), stage.sequence_length)
    mine = pipeline.stages_of(stage.parallel, mesh.pipeline.get_local_rank())
    return LocalModel({at: _build_part(stage, parts[at], mesh, device, dtype) for at in mine}, dtype)


def _build_part(stage: Stage, part: pipeline.Part, mesh: Mesh, device: torch.device, dtype: torch.dtype) -> InternLM2:
    with torch.device("meta"):
        model = InternLM2(stage, tensor_group(mesh), open_attention(mesh, device), part)
    _split_tensors(model, mesh)
    if stage.parallel.compile:
        compile_layers(model)
    _shard(model, mesh, zero_stage=stage.parallel.zero.stage, dtype=dtype)
    _allocate(model, device)
    initialize(model, stage.seed)
    return model


def tensor_group(mesh: Mesh) -> TensorGroup:
    return TensorGroup(mesh.tensor.get_group(), mesh.tensor.get_local_rank(), mesh.degrees.tensor, mesh.kv_copies)


def _split_tensors(model: nn.Module, mesh: Mesh) -> None:
    """Replace each parameter by a DTensor over the tensor ranks, at degree 1 too: one kind of state."""
    for path, module in model.named_modules():
        if isinstance(weight := module._parameters.get("weight"), nn.Parameter):
            dimension = SPLIT_DIMENSION.get(path.rsplit(".", 1)[-1])
            placement = Replicate() if dimension is None else Shard(dimension)
            share = weight if dimension is None else weight.chunk(mesh.degrees.tensor, dimension)[0]
            split = DTensor.from_local(share.detach().contiguous(), mesh.tensor, [placement], run_check=False)
            module.weight = _parameter(split)


def _parameter(tensor: DTensor) -> nn.Parameter:
    """Return a new DTensor as the parameter that `nn.Parameter` makes of it.

    `nn.Parameter` detaches it first, and DTensor searches placements for an operation on each shape anew: 20 ms.
    """
    tensor.requires_grad_()._is_param = True
    assert isinstance(tensor, nn.Parameter)
    return tensor


def _allocate(model: nn.Module, device: torch.device) -> None:
    """Give each meta parameter memory: `to_empty` without DTensor's search, as above."""

    def empty(parameter: Tensor) -> Tensor:
        assert isinstance(parameter, DTensor)
        return like(parameter, torch.empty_like(local(parameter), device=device))

    model._apply(empty)


def compile_layers(model: InternLM2, backend: str = "inductor") -> None:
    """Compile what is before and after each layer's attention. Layers are alike, so two graphs serve all of them."""
    for block in model.model.layers.values():
        assert isinstance(block, Block)
        # Attention is a kernel already, or messages, which no graph can hold; and what it computes differs with the
        # documents of every batch, for which a graph around it would be compiled again.
        block.attention.attend = torch.compiler.disable(block.attention.attend)
        block.compute = torch.compile(block.compute, dynamic=False, backend=backend)


def _shard(model: InternLM2, mesh: Mesh, *, zero_stage: int, dtype: torch.dtype) -> None:
    if mesh.fsdp.size() == 1 and dtype == torch.float32:
        return  # nobody to share with and nothing to cast: FSDP would only copy
    # Shards stay fp32, and so does what AdamW sees: the dtype is that of the copies the passes gather. Nothing is
    # cast on the way in, for activations have the weights' dtype already and rotary angles need theirs.
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for unit in (*model.model.layers.values(), model):
        sharded = fully_shard(unit, mesh=mesh.fsdp, mp_policy=policy, reshard_after_forward=zero_stage == 3)
        # The loss is divided by the global token count, so gradients add up. gloo has no scaled sum,
        # which a divide factor alone would ask for.
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)


def set_micro_step(model: nn.Module, *, zero_stage: int, last: bool) -> None:
    """Prepare the next micro-step: what is kept and what is reduced makes the ZeRO stage.

    Stage 1 reduces gradients once, after the last micro-step; 2 after each; 3 also drops weights between.
    """
    for unit in model.modules():
        if isinstance(unit, FSDPModule):
            unit.set_is_last_backward(last)
            unit.set_reshard_after_backward(last or zero_stage == 3, recurse=False)
            unit.set_requires_gradient_sync(last or zero_stage > 1, recurse=False)


@torch.no_grad()
def initialize(model: nn.Module, seed: int) -> None:
    """Fill this rank's shard of every parameter, as if the whole had been drawn and then sharded."""
    for name, parameter in model.named_parameters():
        assert isinstance(parameter, DTensor)
        std = init_std(name)
        shard = local(parameter)
        if std is None:
            shard.fill_(1.0)
            continue
        generator = torch.Generator(shard.device).manual_seed((seed << 32) + zlib.crc32(name.encode()))
        whole = torch.empty(parameter.shape, device=shard.device).normal_(0.0, std, generator=generator)
        shard.copy_(_mine(whole, parameter))


def _mine(whole: Tensor, parameter: DTensor) -> Tensor:
    sizes, offsets = compute_local_shape_and_global_offset(parameter.shape, parameter.device_mesh, parameter.placements)
    for dimension, (size, offset) in enumerate(zip(sizes, offsets, strict=True)):
        whole = whole.narrow(dimension, offset if size else 0, size)
    return whole
