"""Training runs on synthetic samples, for tests that compare one layout with another."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from internlm2_spec.config import Checkpoint, Data, Model, Optimizer, Parallel, Stage, Zero
from internlm2_spec.contract import Progress, TrainPhase
from internlm2_trainer import storage
from internlm2_trainer.checkpoint.checkpointer import Checkpointer
from internlm2_trainer.checkpoint.region import Region, held
from internlm2_trainer.compute import parallelize
from internlm2_trainer.compute.mesh import open_mesh
from internlm2_trainer.compute.optim import AdamW, Totals
from internlm2_trainer.compute.pipeline import open_pipeline
from internlm2_trainer.loop.hang import Watch
from internlm2_trainer.loop.stop import StopRequest
from internlm2_trainer.loop.train import Checkpoints, Resumed, Trainer
from internlm2_trainer.observe.metrics import Metrics
from internlm2_trainer.storage import digest
from tests import ranks

SIZES = Model(layers=2, hidden=64, heads=8, kv_heads=4, ffn=128, vocab=256)
SEQUENCE = 32
GLOBAL_SAMPLES = 8


def stage(*, zero: int = 1, shard: int = 1, micro_batch: int = 2, layers: int = 2, **parallel: Any) -> Stage:
    """Return a stage of 4 steps with a large learning rate and a clip that bites."""
    return Stage(
        name="test",
        model=dataclasses.replace(SIZES, layers=layers),
        data=Data("file:///nowhere"),
        checkpoint=Checkpoint("file:///nowhere", every_steps=100),
        sequence_length=SEQUENCE,
        global_batch_tokens=GLOBAL_SAMPLES * SEQUENCE,
        steps=4,
        optimizer=Optimizer(lr=1e-2, min_lr=1e-3, warmup_steps=1, grad_clip=0.5),
        parallel=Parallel(
            zero=Zero(stage=zero, shard=shard),  # type: ignore[arg-type]
            micro_batch=micro_batch,
            **parallel,
        ),
    )


@dataclass(frozen=True, slots=True)
class Samples:
    tokens: Tensor
    labels: Tensor
    positions: Tensor
    documents: Tensor


class RandomSource:
    """Random tokens, two documents in each sample, some labels masked; a function of the place alone."""

    def micro_batch(self, batch: int, *, data_rank: int, data_world: int, micro_step: int) -> Samples:
        generator = torch.Generator().manual_seed(batch)
        tokens = torch.randint(SIZES.vocab, (GLOBAL_SAMPLES, SEQUENCE + 1), generator=generator)
        labels = tokens[:, 1:].clone()
        labels[:, SEQUENCE // 4] = -100
        place = torch.arange(SEQUENCE)
        documents = (place > SEQUENCE // 4).long().expand(GLOBAL_SAMPLES, -1)
        positions = (place - documents * (SEQUENCE // 4 + 1)).contiguous()
        mine = torch.arange(GLOBAL_SAMPLES).view(-1, data_world, self.size(data_world))[micro_step, data_rank]
        return Samples(tokens[mine, :-1], labels[mine], positions[mine], documents[mine])

    def __init__(self, micro_batch: int) -> None:
        self._micro_batch = micro_batch

    def size(self, data_world: int) -> int:
        return min(self._micro_batch, GLOBAL_SAMPLES // data_world)


class NoCheckpoints(Checkpoints):
    published = None
    remembered = None
    skipped = 0

    def restore(self, state: dict[str, Tensor]) -> Resumed | None:  # noqa: ARG002
        return None

    def init_from(self, stage: str, state: dict[str, Tensor], *, moments: bool = False) -> Resumed:
        raise NotImplementedError

    def roll_back(self, state: dict[str, Tensor], *, before: int) -> Resumed | None:  # noqa: ARG002
        return None

    def save(self, step: int, state: dict[str, Tensor], extra: dict[str, Any], *, wait: bool = False) -> None:
        pass

    def remember(self, step: int, state: dict[str, Tensor], extra: dict[str, Any]) -> None:
        pass


class Recording(AdamW):
    """Keeps this rank's gradients of the first step, and which box of the whole each is."""

    gradients: dict[str, tuple[Tensor, Region]] | None = None

    def reduce(self, loss: Tensor, **settings: Any) -> Totals:
        if self.gradients is None:
            self.gradients = {name: own(p.grad) for name, p in self.parameters.items()}
        return super().reduce(loss, **settings)


def whole(tensor: Tensor | None) -> Tensor:
    assert isinstance(tensor, DTensor)
    full: Tensor = tensor.full_tensor()
    return full.clone()  # on one rank the whole is the tensor itself


def digests(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Return a digest of each whole tensor."""
    return {name: digest([whole(tensor).detach().contiguous().numpy().data]) for name, tensor in state.items()}


def own(gradient: Tensor | None) -> tuple[Tensor, Region]:
    assert isinstance(gradient, DTensor)
    local, region = held(gradient)
    return local.clone(), region


def trainer(stage: Stage, dtype: torch.dtype | None = None, optimizer: type[AdamW] = AdamW) -> Trainer:
    """Return a trainer on the default process group's ranks, without data or checkpoints of its own."""
    device = torch.device("cpu")
    mesh = open_mesh(stage.model, stage.parallel, device.type)
    model = parallelize.build(stage, mesh, device, dtype)
    source = RandomSource(stage.parallel.micro_batch)
    return Trainer(
        stage, mesh, device, source, NoCheckpoints(), StopRequest(unwatched()), metrics(), 1, None,
        model, open_pipeline(stage, mesh, model, device), optimizer(model.parameters(), stage.optimizer),
    )  # fmt: skip


def checkpointed(run: Trainer, rank: int, world: int, *, incarnation: str) -> Trainer:
    """Give a run the checkpoints that its stage asks for."""
    run.checkpoints = Checkpointer(
        storage.open_store(run.stage.checkpoint.url), run.stage.checkpoint, stage=run.stage.name,
        attempt=1, rank=rank, world=world, kv=dist.distributed_c10d._get_default_store(), incarnation=incarnation,
    )  # fmt: skip
    return run


def unwatched() -> Watch:
    """Return a watch that never begins."""
    return Watch(lambda: TrainPhase.STEP, lambda _: None)


def metrics() -> Metrics:
    return Metrics(
        Progress(
            phase=TrainPhase.INIT, rank=0, world=1, attempt=1, incarnation=0, started_step=0, step=0, step_time=0.0,
            started_time=0.0, first_step_time=None, loss=None, tokens_per_second=None, mfu=None,
            checkpoint_step=None, checkpoint_time=None,
        )
    )  # fmt: skip


Steps = list[tuple[float, float]]


def train(_rank: int, _world: int, stage: Stage) -> Steps:
    """Train a whole stage; return (loss, gradient norm) of each step."""
    return steps(trainer(stage), stage.steps)


def steps(run: Trainer, count: int) -> Steps:
    totals = [run.step(step) for step in range(count)]
    return [(each.loss, each.gradient_norm) for each in totals]


# A table of layouts: many runs on the same ranks, for a rank's first run costs more than its next ten.


@dataclass(frozen=True, slots=True)
class Layout:
    """A row of the table: what differs from the run on one process, and by how much it may."""

    world: int
    stage: Stage
    bf16: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a rank saw of a row."""

    steps: Steps
    again: Steps  # the first steps of a second run
    gradient_differences: dict[str, float] = field(default_factory=dict)  # largest of each parameter it has


REFERENCE = "reference.npz"


def folder_of(stage: Stage, folder: Path) -> Path:
    """Return where `reference` left what layouts of this stage's model are compared with."""
    return folder / f"{stage.model.layers} layers"


def gradient_differences(run: Trainer, folder: str) -> dict[str, float]:
    """Return the largest difference of each parameter's first gradient, where this rank has it, to `reference`'s."""
    assert isinstance(run.optimizer, Recording)
    with numpy.load(Path(folder) / REFERENCE) as expected:
        return {
            name: float((gradient - torch.from_numpy(expected[name][box])).abs().max())
            for name, (gradient, region) in (run.optimizer.gradients or {}).items()
            if not region.empty
            for box in [tuple(slice(o, o + n) for o, n in zip(region.offset, region.shape, strict=True))]
        }


def train_layouts(
    rank: int, world: int, layouts: dict[str, Layout], folder: str, run_number: int
) -> dict[str, Outcome]:
    """Train each layout and compare its first gradients with those that `reference` left in the folder."""
    outcomes = {}
    for number, (name, layout) in enumerate(layouts.items()):
        # Groups of its own: a layout sees nothing of those before it.
        dist.destroy_process_group()
        ranks.join_group(Path(folder) / f"group-{run_number}-{number}", rank=rank, world=world)
        dtype = torch.bfloat16 if layout.bf16 else None
        run = trainer(layout.stage, dtype, Recording)
        taken = steps(run, layout.stage.steps)
        differences = gradient_differences(run, str(folder_of(layout.stage, Path(folder))))
        outcomes[name] = Outcome(taken, steps(trainer(layout.stage, dtype), 2), differences)
    return outcomes


def reference(_rank: int, _world: int, stage: Stage, folder: str) -> Steps:
    """Train on one process and leave the gradients of its first step in the folder."""
    run = trainer(stage, None, Recording)
    taken = steps(run, stage.steps)
    assert isinstance(run.optimizer, Recording)
    gradients: dict[str, Any] = {name: part.numpy() for name, (part, _) in (run.optimizer.gradients or {}).items()}
    numpy.savez(Path(folder) / REFERENCE, **gradients)
    return taken
