"""Every layout trains the same model as one process does, and the same layout twice the same bits."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import pytest

from internlm2_spec.config import Optimizer, Stage
from tests import ranks
from tests.trainer import parity
from tests.trainer.parity import Layout, Outcome, Steps


@dataclass(frozen=True, slots=True)
class Distance:
    """Largest differences to one process: of the loss, of the gradient norm (relative), and of any gradient."""

    loss: float
    norm: float
    gradient: float

    def within(self, allowed: "Distance") -> bool:
        return self.loss < allowed.loss and self.norm < allowed.norm and self.gradient < allowed.gradient


# The loss is 5.6 and the largest gradient 0.03. Measured: 5e-7, 1e-6 and 1e-8 in fp32; 4e-3, 0.06 and 4e-4 in bf16.
FP32 = Distance(loss=2e-5, norm=2e-5, gradient=2e-7)
BF16 = Distance(loss=3e-2, norm=0.2, gradient=2e-3)

LAYERS = 2
PIPELINE_LAYERS = 5  # no number of stages divides it


def on(world: int, *, micro_steps: int | None = None, bf16: bool = False, **settings: Any) -> Layout:
    """Return a row: the one batch of all rows in so many micro-steps; by default 1, and 4 for a pipeline."""
    pipeline = settings.get("pipeline", 1)
    data = world // (pipeline * settings.get("tensor", 1) * settings.get("context", 1))
    micro_batch = parity.GLOBAL_SAMPLES // data // (micro_steps or (4 if pipeline > 1 else 1))
    layers = PIPELINE_LAYERS if pipeline > 1 else LAYERS
    return Layout(world, parity.stage(layers=layers, micro_batch=micro_batch, **settings), bf16)


LAYOUTS = {
    "one rank, accumulation": on(1, micro_steps=4),
    "one rank, full recompute": on(1, recompute="Full"),
    "one rank, selective recompute": on(1, recompute="Selective"),
    "dp2 over replicas": on(2),
    "dp2 over shards": on(2, shard=2),
    "dp4": on(4, shard=4),
    "HSDP 2x2, ZeRO 3": on(4, shard=2, zero=3),
    "HSDP 2x2, ZeRO 2 with accumulation": on(4, shard=2, zero=2, micro_steps=2),
    "ZeRO 1 with accumulation": on(2, shard=2, zero=1, micro_steps=4),
    "ZeRO 2 with accumulation": on(2, shard=2, zero=2, micro_steps=4),
    "ZeRO 3 with accumulation": on(2, shard=2, zero=3, micro_steps=4),
    "ZeRO 3, full recompute of half the layers": on(2, shard=2, zero=3, recompute="Full", recompute_fraction=0.5),
    "tp2": on(2, tensor=2),
    "tp2, full recompute": on(2, tensor=2, recompute="Full"),
    "tp2 x dp2, ZeRO 3 with accumulation": on(4, tensor=2, shard=2, zero=3, micro_steps=2),
    "pp2 GPipe": on(2, pipeline=2, schedule="GPipe"),
    "pp2 1F1B": on(2, pipeline=2),
    "pp2 Interleaved1F1B": on(2, pipeline=2, schedule="Interleaved1F1B"),
    "pp2 InterleavedZeroBubble": on(2, pipeline=2, schedule="InterleavedZeroBubble"),
    "pp2 ZBVZeroBubble": on(2, pipeline=2, schedule="ZBVZeroBubble"),
    "pp2 ZBVZeroBubble, no more micro-batches than ranks": on(2, pipeline=2, schedule="ZBVZeroBubble", micro_steps=2),
    "pp2 1F1B, full recompute": on(2, pipeline=2, recompute="Full"),
    "pp2 ZBVZeroBubble, full recompute": on(2, pipeline=2, schedule="ZBVZeroBubble", recompute="Full"),
    "pp2 InterleavedZeroBubble, selective recompute": on(
        2, pipeline=2, schedule="InterleavedZeroBubble", recompute="Selective"
    ),
    "pp4 1F1B": on(4, pipeline=4),
    "pp2 1F1B x dp2, ZeRO 3": on(4, pipeline=2, shard=2, zero=3),
    "pp2 ZBVZeroBubble x dp2": on(4, pipeline=2, schedule="ZBVZeroBubble", shard=2),
    "pp2 InterleavedZeroBubble x dp2 over replicas": on(4, pipeline=2, schedule="InterleavedZeroBubble"),
    "pp2 ZBVZeroBubble x tp2": on(4, pipeline=2, schedule="ZBVZeroBubble", tensor=2, micro_steps=2),
    "pp2 1F1B x dp2 x tp2": on(8, pipeline=2, shard=2, tensor=2),
    "pp2 Interleaved1F1B x dp2 x tp2, ZeRO 3": on(
        8, pipeline=2, schedule="Interleaved1F1B", shard=2, tensor=2, zero=3, micro_steps=2
    ),
    "tp8 over 4 KV heads": on(8, tensor=8),
    "cp2 ring": on(2, context=2),
    "cp2 Ulysses": on(2, context=2, ulysses=2),
    "cp4 ring": on(4, context=4),
    "cp4 Ulysses": on(4, context=4, ulysses=4),
    "cp4 ring 2 x Ulysses 2": on(4, context=4, ulysses=2),
    "cp2 Ulysses x tp2": on(4, context=2, ulysses=2, tensor=2),
    "cp2 x dp2 over replicas": on(4, context=2),
    "cp2 x ZeRO 3 with accumulation": on(4, context=2, zero=3, shard=2, micro_steps=2),
    "cp2 x full recompute": on(2, context=2, recompute="Full"),
    "cp2 x pp2 ZBVZeroBubble": on(4, context=2, pipeline=2, schedule="ZBVZeroBubble"),
    "cp2 x tp2 x dp2": on(8, context=2, tensor=2, shard=2),
    "cp2 x tp2 x pp2 1F1B": on(8, context=2, tensor=2, pipeline=2),
    "cp2 x tp2 x pp2 1F1B x dp2": on(16, context=2, tensor=2, pipeline=2, shard=2),
    "compiled, cp2 ring": on(2, context=2, compile=True),
    "compiled, tp2, full recompute": on(2, tensor=2, compile=True, recompute="Full"),
    "bf16, dp2": on(2, shard=2, bf16=True),
    "bf16, tp2 x pp2 1F1B": on(4, tensor=2, pipeline=2, micro_steps=2, bf16=True),
}

# What must not pass: other losses, other gradients.
CONTROLS = {
    "another learning rate": dataclasses.replace(on(2).stage, optimizer=Optimizer(lr=1.01e-2)),
    "another rope base": dataclasses.replace(on(2).stage, rope_base=10000.0),
}


class Table:
    """Runs the rows that this session asked for, all rows of one number of ranks together."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        self.folder = folder
        self.names = names
        self.one_process: dict[int, Steps] = {}
        self.parameters: dict[int, set[str]] = {}
        for layers in (LAYERS, PIPELINE_LAYERS):
            alone = parity.stage(layers=layers, micro_batch=parity.GLOBAL_SAMPLES)
            one = parity.folder_of(alone, folder)
            one.mkdir()
            (self.one_process[layers],) = ranks.run(1, parity.reference, alone, str(one))
            with numpy.load(one / parity.REFERENCE) as gradients:
                self.parameters[layers] = set(gradients)
        self.outcomes: dict[int, list[dict[str, Outcome]]] = {}
        self.runs = 0

    def __call__(self, name: str) -> list[Outcome]:
        """Return what each rank saw of a row."""
        world = LAYOUTS[name].world
        if world not in self.outcomes:
            rows = {name: LAYOUTS[name] for name in self.names if LAYOUTS[name].world == world}
            self.outcomes[world] = self.run(world, rows)
        return [outcome[name] for outcome in self.outcomes[world]]

    def run(self, world: int, rows: dict[str, Layout]) -> list[dict[str, Outcome]]:
        self.runs += 1
        limit = 60.0 + 30.0 * len(rows)  # seconds, on a machine that does other things too
        return ranks.run(world, parity.train_layouts, rows, str(self.folder), self.runs, timeout_seconds=limit)

    def distance(self, stage: Stage, outcomes: list[Outcome]) -> Distance:
        """Say how far a run is from the one on one process."""
        pairs = list(zip(outcomes[0].steps, self.one_process[stage.model.layers], strict=True))
        differences = [d for outcome in outcomes for d in outcome.gradient_differences.values()]
        return Distance(
            loss=max(abs(mine - theirs) for (mine, _), (theirs, _) in pairs),
            norm=max(abs(mine / theirs - 1) for (_, mine), (_, theirs) in pairs),
            gradient=max(differences),
        )


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Table:
    asked = {item.callspec.params.get("name") for item in request.session.items if hasattr(item, "callspec")}
    return Table(tmp_path_factory.mktemp("layouts"), [name for name in LAYOUTS if name in asked])


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_trains_what_one_process_trains(name: str, table: Table) -> None:
    outcomes, stage = table(name), LAYOUTS[name].stage
    steps, allowed = outcomes[0].steps, BF16 if LAYOUTS[name].bf16 else FP32

    assert all(outcome.steps == steps for outcome in outcomes), "ranks of one run disagree"
    assert all(outcome.again == steps[:2] for outcome in outcomes), "the same layout twice is not bitwise equal"
    assert {parameter for outcome in outcomes for parameter in outcome.gradient_differences} == (
        table.parameters[stage.model.layers]
    )
    distance = table.distance(stage, outcomes)
    assert distance.within(allowed), f"{distance} is not within {allowed}"


def test_the_controls_fail(table: Table) -> None:
    outcomes = table.run(2, {name: Layout(2, stage) for name, stage in CONTROLS.items()})
    rate, base = (table.distance(stage, [each[name] for each in outcomes]) for name, stage in CONTROLS.items())

    assert rate.gradient < FP32.gradient  # the first gradient is there before the rate is used
    assert rate.loss > 5 * FP32.loss
    assert base.gradient > 5 * FP32.gradient
