"""The trainer as seen from outside: where its steps are, and from where they come back."""

import math
from dataclasses import dataclass

from internlm2_spec.contract import TrainPhase


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds of a step at full size, and what saving costs beside it."""

    step_seconds: float
    every_steps: int
    memory_every_steps: int  # 0: no copies in memory
    save_stall: float
    copy_stall: float
    save_seconds: float

    @property
    def stall(self) -> float:
        """Return the seconds that a step waits for copies, on average."""
        copies = self.copy_stall / self.memory_every_steps if self.memory_every_steps else 0.0
        return self.save_stall / self.every_steps + copies


@dataclass(frozen=True, slots=True)
class Run:
    """Processes from their start to their end. Steps go on from `base` at `stepping_at`; times are in seconds."""

    started_at: float
    loading_at: float
    stepping_at: float
    base: int
    step_seconds: float  # at this size, stalls included
    crew: tuple[str, ...]  # pods in rank order

    def phase(self, now: float) -> TrainPhase:
        if now >= self.stepping_at:
            return TrainPhase.STEP
        return TrainPhase.LOAD if now >= self.loading_at else TrainPhase.INIT

    def position(self, now: float) -> float:
        """Return the steps done since the beginning of the stage, the unfinished one as a fraction."""
        return self.base + max(0.0, now - self.stepping_at) / self.step_seconds

    def newest(self, now: float, every: int, after: float = 0.0) -> int | None:
        """Return the newest multiple of `every` that this run had done `after` seconds before now."""
        step = math.floor(self.position(now - after) / every + 1e-9) * every if every else 0
        return step if step > self.base else None


@dataclass(frozen=True, slots=True)
class Copies:
    """Steps that a restart can go back to."""

    stored: int = 0
    memory: int | None = None  # None: the pods that held it are gone

    def after(self, run: Run, pace: Pace, now: float) -> "Copies":
        """Return what is there when `run` ends now."""
        stored = run.newest(now, pace.every_steps, pace.save_seconds)
        memory = run.newest(now, pace.memory_every_steps) if pace.memory_every_steps else None
        return Copies(
            stored=self.stored if stored is None else stored,
            memory=self.memory if memory is None else memory,
        )

    @property
    def newest(self) -> int:
        return max(self.stored, self.memory or 0)
