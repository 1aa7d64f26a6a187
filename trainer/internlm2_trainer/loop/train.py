"""The training loop of one stage on one rank."""

import dataclasses
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from internlm2_spec import flops, layout, memory
from internlm2_spec.architecture import Architecture
from internlm2_spec.config import Stage
from internlm2_spec.contract import ExitCode, TrainPhase
from internlm2_spec.metrics import Cause, Part
from internlm2_trainer.compute import context, optim, parallelize
from internlm2_trainer.compute.loss import IGNORED_LABEL
from internlm2_trainer.compute.mesh import Mesh
from internlm2_trainer.compute.optim import AdamW, Totals
from internlm2_trainer.compute.parallelize import LocalModel
from internlm2_trainer.compute.pipeline import MicroBatch, Pipeline
from internlm2_trainer.data.windows import Batch
from internlm2_trainer.loop import guard
from internlm2_trainer.loop.guard import Diverged, History
from internlm2_trainer.loop.reached import Reached
from internlm2_trainer.loop.stop import StopRequest
from internlm2_trainer.observe import goodput, process, straggler
from internlm2_trainer.observe.clock import open_stopwatch, watch_layers
from internlm2_trainer.observe.link import Link
from internlm2_trainer.observe.metrics import Metrics
from internlm2_trainer.observe.output import say
from internlm2_trainer.observe.stopwatch import Stopwatch


class Samples(Protocol):
    """Packed samples [B, S] int64. Ignored labels are -100; positions restart in each document.

    Of a sequence that is split, `documents` alone are whole.
    """

    @property
    def tokens(self) -> Tensor: ...
    @property
    def labels(self) -> Tensor: ...
    @property
    def positions(self) -> Tensor: ...
    @property
    def documents(self) -> Tensor: ...


class Source(Protocol):
    """Where samples come from. The same place gives the same samples, at any world size and after any resume."""

    def micro_batch(self, batch: int, *, data_rank: int, data_world: int, micro_step: int) -> Samples: ...


class Resumed(Protocol):
    @property
    def step(self) -> int: ...
    @property
    def extra(self) -> Mapping[str, Any]: ...


class Checkpoints(Protocol):
    """What the loop needs of a checkpointer: see `checkpoint.Checkpointer`."""

    @property
    def published(self) -> tuple[int, float] | None: ...
    @property
    def remembered(self) -> int | None: ...
    @property
    def skipped(self) -> int: ...
    def restore(self, state: dict[str, Tensor]) -> Resumed | None: ...
    def init_from(self, stage: str, state: dict[str, Tensor], *, moments: bool = False) -> Resumed: ...
    def roll_back(self, state: dict[str, Tensor], *, before: int) -> Resumed | None: ...
    def save(self, step: int, state: dict[str, Tensor], extra: dict[str, Any], *, wait: bool = False) -> None: ...
    def remember(self, step: int, state: dict[str, Tensor], extra: dict[str, Any]) -> None: ...


@dataclass(slots=True)
class Trainer:
    """One rank's part of a stage. `peak` is FLOP/s of one device, None where it is not known."""

    stage: Stage
    mesh: Mesh
    device: torch.device
    source: Source
    checkpoints: Checkpoints
    stop: StopRequest
    metrics: Metrics
    attempt: int
    peak: float | None
    model: LocalModel
    pipeline: Pipeline | None
    optimizer: AdamW
    history: History = field(default_factory=History)
    tokens: int = 0
    pairs: Tensor | None = None
    seen_checkpoint: int = -1
    reached: Reached = field(default_factory=lambda: Reached(None))
    watch: Stopwatch[Any] = field(init=False)
    ranks_of_node: int = 1
    own: tuple[int, ...] = (0,) * len(straggler.TOLD)  # what this rank tells of the newest step that is settled
    work: Tensor | None = None  # the same of all ranks [R, len(TOLD)] int64
    comparison: straggler.Comparison = field(init=False)
    link: Link = field(init=False)
    step_seconds: float = 0.0  # of the newest step that is settled

    def __post_init__(self) -> None:
        self.watch = open_stopwatch(self.device)
        watch_layers(self.watch, [layer for part in self.model.parts.values() for layer in part.model.layers.values()])
        world, stages = dist.get_world_size(), self.mesh.degrees.pipeline
        groups = [rank * stages // world for rank in range(world)]
        self.comparison = straggler.Comparison(groups, ranks_of_node=self.ranks_of_node)
        self.link = Link(self.device, ranks_of_node=self.ranks_of_node)
        precision = memory.CUDA if self.device.type == "cuda" else memory.CPU
        self.metrics.set(estimated_bytes=memory.of_stage(self.stage, world, precision).total)

    def run(self, step: int) -> ExitCode:
        """Train from `step` to the stage's end, or to the step at which some rank was asked to stop.

        Either way the last step is published as a checkpoint before this returns.
        """
        stopping = False
        settings = self.stage.checkpoint
        if step and (step % settings.every_steps == 0 or step == self.stage.steps):
            self.save(step, wait=step == self.stage.steps)  # resumed from memory, this one may not exist yet
        while step < self.stage.steps and not stopping:
            totals = self.step(step)
            step += 1
            stopping = totals.stop
            if (healthy := self.judge(step, totals.loss)) != step:
                step = healthy
                continue
            last = stopping or step == self.stage.steps
            if last or step % settings.every_steps == 0:
                self.save(step, wait=last)
            elif settings.memory_every_steps and step % settings.memory_every_steps == 0:
                self.remember(step)
            self.notice_published()
        self._end_steps()
        return ExitCode.DONE if step == self.stage.steps else ExitCode.STOPPED

    def step(self, step: int) -> Totals:
        """Do optimizer step `step` (from 0) and say how it went."""
        started = time.perf_counter()
        self.watch.begin()
        loss = self.forward_backward(self.batches(step))
        totals = self.optimizer.reduce(
            loss, copies=self.mesh.degrees.tensor, stop=self.stop.requested, watch=self.watch
        )
        self._compare()  # before the update is on its way, which reading would wait for
        rate = optim.learning_rate(self.stage.optimizer, step=step, steps=self.stage.steps)
        updated = self.optimizer.step(rate, totals.gradient_norm)
        self.watch.enter(Part.OTHER)
        self._book(step + 1, updated=updated)
        if not updated:
            self._skipped(step + 1, totals)
        self.tokens += self.stage.global_batch_tokens
        seconds = time.perf_counter() - started
        self.stop.step_finished(seconds)
        self._report(step + 1, totals, seconds=seconds)
        return totals

    def _book(self, step: int, *, updated: bool) -> None:
        """Book the time of a step on its cause, and note where that of the one before went: it is known by now."""
        given_up = max((each.noticed for each in self.history.rollbacks), default=0)
        self.metrics.spent(goodput.cause_of(step, updated=updated, given_up=given_up, reached=self.reached.before))
        self.reached.note(step)
        self._settle()

    def _compare(self) -> None:
        """Note how long each rank worked in the step before the last: it was sent with the labels of this one."""
        if self.work is None or not any(map(any, nanoseconds := self.work.tolist())):
            return
        before = self.comparison.slow
        work = straggler.spread([(data + compute) / 1e9 for data, compute, _ in nanoseconds])
        parts, slow = self.comparison.note(nanoseconds, self.step_seconds), self.comparison.slow
        self.metrics.compared(work, parts, slow)
        if dist.get_rank() == 0 and (slow and slow.who) != (before and before.who):
            say(event="straggler", **(dataclasses.asdict(slow) if slow else {"rank": None}), time=time.time())

    def _end_steps(self) -> None:
        self.watch.end()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self._settle()

    def _settle(self) -> None:
        if window := self.watch.settle():
            self.metrics.split(window)
            self.own, self.step_seconds = straggler.told(window), window.seconds

    def forward_backward(self, batches: list[Samples]) -> Tensor:
        """Accumulate gradients of the mean loss over the labels of all ranks; return this rank's share of it."""
        labels = self._count(batches)
        micro_batches = [self._on_device(batch) for batch in batches]
        if self.pipeline:
            return self.pipeline.forward_backward(micro_batches, labels)
        return self._accumulate(micro_batches, labels)

    def _count(self, batches: list[Samples]) -> Tensor:
        """Return the labels of all ranks, and note how many tokens one attends to on average, for the MFU.

        Each rank's work goes along, in a place of its own: integers, so that nothing is rounded.
        """
        counts = torch.stack(
            [torch.stack(((one.labels != IGNORED_LABEL).sum(), (2 * one.positions + 1).sum())) for one in batches]
        )
        own = torch.zeros(dist.get_world_size(), len(straggler.TOLD), dtype=torch.int64)
        own[dist.get_rank()] = torch.tensor(self.own)
        counts = torch.cat((counts.sum(0), own.flatten())).to(self.device)
        self.watch.enter(Part.COMMUNICATION)
        dist.all_reduce(counts)
        self.link.probe(self.watch)
        self.watch.enter(Part.FORWARD_BACKWARD)
        counts, self.work = counts[:2], counts[2:].view_as(own)
        # Every rank of a tensor group and of a pipeline counted the same tokens.
        labels, squares = counts // (self.mesh.degrees.tensor * self.mesh.degrees.pipeline)
        # A document's odd numbers add up to its square, of which the causal half counts.
        self.pairs = squares / (2 * self.stage.global_batch_tokens)
        at_least_one: Tensor = labels.clamp(min=1)
        return at_least_one

    def _accumulate(self, micro_batches: list[MicroBatch], labels: Tensor) -> Tensor:
        model, zero_stage = self.model.whole, self.stage.parallel.zero.stage
        loss = torch.zeros((), device=self.device)
        for micro, batch in enumerate(micro_batches):
            parallelize.set_micro_step(model, zero_stage=zero_stage, last=micro == len(micro_batches) - 1)
            part = model(*batch) / labels
            part.backward()
            loss += part.detach()
        return loss

    def _on_device(self, batch: Samples) -> MicroBatch:
        place = self.device
        return (
            batch.tokens.to(place), batch.positions.to(place), batch.documents.to(place), batch.labels.to(place),
        )  # fmt: skip

    def batches(self, step: int) -> list[Samples]:
        """Return this rank's micro-batches of a step."""
        place = {"data_rank": self.mesh.data_rank, "data_world": self.mesh.degrees.data}
        batch = step + self.history.offset
        micro_steps = layout.accumulation(self.stage, self.mesh.degrees.world)
        return [self._mine(self.source.micro_batch(batch, micro_step=number, **place)) for number in range(micro_steps)]

    def _mine(self, batch: Samples) -> Samples:
        if self.mesh.degrees.context == 1:
            return batch
        mine = context.own_places(self.mesh, self.stage.sequence_length)
        # Documents stay whole: they say which keys of other ranks a token sees.
        return Batch(batch.tokens[:, mine], batch.labels[:, mine], batch.positions[:, mine], batch.documents)

    def _report(self, step: int, totals: Totals, *, seconds: float) -> None:
        speed = self.stage.global_batch_tokens / seconds
        causal, full = self.utilisation(speed)
        now = time.time()
        self.metrics.finished(step, loss=totals.loss, tokens_per_second=speed, mfu=causal, now=now)
        self.metrics.set(grad_norm=totals.gradient_norm, mfu_full_ratio=full, resident_bytes=process.resident_bytes())
        if self.device.type == "cuda":
            self.metrics.set(
                device_allocated_peak_bytes=torch.cuda.max_memory_allocated(self.device),
                device_reserved_peak_bytes=torch.cuda.max_memory_reserved(self.device),
            )
        if dist.get_rank() == 0:
            say(
                step=step, loss=totals.loss, lossHex=totals.loss.hex(), gradNorm=totals.gradient_norm,
                tokensPerSecond=round(speed, 1), mfuCausal=causal, mfuFull=full, time=now, attempt=self.attempt,
            )  # fmt: skip

    def utilisation(self, tokens_per_second: float) -> tuple[float, float] | tuple[None, None]:
        """Return the MFU of a speed, causal by the documents of the step and full; None without a known peak."""
        if self.peak is None or self.pairs is None:
            return None, None
        share = tokens_per_second / (self.peak * dist.get_world_size())
        causal = flops.per_token(self.stage.model, pairs=float(self.pairs))
        return share * causal, share * flops.per_token_full(self.stage.model, self.stage.sequence_length)

    def state(self) -> dict[str, Tensor]:
        """Return everything a checkpoint holds as tensors; writing into them changes this trainer."""
        model = {f"model.{name}": parameter.detach() for name, parameter in self.model.parameters().items()}
        return model | {f"optim.{name}": tensor for name, tensor in self.optimizer.state().items()}

    def resume(self) -> int:
        """Load the newest checkpoint of this stage and return its step; without one, 0, where the stage starts."""
        self.reached.before = self._agreed_on(self.reached.before)
        if restored := self.checkpoints.restore(self.state()):
            self._adopt(restored.extra)
            self.history = History.from_extra(restored.extra["guard"])
            return restored.step
        if self.stage.init_from:
            self._start_from(self.stage.init_from)
        return 0

    def _agreed_on(self, reached: int) -> int:
        """Return the highest step that any rank's pod had done; a pod that is new knows of none."""
        highest = torch.tensor(reached, device=self.device)
        dist.all_reduce(highest, dist.ReduceOp.MAX)
        return int(highest)

    def _start_from(self, stage: str) -> None:
        carry = self.stage.optimizer.moments == "Carry"
        started = self.checkpoints.init_from(stage, self.state(), moments=carry)
        Architecture.from_extra(started.extra, stage).check(self.stage.model, "initFrom")
        carried = carry and "updates" in started.extra  # imported weights count none
        self.optimizer.updates = int(started.extra["updates"]) if carried else 0
        if dist.get_rank() == 0:
            moments = "carried" if carried else "zero"
            say(event="started", stage=self.stage.name, source=stage, step=started.step, moments=moments)

    def judge(self, step: int, loss: float) -> int:
        """Return the step to go on from after `step` steps: that one, or an earlier one when the loss has spiked."""
        settings = self.stage.guard
        before = self.history
        self.history, spiked = guard.watch(before, settings, loss)
        if not spiked:
            return step
        self.metrics.spiked()
        self.metrics.spent(Cause.OTHER)
        healthy = self._roll_back(step, loss) if settings.spike == "RollBack" else step
        self.metrics.spent(Cause.ROLLBACK)
        if dist.get_rank() == 0:
            offset, limit = self.history.offset, guard.limit(before, settings)
            say(event="loss-spike", step=step, loss=loss, limit=limit, resumed=healthy, nextBatch=healthy + offset)
        return healthy

    def _roll_back(self, step: int, loss: float) -> int:
        """Go back to a checkpoint from before the spike, if there is one, and return its step.

        Raises:
            Diverged: no more rollbacks are allowed, or a loss that is not finite has nothing to go back to.
        """
        allowed, wrong = self.stage.guard.max_rollbacks, f"the loss spiked to {loss:.4g} at step {step}"
        if len(self.history.rollbacks) >= allowed:
            raise Diverged(f"{wrong} after {allowed} rollbacks; lower optimizer.lr, or raise guard.maxRollbacks")
        self.metrics.enter(TrainPhase.LOAD)  # for the hang watch: this may take longer than a step
        restored = self.checkpoints.roll_back(self.state(), before=guard.latest_healthy(self.history, step) + 1)
        self.metrics.spent(Cause.ROLLBACK)
        self.metrics.enter(TrainPhase.STEP)
        if restored is None:
            if not math.isfinite(loss):
                raise Diverged(f"{wrong} and no checkpoint is older; lower optimizer.lr or checkpoint.everySteps")
            self.history = guard.anew(self.history)
            return step
        self._adopt(restored.extra)
        before = History.from_extra(restored.extra["guard"])
        self.history = guard.rolled_back(self.history, before, steps=step, to=restored.step)
        self.metrics.rolled_back(restored.step)
        if published := self.checkpoints.published:
            self.seen_checkpoint = published[0]  # told when it was new
            self.metrics.published(*published)
        return restored.step

    def _skipped(self, step: int, totals: Totals) -> None:
        self.metrics.skipped()
        if self.stage.guard.non_finite == "Stop":
            wrong = f"gradient norm {totals.gradient_norm} at step {step}"
            raise Diverged(f"{wrong} and guard.nonFinite is Stop; lower optimizer.lr, or use Skip")
        if dist.get_rank() == 0:
            say(event="step-skipped", step=step, loss=totals.loss, gradNorm=totals.gradient_norm)

    def _adopt(self, extra: Mapping[str, Any]) -> None:
        self.tokens = int(extra["tokens"])
        self.optimizer.updates = int(extra["updates"])

    def save(self, step: int, *, wait: bool) -> None:
        self.metrics.enter(TrainPhase.CHECKPOINT)
        self.watch.enter(Part.CHECKPOINT_STALL)
        skipped = self.checkpoints.skipped
        self.checkpoints.save(step, self.state(), self.extra(step), wait=wait)
        self.watch.enter(Part.OTHER)
        self.metrics.checkpoints_skipped(self.checkpoints.skipped - skipped)
        self.metrics.enter(TrainPhase.STEP)

    def remember(self, step: int) -> None:
        self.metrics.spent(Cause.OTHER)
        self.watch.enter(Part.CHECKPOINT_STALL)
        self.checkpoints.remember(step, self.state(), self.extra(step))
        self.watch.enter(Part.OTHER)
        self.metrics.spent(Cause.CHECKPOINT_STALL)
        self.metrics.set(checkpoint_memory_step=self.checkpoints.remembered)

    def extra(self, step: int) -> dict[str, Any]:
        """Return everything a checkpoint of `step` holds as JSON; `batch` is the next one."""
        return {
            "tokens": self.tokens,
            "updates": self.optimizer.updates,
            "batch": step + self.history.offset,
            "guard": self.history.to_extra(),
            **Architecture.of(self.stage).to_extra(),
        }

    def notice_published(self) -> None:
        if (published := self.checkpoints.published) and published[0] != self.seen_checkpoint:
            self.seen_checkpoint = published[0]
            self.metrics.published(*published)
            if dist.get_rank() == 0:
                say(event="checkpoint", step=published[0], time=published[1], attempt=self.attempt)
