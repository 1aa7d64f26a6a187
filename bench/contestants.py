"""Whole training steps of one model on one device: the trainer's, and those of `transformers`' Llama of the same shape.

A step is forward, backward, clip and fused AdamW over random tokens. Both compute in bf16 on a GPU and in fp32 on a
CPU. torch and NumPy are enough for ours; `transformers` is imported by its own contestants alone.
"""

import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import HashStore

from internlm2_spec import config
from internlm2_trainer.compute import parallelize
from internlm2_trainer.compute.mesh import Mesh, open_mesh
from internlm2_trainer.compute.optim import AdamW
from internlm2_trainer.compute.parallelize import LocalModel

Step = Callable[[Tensor], None]  # tokens [B, S] int64
OPTIMIZER: Final = config.Optimizer()


@dataclass(frozen=True, slots=True)
class Work:
    """What every contestant of a comparison computes in a step."""

    model: config.Model
    sequence_length: int
    batch: int = 1
    recompute: config.Recompute = "None"

    @property
    def tokens(self) -> int:
        return self.batch * self.sequence_length

    def stage(self, *, compile: bool = False) -> config.Stage:
        parallel = config.Parallel(micro_batch=self.batch, recompute=self.recompute, compile=compile)
        return config.Stage(
            name="bench", model=self.model, data=config.Data("file:///unused"),
            checkpoint=config.Checkpoint("file:///unused"), sequence_length=self.sequence_length,
            global_batch_tokens=self.tokens, steps=1, optimizer=OPTIMIZER, parallel=parallel,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Place:
    """A device, and the mesh of a run on it alone: one for all contestants, for NCCL keeps memory for each."""

    device: torch.device
    mesh: Mesh


@dataclass(frozen=True, slots=True)
class Contestant:
    """One way to train. `prepare` allocates everything and returns its step."""

    name: str
    prepare: Callable[[Work, Place], Step]


def contestants() -> list[Contestant]:
    """Return all that can run here, ours first."""
    found = [Contestant("internlm2", ours), Contestant("internlm2, compiled", ours_compiled)]
    if importlib.util.find_spec("transformers") is not None:
        # As its Trainer does with bf16=True: weights and moments in fp32, as ours.
        found.append(Contestant("transformers", theirs))
        # A third of the memory, and updates that bf16 rounds away.
        found.append(Contestant("transformers, bf16 weights", theirs_in_bf16))
        if importlib.util.find_spec("flash_attn") is not None:
            found.append(Contestant("transformers, flash_attention_2", theirs_with_flash))
    return found


@contextmanager
def alone(device: torch.device) -> Iterator[Place]:
    """Join a group of this process alone, NCCL's on a GPU."""
    # cuBLAS reads it when it starts: before the first product.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    backend = "gloo" if device.type == "cpu" else "nccl"
    dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
    try:
        yield Place(device, open_mesh(config.Model(1, 1, 1, 1, 1, 1), config.Parallel(), device.type))
    finally:
        torch.use_deterministic_algorithms(False)
        dist.destroy_process_group()


def build(stage: config.Stage, place: Place, dtype: torch.dtype | None = None) -> tuple[LocalModel, AdamW]:
    """Return the trainer's model and optimizer as a rank alone builds them, with its deterministic algorithms on."""
    torch.use_deterministic_algorithms(place.device.type == "cuda", warn_only=True)
    model = parallelize.build(stage, place.mesh, place.device, dtype)
    return model, AdamW(model.parameters(), stage.optimizer)


def ours(work: Work, place: Place) -> Step:
    return _ours(work.stage(), place)


def ours_compiled(work: Work, place: Place) -> Step:
    # Graphs for other lengths count against the compiler's limit, after which it would give up without a word.
    torch.compiler.reset()
    return _ours(work.stage(compile=True), place)


def _ours(stage: config.Stage, place: Place) -> Step:
    return step_of(stage, place.device, *build(stage, place))


def step_of(stage: config.Stage, device: torch.device, model: LocalModel, optimizer: AdamW) -> Step:
    """Return a whole step of what was built, its one all-reduce included."""
    positions = torch.arange(stage.sequence_length, device=device).expand(stage.parallel.micro_batch, -1)
    documents = torch.zeros_like(positions)

    def step(tokens: Tensor) -> None:
        labels = next_tokens(tokens)
        loss = model.whole(tokens, positions, documents, labels) / (labels >= 0).sum()
        loss.backward()
        totals = optimizer.reduce(loss, copies=1, stop=False)
        optimizer.step(OPTIMIZER.lr, totals.gradient_norm)

    return step


def next_tokens(tokens: Tensor) -> Tensor:
    """Return each token's label, as transformers shifts them: the last has none."""
    return torch.cat((tokens[:, 1:], torch.full_like(tokens[:, :1], -100)), dim=1)


def theirs(work: Work, place: Place) -> Step:
    return _theirs(work, place.device, torch.float32, "sdpa")


def theirs_in_bf16(work: Work, place: Place) -> Step:
    return _theirs(work, place.device, torch.bfloat16, "sdpa")


def theirs_with_flash(work: Work, place: Place) -> Step:
    return _theirs(work, place.device, torch.bfloat16, "flash_attention_2")


def _theirs(work: Work, device: torch.device, weights: torch.dtype, attention: str) -> Step:
    from transformers import LlamaForCausalLM

    torch.use_deterministic_algorithms(False)
    with device:
        model: Any = LlamaForCausalLM(llama(work, attention)).to(weights).train()
    if work.recompute == "Full":
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=OPTIMIZER.lr, betas=(OPTIMIZER.beta1, OPTIMIZER.beta2),
        weight_decay=OPTIMIZER.weight_decay, fused=True,
    )  # fmt: skip
    mixed = device.type == "cuda" and weights == torch.float32

    def step(tokens: Tensor) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
            loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIMIZER.grad_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def llama(work: Work, attention: str) -> Any:
    """Return the configuration of a Llama of the same shape."""
    from transformers import LlamaConfig

    sizes = work.model
    return LlamaConfig(
        vocab_size=sizes.vocab, hidden_size=sizes.hidden, intermediate_size=sizes.ffn,
        num_hidden_layers=sizes.layers, num_attention_heads=sizes.heads, num_key_value_heads=sizes.kv_heads,
        max_position_embeddings=work.sequence_length, rms_norm_eps=1e-5, tie_word_embeddings=False,
        attn_implementation=attention, use_cache=False,
    )  # fmt: skip
