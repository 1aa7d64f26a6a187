"""States under any layout, and checkpointers for them, for tests that save and load."""

import functools
import math
import pathlib
import uuid
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from internlm2_spec.config import Checkpoint
from internlm2_trainer import storage
from internlm2_trainer.checkpoint.checkpointer import Checkpointer
from internlm2_trainer.checkpoint.memory import Memory
from internlm2_trainer.storage import Store
from tests import servers

# name -> (pipeline, replicate, shard, context, tensor)
LAYOUTS = {
    "1": (1, 1, 1, 1, 1),
    "data 2": (1, 1, 2, 1, 1),
    "data 4": (1, 1, 4, 1, 1),
    "tensor 2": (1, 1, 1, 1, 2),
    "data 2 x tensor 2": (1, 1, 2, 1, 2),
    "replicate 2 x shard 2": (1, 2, 2, 1, 1),
    "pipeline 2 x data 2": (2, 1, 2, 1, 1),
    "context 2 x tensor 2": (1, 1, 1, 2, 2),
}

# Sizes that do not divide evenly, and the dimension that tensor parallelism cuts (None: every rank has all).
WEIGHTS: dict[str, tuple[tuple[int, ...], int | None]] = {
    "wqkv": ((10, 6), 0),
    "wo": ((6, 10), 1),
    "norm": ((7,), None),
    "embedding": ((14, 3), 0),
}


def full(name: str, salt: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(salt * 100 + sum(map(ord, name)))
    return torch.randn(WEIGHTS[name][0], generator=generator)


class Weights(torch.nn.Module):
    def __init__(self, names: list[str], salt: int, tensor_mesh: DeviceMesh) -> None:
        super().__init__()
        for name in names:
            dim = WEIGHTS[name][1]
            placement = Replicate() if dim is None else Shard(dim)
            weight = distribute_tensor(full(name, salt), tensor_mesh, [placement])
            self.register_parameter(name, torch.nn.Parameter(weight))


@functools.cache
def _mesh(pipeline: int, replicate: int, shard: int, tensor: int) -> DeviceMesh:
    """Return a mesh of the process's one group, opened once: each brings groups of its own, with threads."""
    dimensions = ("pipeline", "replicate", "shard", "tensor")
    return init_device_mesh("cpu", (pipeline, replicate, shard, tensor), mesh_dim_names=dimensions)


def sharded(layout: str, salt: int) -> dict[str, torch.Tensor]:
    """Return the state of a model and of one moment under a layout, made by FSDP2 over tensor parallelism.

    A pipeline stage holds some of the weights; FSDP shards over data and context ranks alike.
    """
    pipeline, replicate, shard, context, tensor = LAYOUTS[layout]
    mesh = _mesh(pipeline, replicate, shard * context, tensor)
    mine = list(WEIGHTS)[mesh.get_local_rank("pipeline") :: pipeline]
    weights = Weights(mine, salt, mesh["tensor"])
    fully_shard(weights, mesh=mesh["replicate", "shard"])
    state: dict[str, torch.Tensor] = {f"model.{name}": p.detach() for name, p in weights.named_parameters()}
    moments = {name.replace("model.", "optim.") + ".exp_avg": (p * 2).to(torch.bfloat16) for name, p in state.items()}
    return {**state, **moments, "optim.count": torch.tensor(salt)}


def world_of(layout: str) -> int:
    """Return the ranks of a layout."""
    return math.prod(LAYOUTS[layout])


def whole(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    return {name: (t.full_tensor() if isinstance(t, DTensor) else t).tolist() for name, t in state.items()}


def expected(salt: int) -> dict[str, Any]:
    weights = {name: full(name, salt) for name in WEIGHTS}
    moments = {f"optim.{name}.exp_avg": (w * 2).to(torch.bfloat16).tolist() for name, w in weights.items()}
    return {f"model.{name}": w.tolist() for name, w in weights.items()} | moments | {"optim.count": salt}


class KeyValues:
    """What one rank needs of a rendezvous store."""

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}

    def set(self, key: str, value: str, /) -> None:
        self._values[key] = value.encode()

    def get(self, key: str, /) -> bytes:
        return self._values[key]

    def check(self, keys: list[str], /) -> bool:
        return all(key in self._values for key in keys)

    def delete_key(self, key: str, /) -> bool:
        return self._values.pop(key, None) is not None


def checkpointer(
    store: Store,
    rank: int = 0,
    world: int = 1,
    *,
    attempt: int = 1,
    stage: str = "pretrain",
    keep: int = 5,
    keep_every: int = 0,
    memory: Memory | None = None,
    incarnation: str = "0",
) -> Checkpointer:
    kv = KeyValues() if world == 1 else dist.distributed_c10d._get_default_store()
    return Checkpointer(
        store,
        Checkpoint(
            store.url, every_steps=1, keep=keep, keep_every_steps=keep_every, memory_every_steps=int(bool(memory))
        ),
        stage=stage,
        attempt=attempt,
        rank=rank,
        world=world,
        kv=kv,
        memory=memory,
        incarnation=incarnation,
    )


def state_of(value: float) -> dict[str, torch.Tensor]:
    """Return a small state without a layout."""
    return {"model.w": torch.full((4, 3), float(value)), "optim.w.exp_avg": torch.full((4, 3), -float(value))}


def saved(store: Store, *steps: int, keep: int = 5, keep_every: int = 0, attempt: int = 1) -> None:
    checkpoints = checkpointer(store, keep=keep, keep_every=keep_every, attempt=attempt)
    for step in steps:
        checkpoints.save(step, state_of(step), {"step": step}, wait=True)


def restored(store: Store) -> tuple[float, int, tuple[tuple[int, str], ...]]:
    """Return value, step and damaged newer steps of what a new process would resume from."""
    state = state_of(0)
    result = checkpointer(store).restore(state)
    assert result is not None
    assert torch.equal(state["optim.w.exp_avg"], -state["model.w"])
    return value_of(state["model.w"]), result.step, result.passed_over


def value_of(tensor: torch.Tensor) -> float:
    """Return the one value that all elements have."""
    (value,) = set(tensor.flatten().tolist())
    return float(value)


def key_of(store: Store, step: int, ending: str) -> str:
    return next(e.key for e in store.list(f"pretrain/step-{step:08d}/") if e.key.endswith(ending))


def flip(store: Store, key: str) -> None:
    """Change one bit of an object."""
    body = bytearray(store.get(key).body)
    body[-1] ^= 1
    store.put(key, [memoryview(body)])


def a_store(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Store:
    """Return a new store of the kind that a fixture's parameter says, `file` or `s3`."""
    if request.param == "file":
        return storage.open_store(f"file://{tmp_path}")
    server: servers.S3Server = request.getfixturevalue("s3")
    return storage.open_store(server.url(f"checkpoints/{uuid.uuid4()}"))
