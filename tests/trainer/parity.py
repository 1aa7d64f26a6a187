"""Training runs on synthetic samples, for tests that compare one layout with another."""

from dataclasses import dataclass

import torch
from torch import Tensor

from internlm2_spec.config import Checkpoint, Data, Model, Optimizer, Parallel, Stage, Zero
from internlm2_spec.contract import Progress, TrainPhase
from internlm2_trainer import parallelize
from internlm2_trainer.mesh import open_mesh
from internlm2_trainer.metrics import Metrics
from internlm2_trainer.optim import AdamW
from internlm2_trainer.stop import StopRequest
from internlm2_trainer.train import Checkpoints, Resumed, Trainer

SIZES = Model(layers=2, hidden=64, heads=8, kv_heads=4, ffn=128, vocab=256)
SEQUENCE = 32
GLOBAL_SAMPLES = 8


def stage(*, tensor: int = 1, zero: int = 1, shard: int = 1, micro_batch: int = 2, recompute: bool = False) -> Stage:
    """Return a stage of 3 steps with a large learning rate and a clip that bites."""
    return Stage(
        name="test",
        model=SIZES,
        data=Data("file:///nowhere"),
        checkpoint=Checkpoint("file:///nowhere", every_steps=100),
        sequence_length=SEQUENCE,
        global_batch_tokens=GLOBAL_SAMPLES * SEQUENCE,
        steps=3,
        optimizer=Optimizer(lr=1e-2, min_lr=1e-3, warmup_steps=1, grad_clip=0.5),
        parallel=Parallel(
            tensor=tensor,
            zero=Zero(stage=zero, shard=shard),  # type: ignore[arg-type]
            micro_batch=micro_batch,
            recompute="Full" if recompute else "None",
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

    def micro_batch(self, step: int, *, data_rank: int, data_world: int, micro_step: int) -> Samples:
        generator = torch.Generator().manual_seed(step)
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
    stall_seconds = 0.0
    skipped = 0

    def restore(self, state: dict[str, Tensor]) -> Resumed | None:  # noqa: ARG002
        return None

    def save(self, step: int, state: dict[str, Tensor], extra: dict[str, int], *, wait: bool = False) -> None:
        pass

    def remember(self, step: int, state: dict[str, Tensor], extra: dict[str, int]) -> None:
        pass


def trainer(stage: Stage) -> Trainer:
    """Return a trainer on the default process group's ranks, without data or checkpoints of its own."""
    device = torch.device("cpu")
    mesh = open_mesh(stage.parallel, device.type)
    model = parallelize.build(stage, mesh, device)
    source = RandomSource(stage.parallel.micro_batch)
    return Trainer(
        stage, mesh, device, source, NoCheckpoints(), StopRequest(lambda _: None), metrics(), 1, None,
        model, AdamW(model, stage.optimizer),
    )  # fmt: skip


def metrics() -> Metrics:
    return Metrics(
        Progress(
            phase=TrainPhase.INIT, rank=0, world=1, attempt=1, incarnation=0, started_step=0, step=0, step_time=0.0,
            started_time=0.0, first_step_time=None, loss=None, tokens_per_second=None, mfu=None,
            checkpoint_step=None, checkpoint_time=None,
        )
    )  # fmt: skip


def train(_rank: int, _world: int, stage: Stage) -> list[tuple[float, float]]:
    """Train a whole stage; return (loss, gradient norm) of each step."""
    run = trainer(stage)
    totals = [run.step(step) for step in range(stage.steps)]
    return [(each.loss, each.gradient_norm) for each in totals]
