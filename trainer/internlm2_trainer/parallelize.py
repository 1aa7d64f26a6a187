"""From a model's sizes to a sharded model on this rank: tensor parallel, recompute, then FSDP."""

import zlib
from typing import Final

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from internlm2_spec.config import Refused, Stage
from internlm2_spec.layout import accumulation, check_model
from internlm2_trainer.context import open_attention
from internlm2_trainer.mesh import Mesh
from internlm2_trainer.model import InternLM2, init_std
from internlm2_trainer.tensor import TensorGroup, local

# Which dimension of a matrix is split over the tensor ranks, by the name of its module. Norms are replicated.
SPLIT_DIMENSION: Final = {"tok_embeddings": 0, "wqkv": 0, "wo": 1, "w1": 0, "w3": 0, "w2": 1, "output": 0}


def build(stage: Stage, mesh: Mesh, device: torch.device) -> InternLM2:
    """Return the model of a stage with random weights, sharded over the mesh.

    Weights depend on the seed and the parameter's name only, so every layout starts from the same model.

    Raises:
        Refused: the model's sizes do not fit the layout.
    """
    check_model(stage.model, stage.parallel, stage.sequence_length)
    if stage.parallel.micro_batch < 1:
        raise Refused("parallel.microBatch", wrong=f"{stage.parallel.micro_batch} is too small", right="use 1 or more")
    accumulation(stage, mesh.degrees.world)  # refuses a batch that does not divide
    with torch.device("meta"):
        recompute = stage.parallel.recompute == "Full"
        attend = open_attention(mesh, device)
        model = InternLM2(stage.model, tensor_group(mesh), attend, rope_base=stage.rope_base, recompute=recompute)
    _split_tensors(model, mesh)
    _shard(model, mesh, zero_stage=stage.parallel.zero.stage, device=device)
    model.to_empty(device=device)
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
            module.weight = nn.Parameter(split)


def _shard(model: InternLM2, mesh: Mesh, *, zero_stage: int, device: torch.device) -> None:
    policy = MixedPrecisionPolicy()
    if device.type == "cuda":
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for unit in (*model.model.layers, model):
        fully_shard(unit, mesh=mesh.fsdp, mp_policy=policy, reshard_after_forward=zero_stage == 3)
        # The loss is divided by the global token count, so gradients add up. gloo has no scaled sum,
        # which a divide factor alone would ask for.
        unit.set_gradient_divide_factor(1.0)
        unit.set_force_sum_reduction_for_comms(True)


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
