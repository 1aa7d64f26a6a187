"""Folders that are not what they should be: refused by name before a byte of a tensor moves."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from internlm2_spec.config import Refused
from internlm2_trainer import storage
from internlm2_trainer.storage import Store
from internlm2_trainer.weights import released
from tests.trainer.released_models import SMALL, random_weights, rewrite

FIRST, INDEX = "model-00001-of-00002.safetensors", "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path: Path) -> Store:
    """Return a folder of two files that another library wrote."""
    import safetensors.torch

    from internlm2_trainer.weights import huggingface

    named = {name.removeprefix("model."): tensor for name, tensor in random_weights(SMALL).items()}
    cut = len(named) // 2
    names = dict.fromkeys(list(named)[:cut], FIRST) | dict.fromkeys(list(named)[cut:], FIRST.replace("1-", "2-"))
    for file in set(names.values()):
        held = {name: named[name] for name in names if names[name] == file}
        (tmp_path / file).write_bytes(safetensors.torch.save(held, {"format": "pt"}))
    (tmp_path / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": names}))
    (tmp_path / "config.json").write_text(json.dumps(huggingface.config_json(SMALL, "internlm2", "float32")))
    return storage.open_store(f"file://{tmp_path}")


def test_a_folder_of_another_library_is_read_as_our_tensors(folder: Store) -> None:
    opened = released.open_folder(folder)

    assert opened.described.architecture == SMALL
    assert opened.manifest.tensors.keys() == random_weights(SMALL).keys()
    assert sum(map(opened.bytes, opened.manifest.tensors)) == sum(t.numel() * 4 for t in random_weights(SMALL).values())


def test_a_table_of_frequencies_beside_the_weights_is_left_out(folder: Store) -> None:
    repacked(folder, lambda tensors: tensors | {"model.layers.0.attention.rotary_emb.inv_freq": torch.ones(4)})

    assert "inv_freq" not in str(released.open_folder(folder).manifest.tensors.keys())


def cut(folder: Store) -> None:
    folder.put(FIRST, [memoryview(folder.get(FIRST).body[:-8])])


def no_header(folder: Store) -> None:
    folder.put(FIRST, [memoryview(b"version https://git-lfs.github.com/spec/v1")])


def broken_header(folder: Store) -> None:
    body = bytearray(folder.get(FIRST).body)
    body[10:14] = b"!!!!"
    folder.put(FIRST, [memoryview(body)])


def overlong(folder: Store) -> None:
    body = folder.get(FIRST).body
    folder.put(FIRST, [memoryview(body.replace(b'"shape":[32]', b'"shape":[99]', 1))])


def repacked(folder: Store, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    import safetensors.torch

    folder.put(FIRST, [memoryview(safetensors.torch.save(change(safetensors.torch.load(folder.get(FIRST).body))))])


NORM = "model.layers.0.ffn_norm.weight"

DAMAGES: dict[str, tuple[Callable[[Store], None], str]] = {
    "no config": (lambda f: f.delete(["config.json"]), "has no config.json; name a folder of released weights"),
    "no file": (lambda f: f.delete([FIRST]), f"{FIRST} is missing; fetch it; weights are read from safetensors only"),
    "no index": (lambda f: f.delete([INDEX]), "model.safetensors is missing"),
    "an index that is none": (lambda f: f.put(INDEX, [memoryview(b"[]")]), "is not an index; fetch it again"),
    "a file that was cut off": (cut, "bytes, and its header is for"),
    "a pointer instead of the file": (no_header, "is not a safetensors file; fetch it again"),
    "a header that is no JSON": (broken_header, "has a damaged header"),
    "a shape that its bytes do not have": (overlong, "has a damaged header (F32 [99] in 128 bytes)"),
    "a tensor is missing": (lambda f: repacked(f, lambda t: t if not t.pop(NORM).isnan().any() else {}), NORM),
    "a tensor that is not known": (
        lambda f: repacked(f, lambda t: t | {"model.layers.0.attention.wqkv.bias": torch.ones(4)}),
        "model.layers.0.attention.wqkv.bias is not a tensor of internlm2 with these sizes; correct config.json",
    ),
    "another shape": (
        lambda f: repacked(f, lambda t: t | {NORM: torch.ones(16)}),
        f"{NORM} has shape [16], and [32] by config.json",
    ),
    "a quantised tensor": (
        lambda f: repacked(f, lambda t: t | {NORM: torch.ones(32, dtype=torch.int8)}),
        f"{NORM} has type I8; save the weights as one of BF16, F16, F32, F64",
    ),
    "other sizes than its tensors": (
        lambda f: rewrite(f, "config.json", num_hidden_layers=1),
        "is not a tensor of internlm2 with these sizes",
    ),
}


@pytest.mark.parametrize(("damage", "told"), DAMAGES.values(), ids=DAMAGES)
def test_damage_is_named(folder: Store, damage: Callable[[Store], None], told: str) -> None:
    damage(folder)

    with pytest.raises(Refused) as refused:
        released.open_folder(folder)
    assert told in str(refused.value)
    assert str(refused.value).startswith(folder.url)
