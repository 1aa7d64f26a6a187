"""A curriculum: each stage starts from the last one's final checkpoint, whatever its layout, data and batch are."""

import pathlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from internlm2_spec.architecture import Architecture
from internlm2_spec.config import Checkpoint, Data, DataSource, Optimizer, Parallel, Stage, Zero
from internlm2_trainer import storage
from internlm2_trainer.checkpoint.checkpointer import Checkpointer
from internlm2_trainer.data import packing
from internlm2_trainer.data.source import CorpusSource
from internlm2_trainer.loop.train import Trainer
from tests import ranks
from tests.trainer import parity


@dataclass(frozen=True, slots=True)
class Seen:
    """What one rank saw of a stage: digests of the whole state before and after it, and the first loss."""

    step: int
    updates: int
    start: dict[str, str]
    end: dict[str, str]
    first_loss: float


def weights(state: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in state.items() if name.startswith("model.")}


def moments(state: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in state.items() if name.startswith("optim.")}


def opened(stage: Stage, rank: int, world: int) -> Trainer:
    run = parity.trainer(stage)
    run.source = CorpusSource.open(stage)
    return parity.checkpointed(run, rank, world, incarnation=stage.name)


def trained(rank: int, world: int, stage: Stage) -> Seen:
    """Do what is left of a stage."""
    run = opened(stage, rank, world)
    step = run.resume()
    start, updates = parity.digests(run.state()), run.optimizer.updates
    losses: list[float] = [run.step(step).loss] if step < stage.steps else [0.0]
    run.run(min(step + 1, stage.steps))
    assert isinstance(run.checkpoints, Checkpointer)
    run.checkpoints.close()
    return Seen(step, updates, start, parity.digests(run.state()), losses[0])


def trained_in_order(rank: int, world: int, stages: tuple[Stage, ...]) -> list[Seen]:
    return [trained(rank, world, stage) for stage in stages]


def from_weights_alone(rank: int, world: int, imported: Stage, later: Stage) -> Seen:
    """Publish the step that an import makes, weights without moments, and train the stage that starts from it."""
    run, extra = opened(imported, rank, world), Architecture.of(imported).to_extra()
    run.checkpoints.save(1, {n: t for n, t in run.state().items() if n.startswith("model.")}, extra, wait=True)
    return trained(rank, world, later)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Stage]:
    """4K, 32K and enhancement in small: another length, RoPE base, batch, rate, mixture and layout in each."""
    folder = tmp_path_factory.mktemp("stages")
    first = Stage(
        name="a",
        model=parity.SIZES,
        data=Data(corpus(folder, "all", [60, 9, 200, 11, 8, 300, 10, 7, 150, 12] * 4)),
        checkpoint=Checkpoint(f"file://{folder}/run"),
        sequence_length=16,
        global_batch_tokens=8 * 16,
        steps=3,
        rope_base=50000.0,
        optimizer=Optimizer(lr=1e-2, min_lr=1e-3, warmup_steps=1),
        parallel=Parallel(zero=Zero(stage=3, shard=2)),
    )
    url = str(first.data.url)
    halves = (DataSource(url, max_document_tokens=15), DataSource(url, min_document_tokens=16))
    second = replace(
        first, name="b", init_from="a", sequence_length=64, global_batch_tokens=4 * 64, rope_base=1.0e6,
        data=Data(sources=halves), optimizer=Optimizer(lr=1e-3, min_lr=1e-4),
        parallel=Parallel(tensor=2, zero=Zero(stage=1, shard=2)),
    )  # fmt: skip
    third = replace(
        second, name="c", init_from="b", global_batch_tokens=2 * 64, parallel=Parallel(recompute="Full"),
        optimizer=Optimizer(lr=1e-4, min_lr=0.0, schedule="WSD", decay_steps=2, moments="Reset"),
    )  # fmt: skip
    return {"a": first, "b": second, "c": third}


def corpus(folder: pathlib.Path, name: str, lengths: list[int]) -> str:
    url, random = f"file://{folder}/{name}", np.random.default_rng(1)
    documents = [random.integers(0, parity.SIZES.vocab, length).tolist() for length in lengths]
    packing.write(storage.open_store(url), documents, vocab=parity.SIZES.vocab, tokenizer_sha256="t")
    return url


@pytest.fixture(scope="module")
def seen(recipe: dict[str, Stage]) -> dict[str, Seen]:
    """Every stage in order, on 2, 4 and 1 ranks; and some beside them."""
    a, b, c = recipe.values()
    beside = replace(b, name="b-with-the-old-base", rope_base=a.rope_base)
    again = replace(b, parallel=Parallel())
    plan = ((2, {"a": a}), (4, {"b": b, "old base": beside}), (1, {"c": c, "b again": again}))
    results: dict[str, Seen] = {}
    for world, stages in plan:
        outcomes: list[Any] = ranks.run(world, trained_in_order, tuple(stages.values()))
        assert all(outcome == outcomes[0] for outcome in outcomes)
        results |= dict(zip(stages, outcomes[0], strict=True))
    return results


def test_weights_are_bitwise_equal_at_every_seam(seen: dict[str, Seen]) -> None:
    assert weights(seen["b"].start) == weights(seen["a"].end)
    assert weights(seen["c"].start) == weights(seen["b"].end)
    assert all(not set(weights(s.start).values()) & set(weights(s.end).values()) for s in map(seen.get, "abc") if s)


def test_moments_are_carried_or_reset_as_the_stage_says(seen: dict[str, Seen]) -> None:
    assert moments(seen["b"].start) == moments(seen["a"].end)
    assert (seen["b"].updates, seen["c"].updates) == (3, 0)
    fresh = moments(seen["a"].start)  # zeros
    assert moments(seen["c"].start) == fresh != moments(seen["b"].end)


def test_a_stage_that_has_begun_goes_on_from_its_own_steps_under_another_layout(seen: dict[str, Seen]) -> None:
    assert (seen["b again"].step, seen["b again"].start) == (3, seen["b"].end)


def test_the_new_rope_base_changes_what_the_same_weights_say(seen: dict[str, Seen]) -> None:
    assert seen["old base"].start == seen["b"].start
    assert seen["old base"].first_loss != seen["b"].first_loss  # one layout twice gives the same bits


def test_weights_without_moments_start_with_none(recipe: dict[str, Stage], seen: dict[str, Seen]) -> None:
    imported = replace(recipe["a"], name="imported", parallel=Parallel())
    later = replace(recipe["c"], name="later", init_from="imported", optimizer=Optimizer())
    assert later.optimizer.moments == "Carry"
    [started] = ranks.run(1, from_weights_alone, imported, later)
    assert (started.step, started.updates) == (0, 0)
    assert weights(started.start) == weights(seen["a"].start)
    assert moments(started.start) == moments(seen["a"].start)  # zeros
