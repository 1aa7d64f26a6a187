"""Our logits against those of transformers' LlamaForCausalLM, from the folder that we export for it."""

import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from internlm2_spec.architecture import Architecture
from internlm2_spec.config import Model
from internlm2_spec.presets import PRESETS
from internlm2_trainer import storage
from internlm2_trainer.checkpoint import address, verify
from internlm2_trainer.compute import parallelize
from internlm2_trainer.compute.attention import DynamicNTK
from internlm2_trainer.compute.mesh import open_mesh
from internlm2_trainer.compute.model import InternLM2
from internlm2_trainer.compute.tensor import local
from internlm2_trainer.weights import convert, released
from tests import ranks
from tests.trainer import parity
from tests.trainer.states import checkpointer

TRAINED = 32
TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class Case:
    """A released model with its ratios, narrow and of two layers; reads `length` tokens, trained at TRAINED."""

    preset: str
    base: float
    length: int = TRAINED
    factor: float | None = None

    def architecture(self) -> Architecture:
        whole = PRESETS[self.preset]
        hidden = whole.heads * 8
        sizes = replace(whole, layers=2, hidden=hidden, ffn=whole.ffn * hidden // whole.hidden, vocab=256)
        return Architecture(sizes, self.base, TRAINED, self.factor)

    @property
    def name(self) -> str:
        return f"{self.preset} base {self.base:g} length {self.length} factor {self.factor}"


CASES = [
    *(Case(preset, base) for preset in ("internlm2-1.8b", "internlm2-7b", "internlm2-20b") for base in (5e4, 1e6)),
    Case("internlm2-7b", 1e6, TRAINED, 2.0),
    Case("internlm2-1.8b", 1e6, 2 * TRAINED, 2.0),
    Case("internlm2-7b", 5e4, 2 * TRAINED, 1.0),
    Case("internlm2-20b", 1e6, 3 * TRAINED, 2.0),
]


@dataclass(frozen=True, slots=True)
class Differences:
    """Largest differences between logits; `spread` is the standard deviation of ours."""

    exported: float
    imported: float
    spread: float
    controls: dict[str, float]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Differences]:
    """Measure every case in one process: transformers takes longer to import than the cases to run."""
    (found,) = ranks.run(1, measure, str(tmp_path_factory.mktemp("llama")))
    return {name: Differences(**each) for name, each in found.items()}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_logits_are_those_of_llama(case: Case, measured: dict[str, Differences]) -> None:
    found = measured[case.name]

    assert found.exported < TOLERANCE
    assert 0.5 < found.spread < 5.0  # or the tolerance would say nothing


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_transformers_saved_comes_home_as_the_same_model(case: Case, measured: dict[str, Differences]) -> None:
    assert measured[case.name].imported < TOLERANCE


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_another_order_base_or_stretch_would_be_seen(case: Case, measured: dict[str, Differences]) -> None:
    controls = measured[case.name].controls

    assert controls.keys() == {"wqkv in blocks", "base"} | ({"no stretch"} if case.length > TRAINED else set())
    assert all(difference > 100 * TOLERANCE for difference in controls.values()), controls


def measure(_rank: int, _world: int, folder: str) -> dict[str, dict[str, Any]]:
    return {case.name: asdict(differences(case, Path(folder) / str(i))) for i, case in enumerate(CASES)}


@torch.no_grad()
def differences(case: Case, folder: Path) -> Differences:
    from transformers import LlamaForCausalLM

    of = case.architecture()
    tokens = torch.randint(of.model.vocab, (2, case.length), generator=torch.Generator().manual_seed(1))
    state = random_state(of.model)
    ours = logits(of, state, tokens)
    export(of, state, folder)
    theirs = LlamaForCausalLM.from_pretrained(folder / "out", local_files_only=True, attn_implementation="eager")
    exported = largest(ours, theirs(tokens).logits)
    theirs.save_pretrained(folder / "back")
    home = come_home(of, folder)
    imported = largest(logits(home[0], home[1], tokens), theirs(tokens).logits)
    controls = {"base": largest(ours, logits(replace(of, rope_base=of.rope_base * 2), state, tokens))}
    if case.length > TRAINED:
        controls["no stretch"] = largest(ours, logits(replace(of, dynamic_ntk=None), state, tokens))
    confuse(theirs, of.model, state)
    controls["wqkv in blocks"] = largest(ours, theirs(tokens).logits)
    return Differences(exported, imported, ours.std().item(), controls)


def random_state(sizes: Model) -> dict[str, Tensor]:
    """Return weights that keep activations near 1 through the layers, so that every part of the model counts."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, parameter in build(sizes, 1.0).named_parameters():
        draw = torch.randn(parameter.shape, generator=generator)
        wide = 1.0 if "tok_embeddings" in name else 1 / math.sqrt(parameter.shape[-1])
        state[f"model.{name}"] = 1 + 0.1 * draw if "norm" in name else wide * draw
    return state


def build(sizes: Model, base: float) -> InternLM2:
    stage = replace(parity.stage(), model=sizes, rope_base=base)
    return parallelize.build(stage, open_mesh(sizes, stage.parallel, "cpu"), torch.device("cpu")).whole


def logits(of: Architecture, state: dict[str, Tensor], tokens: Tensor) -> Tensor:
    model = build(of.model, of.rope_base)
    for name, parameter in model.named_parameters():
        local(parameter).copy_(state[f"model.{name}"])
    if of.dynamic_ntk is not None:
        model.dynamic_ntk = DynamicNTK(of.dynamic_ntk, of.max_positions)
    positions = torch.arange(tokens.shape[1]).expand_as(tokens)
    out: Tensor = model(tokens, positions, torch.zeros_like(tokens))
    return out


def export(of: Architecture, state: dict[str, Tensor], folder: Path) -> None:
    url = f"file://{folder}/run"
    checkpointer(storage.open_store(url)).save(1, state, of.to_extra(), wait=True)
    step = address.one_step(url)
    source = convert.Source(step.store, step.folder, verify.read_manifest(step.store, step.stage, step.step), of)
    destination = storage.open_store(f"file://{folder}/out")
    convert.export(source, destination, format="llama", precision="fp32", file_bytes=10**6, tokenizer={})


def come_home(of: Architecture, folder: Path) -> tuple[Architecture, dict[str, Tensor]]:
    """Import what transformers saved and load it into an empty state."""
    source, run = (storage.open_store(f"file://{folder}/{name}") for name in ("back", "home"))
    opened = released.open_folder(source)
    convert.import_folder(opened, source, run, stage="imported", now=0.0)
    state = {name: torch.zeros_like(tensor) for name, tensor in random_state(of.model).items()}
    restored = checkpointer(run).init_from("imported", state)
    return Architecture.from_extra(json.loads(json.dumps(restored.extra)), "home"), state


def confuse(theirs: Any, sizes: Model, state: dict[str, Tensor]) -> None:
    """Read wqkv as all queries, then all keys, then all values: the mistake that loaders made."""
    size = sizes.hidden // sizes.heads
    for number, layer in enumerate(theirs.model.layers):
        rows = state[f"model.model.layers.{number}.attention.wqkv.weight"]
        q, k, v = rows.split([sizes.heads * size, sizes.kv_heads * size, sizes.kv_heads * size])
        layer.self_attn.q_proj.weight.copy_(q)
        layer.self_attn.k_proj.weight.copy_(k)
        layer.self_attn.v_proj.weight.copy_(v)


def largest(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max())
