"""A trace of some steps: one Chrome trace of torch's profiler for each rank.

Nothing of this runs in a stage that is not traced: a trainer and an optimizer that name their parts for
the profiler are classes of their own.
"""

import os
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function

from internlm2_spec.config import Refused
from internlm2_spec.contract import TrainPhase
from internlm2_trainer.compute.optim import AdamW, Totals
from internlm2_trainer.loop.options import Span
from internlm2_trainer.loop.train import Samples, Trainer
from internlm2_trainer.observe.output import say
from internlm2_trainer.observe.stopwatch import Stopwatch


@dataclass
class TracedTrainer(Trainer):
    """Traces the steps of `span`, once, into a file of `rank`."""

    span: Span = field(kw_only=True)
    rank: int = field(kw_only=True)
    profiler: profile | None = None
    done: bool = False

    def step(self, step: int) -> Totals:
        number = step + 1
        if number == self.span.first and not self.done:
            self.profiler = profile(activities=_activities())
            self.profiler.start()
        if self.profiler is None:
            return super().step(step)
        with record_function(f"step {number}"):
            totals = super().step(step)
        if number == self.span.last:
            self._write(self.profiler)
        return totals

    def judge(self, step: int, loss: float) -> int:
        healthy = super().judge(step, loss)
        if healthy != step and self.profiler is not None:  # rolled back: what comes next is not in the span
            self._write(self.profiler)
        return healthy

    def batches(self, step: int) -> list[Samples]:
        with record_function("data"):
            return super().batches(step)

    def forward_backward(self, batches: list[Samples]) -> Tensor:
        with record_function("forward and backward"):
            return super().forward_backward(batches)

    def _write(self, profiler: profile) -> None:
        self.metrics.enter(TrainPhase.CHECKPOINT)  # a large file takes longer than a step may
        profiler.stop()
        path = self.span.path(self.stage.name, self.rank)
        profiler.export_chrome_trace(str(path))
        self.profiler, self.done = None, True
        if self.rank == 0:
            say(event="profile", first=self.span.first, last=self.span.last, path=str(path))
        self.metrics.enter(TrainPhase.STEP)


class TracedAdamW(AdamW):
    def reduce(self, loss: Tensor, *, copies: int, stop: bool, watch: Stopwatch[Any] | None = None) -> Totals:
        with record_function("reduce"):
            return super().reduce(loss, copies=copies, stop=stop, watch=watch)

    def step(self, lr: float, gradient_norm: float) -> bool:
        with record_function("optimizer"):
            return super().step(lr, gradient_norm)


def prepare(span: Span) -> None:
    """Make the folder. Raise Refused where no file can be written."""
    try:
        span.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refused("--profile-dir", wrong=str(error), right="name a folder that can be written") from error
    if not os.access(span.folder, os.W_OK):
        wrong = f"{span.folder} cannot be written"
        raise Refused("--profile-dir", wrong=wrong, right="name a folder that can be")


def _activities() -> list[ProfilerActivity]:
    gpu = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
    return [ProfilerActivity.CPU, *gpu]
