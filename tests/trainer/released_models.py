"""Small models as checkpoints and as released folders, for tests that move weights."""

import json
from collections.abc import Iterable

import torch

from internlm2_spec.architecture import Architecture
from internlm2_spec.config import Model
from internlm2_trainer import storage
from internlm2_trainer.storage import Store
from internlm2_trainer.weights import naming
from tests.trainer.states import checkpointer

SMALL = Architecture(Model(layers=2, hidden=32, heads=4, kv_heads=2, ffn=48, vocab=96), 1e6, 64, 2.0)
REWARD = Architecture(SMALL.model, 1e6, 64, reward_token=9)


def random_weights(architecture: Architecture, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return every parameter by its name in a checkpoint: normal, and around 1 for norms."""
    generator = torch.Generator().manual_seed(seed)
    return {
        f"model.{name}": torch.randn(shape, generator=generator) * 0.1 + (1.0 if "norm" in name else 0.0)
        for name, shape in naming.own_shapes(architecture).items()
    }


def saved_model(url: str, architecture: Architecture = SMALL, seed: int = 0) -> dict[str, torch.Tensor]:
    """Publish step 1 of stage `pretrain` with random weights and return them."""
    weights = random_weights(architecture, seed)
    extra = {"tokens": 0, "updates": 0, **architecture.to_extra()}
    checkpointer(storage.open_store(url)).save(1, weights, extra, wait=True)
    return weights


def files(store: Store) -> dict[str, bytes]:
    """Return every object of a store."""
    return {entry.key: store.get(entry.key).body for entry in store.list("")}


def read_tensors(bodies: Iterable[bytes]) -> dict[str, torch.Tensor]:
    """Read safetensors files with the library of the format, not with ours."""
    import safetensors.torch

    return {name: tensor for body in bodies for name, tensor in safetensors.torch.load(body).items()}


def shards_of(folder: dict[str, bytes]) -> list[bytes]:
    return [body for name, body in sorted(folder.items()) if name.endswith(".safetensors")]


def rewrite(store: Store, name: str, **changes: object) -> None:
    """Change fields of a JSON object; `...` takes one away."""
    data = json.loads(store.get(name).body) | changes
    kept = {key: value for key, value in data.items() if value is not ...}
    store.put(name, [memoryview(json.dumps(kept).encode())])
