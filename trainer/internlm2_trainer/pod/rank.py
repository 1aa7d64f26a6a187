"""One rank from its environment to its exit code."""

import contextlib
import datetime
import faulthandler
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore, PrefixStore, Store, TCPStore

from internlm2_spec import config, layout, memory
from internlm2_spec.config import Stage
from internlm2_spec.contract import (
    ENV_ATTEMPT,
    ENV_ENDED,
    ENV_INCARNATION,
    ENV_MEMORY_DIR,
    ENV_METRICS_PORT,
    FIRST_INCARNATION,
    HANG,
    METRICS_PORT,
    ExitCode,
    FailureClass,
    Progress,
    Termination,
    TrainPhase,
)
from internlm2_trainer import storage
from internlm2_trainer.checkpoint.checkpointer import Checkpointer
from internlm2_trainer.checkpoint.memory import Memory, node_limit
from internlm2_trainer.compute import parallelize
from internlm2_trainer.compute.mesh import open_mesh
from internlm2_trainer.compute.optim import AdamW
from internlm2_trainer.compute.peak import peak_flops
from internlm2_trainer.compute.pipeline import open_pipeline
from internlm2_trainer.data.source import CorpusSource
from internlm2_trainer.loop.hang import Hang, Limits, Watch
from internlm2_trainer.loop.options import Span
from internlm2_trainer.loop.reached import Reached
from internlm2_trainer.loop.stop import StopRequest
from internlm2_trainer.loop.train import Trainer
from internlm2_trainer.observe import process, screen
from internlm2_trainer.observe.metrics import Metrics
from internlm2_trainer.observe.output import say
from internlm2_trainer.observe.screen import Screen
from internlm2_trainer.pod import ending, exhausted

# A lost member ends a hang long before this: the agent stops ranks as soon as a spare waits to join.
GROUP_TIMEOUT: Final = datetime.timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Place:
    """Where this rank stands, as its launcher says. Without a launcher: alone."""

    rank: int
    world: int
    local_rank: int
    attempt: int
    incarnation: int
    metrics_port: int
    local_world: int

    @classmethod
    def from_environment(cls) -> "Place":
        read = {key: int(os.environ.get(key, default)) for key, default in (
            ("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0), (ENV_ATTEMPT, 1), (ENV_INCARNATION, 0),
            (ENV_METRICS_PORT, METRICS_PORT), ("LOCAL_WORLD_SIZE", 1),
        )}  # fmt: skip
        return cls(*read.values())

    def memory(self) -> Memory | None:
        """Return where this rank's copies outlive it; None without an agent, whose folder that is."""
        folder = os.environ.get(ENV_MEMORY_DIR)
        return Memory(Path(folder), self.local_rank, limit_bytes=node_limit(self.local_world)) if folder else None


def main(config_path: str, span: Span | None = None) -> int:
    """Train the stage that `config_path` describes, trace `span` of it, and return the exit code of the contract.

    Whatever ends this rank is explained in one JSON object for the agent or the kubelet; a user's
    mistake is also one line on stderr, and anything else its traceback.
    """
    place = Place.from_environment()
    metrics = Metrics(_first_progress(place), age_seconds=process.age_seconds())
    stage = None
    try:
        stage = config.read(config_path)
        with _screen(stage, place, metrics):
            code = _train(stage, place, metrics, span)
    except Exception as error:
        advice = _advice(stage, place.world) if stage and ending.out_of_memory(error) else ""
        end = ending.explain(error, rank=place.rank, step=metrics.progress.step, advice=advice)
        print(end.traceback or end.message, file=sys.stderr, flush=True)
    else:
        failure = FailureClass.DONE if code is ExitCode.DONE else FailureClass.STOPPED
        reason = "Completed" if code is ExitCode.DONE else "StoppedOnRequest"
        end = Termination(failure, reason, code, rank=place.rank, step=metrics.progress.step)
    ending.record(end)
    return end.exit_code


def _advice(stage: Stage, world: int) -> str:
    return exhausted.advice(stage, world, memory.CUDA if torch.cuda.is_available() else memory.CPU)


def _screen(stage: Stage, place: Place, metrics: Metrics) -> contextlib.AbstractContextManager[None]:
    """Return what shows the run where a person looks at it."""
    if place.rank or not screen.wanted():
        return contextlib.nullcontext()
    return Screen(stage.name, stage.steps, lambda: metrics.progress.phase)


def _train(stage: Stage, place: Place, metrics: Metrics, span: Span | None) -> ExitCode:
    layout.check(stage, place.world)
    if span:
        span.check(after=0, steps=stage.steps)
    stop = StopRequest(_watched(stage, place, metrics))
    device = _prepare_device(place.local_rank)
    _serve(metrics, place)
    kv = _join_group(place, device)
    _passed(place, "group-joined")
    checkpoints = Checkpointer(
        storage.open_store(stage.checkpoint.url), stage.checkpoint, stage=stage.name,
        attempt=place.attempt, rank=place.rank, world=place.world, kv=kv, memory=place.memory(),
    )  # fmt: skip
    trainer = _assemble(stage, place, metrics, device, checkpoints, stop, span)
    _passed(place, "model-built")
    step = _resume(trainer, checkpoints, place)
    if span and place.incarnation == FIRST_INCARNATION:  # one that starts again may well be past it
        span.check(after=step, steps=stage.steps)
    trainer.stop.listen()
    metrics.enter(TrainPhase.STEP)
    code = trainer.run(step)
    if place.rank == 0:
        say(event="done" if code is ExitCode.DONE else "stopped", step=metrics.progress.step, attempt=place.attempt)
    metrics.enter(TrainPhase.DONE)
    checkpoints.close()
    # Rank 0 hosts the store: nobody may need it any more when it goes.
    dist.barrier()
    dist.destroy_process_group()
    return code


def _assemble(
    stage: Stage,
    place: Place,
    metrics: Metrics,
    device: torch.device,
    checkpoints: Checkpointer,
    stop: StopRequest,
    span: Span | None,
) -> Trainer:
    mesh = open_mesh(stage.model, stage.parallel, device.type)
    model = parallelize.build(stage, mesh, device)
    source = CorpusSource.open(stage)
    trainer: Callable[..., Trainer] = Trainer
    optimizer = AdamW
    if span:
        from internlm2_trainer.loop import trace

        trace.prepare(span)
        trainer, optimizer = partial(trace.TracedTrainer, span=span, rank=place.rank), trace.TracedAdamW
    return trainer(
        stage, mesh, device, source, checkpoints, stop, metrics, place.attempt,
        peak_flops(device, warn=place.rank == 0),
        model, open_pipeline(stage, mesh, model, device), optimizer(model.parameters(), stage.optimizer),
        reached=Reached.from_environment(), ranks_of_node=place.local_world,
    )  # fmt: skip


def _passed(place: Place, event: str) -> None:
    """Say how far a start has come: what a slow one waited for is then in its log."""
    if place.rank == 0:
        say(event=event, time=time.time(), attempt=place.attempt)


def _resume(trainer: Trainer, checkpoints: Checkpointer, place: Place) -> int:
    trainer.metrics.enter(TrainPhase.LOAD)
    checkpoints.acquire_fence()
    step = trainer.resume()
    trainer.metrics.resumed(step)
    if place.rank == 0:
        tier = checkpoints.restored.tier if checkpoints.restored else None
        say(event="resumed", step=step, tier=tier, world=place.world, attempt=place.attempt, time=time.time())
    return step


def _prepare_device(local_rank: int) -> torch.device:
    """Return this rank's device, set up so that the same layout gives the same bits twice."""
    if not torch.cuda.is_available():
        torch.set_num_threads(1)  # the order of a parallel sum would depend on the machine
        return torch.device("cpu")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def _serve(metrics: Metrics, place: Place) -> None:
    if place.local_rank == 0:
        try:
            metrics.serve(place.metrics_port)
        except OSError as error:  # a second trainer on a laptop: training matters more
            say(event="metrics-not-served", port=place.metrics_port, reason=str(error))


def _join_group(place: Place, device: torch.device) -> Store:
    """Join the default process group, and return a store that its ranks share for other things.

    That store is a client of its own: whoever waits in it does not hold up the group's.
    """
    store: Store = HashStore()
    kv = store
    if place.world > 1:
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = TCPStore(host, port, place.world, is_master=place.rank == 0, timeout=GROUP_TIMEOUT)
        kv = TCPStore(host, port, place.world, is_master=False, timeout=GROUP_TIMEOUT)
    backend = "gloo" if device.type == "cpu" else "nccl"
    dist.init_process_group(backend, store=store, rank=place.rank, world_size=place.world, timeout=GROUP_TIMEOUT)
    return PrefixStore("internlm2", kv)


def _first_progress(place: Place) -> Progress:
    now = time.time()
    return Progress(
        phase=TrainPhase.INIT, rank=place.rank, world=place.world, attempt=place.attempt,
        incarnation=place.incarnation, started_step=0, step=0, step_time=now, started_time=now,
        first_step_time=None, loss=None, tokens_per_second=None, mfu=None, checkpoint_step=None, checkpoint_time=None,
        ended=Termination.from_json(os.environ.get(ENV_ENDED, "")),
    )  # fmt: skip


def _watched(stage: Stage, place: Place, metrics: Metrics) -> Watch:
    """Return a watch that begins now. SIGUSR1 shows the stacks, too, even of a thread that is stuck in C."""
    faulthandler.register(signal.SIGUSR1)
    limits = Limits(floor_seconds=stage.hang.floor_seconds, multiple=stage.hang.multiple)
    watch = Watch(lambda: metrics.progress.phase, lambda hang: ending.record(_hung(hang, place, metrics)), limits)
    metrics.limit = watch.limit
    watch.begin()
    return watch


def _hung(hang: Hang, place: Place, metrics: Metrics) -> Termination:
    """Return the last word of a rank that hangs: the loss of a peer where it waits for others, else its own fault."""
    waiting, step = hang.waiting and place.world > 1, metrics.progress.step
    message = (
        f"rank {place.rank} made no progress for {hang.seconds:.0f} s after step {step}; it "
        f"{'waits for other ranks' if waiting else 'is'} in {hang.place}; stacks are on stderr"
    )
    return Termination(
        FailureClass.PEER if waiting else FailureClass.INFRASTRUCTURE, HANG, ExitCode.HANG, message,
        rank=place.rank, step=step, traceback="\n".join(str(frame) for frame in reversed(hang.stack))[-3000:],
        stood=(hang.stood(place.rank, metrics.progress.phase, waits=waiting),),
    )  # fmt: skip
