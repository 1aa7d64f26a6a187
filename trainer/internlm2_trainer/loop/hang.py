"""Whether a rank still gets on: how long a step may take, and what is seen when none finishes any more."""

import itertools
import math
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Final

from internlm2_spec.contract import ExitCode, TrainPhase
from internlm2_spec.standstill import Cluster

WINDOW: Final = 256  # steps whose times are remembered
POLL_SECONDS: Final = 1.0

# Besides torch's collectives: where a rank waits for what others say through the store, or, on a GPU, where it
# waits for the collectives of a step that were only enqueued before.
_WAITING: Final = frozenset(
    {("internlm2_trainer.checkpoint.exchange", "collect"), ("internlm2_trainer.compute.optim", "reduce")}
)


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a rank may go without progress. A false alarm costs a restart, so they are wide."""

    floor_seconds: float = 60.0
    multiple: float = 3.0  # of the 99th percentile of the last steps
    # Phases that wait for others, for the storage or for a compiler, the first step among them.
    patience_seconds: float = 1800.0
    # After SIGTERM the pod's grace is running.
    stop_floor_seconds: float = 20.0
    stop_multiple: float = 5.0


def limit(phase: TrainPhase, recent: Sequence[float], limits: Limits, *, stopping: bool) -> float:
    """Return the seconds without progress that are too many, after steps that took `recent` seconds."""
    if phase is not TrainPhase.STEP:
        return limits.patience_seconds
    if stopping:
        return max(limits.stop_floor_seconds, limits.stop_multiple * percentile(recent))
    if not recent:
        return limits.patience_seconds
    return max(limits.floor_seconds, limits.multiple * percentile(recent))


def percentile(recent: Sequence[float]) -> float:
    """Return the 99th percentile, which is the largest of fewer than 100; 0 of none."""
    return sorted(recent)[math.ceil(0.99 * len(recent)) - 1] if recent else 0.0


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of a stack: `internlm2_trainer.data.source`, `micro_batch`, 71."""

    module: str
    function: str
    line: int

    def __str__(self) -> str:
        return f"{self.module}.{self.function}, line {self.line}"


@dataclass(frozen=True, slots=True)
class Hang:
    """No progress for `seconds`; the main thread's frames, innermost first."""

    seconds: float
    stack: tuple[Frame, ...]

    @property
    def waiting(self) -> bool:
        """Whether this rank waits for others: the fault is then not its own.

        Frames of torch are looked through, down to the code that called it: a collective is in torch.distributed.
        """
        for frame in self.stack:
            if frame.module.startswith("torch.distributed") or (frame.module, frame.function) in _WAITING:
                return True
            if not frame.module.startswith("torch"):
                return False
        return False

    @property
    def place(self) -> str:
        """Where it stands: the innermost frame of our own."""
        return str(self._own or "an unknown place")

    @property
    def call(self) -> str:
        """What it waits in: the innermost function of torch.distributed, or else our own that waits."""
        inside = itertools.takewhile(lambda frame: frame.module.startswith("torch"), self.stack)
        calls = (frame.function for frame in inside if frame.module.startswith("torch.distributed"))
        return next(calls, self._own.function if self._own else "")

    @property
    def _own(self) -> Frame | None:
        return next((frame for frame in self.stack if not frame.module.startswith("torch")), None)

    def stood(self, rank: int, phase: TrainPhase, *, waits: bool) -> Cluster:
        """Return where this rank stood as its word to those who compare it with the others'."""
        return Cluster((rank,), phase, waits, self.place, self.call if waits else "")


class Watch:
    """Ends this process with exit code 77 and the stacks of its threads when a step takes far too long.

    `phase` says what the rank is doing; `on_hang` leaves its last word. Time in which the process did not
    run, because it or its machine was stopped, does not count.
    """

    def __init__(
        self, phase: Callable[[], TrainPhase], on_hang: Callable[[Hang], None], limits: Limits | None = None
    ) -> None:
        self._phase = phase
        self._on_hang = on_hang
        self._limits = limits or Limits()
        self._recent: deque[float] = deque(maxlen=WINDOW)
        self._seen = phase()
        self._waited = 0.0
        self._stopping = False
        self._steps = 0

    def begin(self) -> None:
        """Watch from a thread of its own."""
        threading.Thread(target=self._run, name="hang", daemon=True).start()

    def step_finished(self, seconds: float) -> None:
        """Note a step. The first of a process may have compiled: it is forgotten as soon as there is another."""
        if self._steps == 1:
            self._recent.clear()
        self._steps += 1
        self._recent.append(seconds)
        self._waited = 0.0

    def limit(self, phase: TrainPhase) -> float:
        """Return the seconds without progress in a phase after which this process ends itself."""
        return limit(phase, tuple(self._recent), self._limits, stopping=self._stopping)

    def stop_asked(self) -> None:
        """From now on the limits are those of a rank that should end."""
        self._waited = 0.0
        self._stopping = True

    def late(self, seconds: float) -> bool:
        """Let `seconds` pass and say whether that makes too many."""
        if (phase := self._phase()) is not self._seen:
            self._seen, self._waited = phase, 0.0
        self._waited += seconds
        return self._waited > self.limit(phase)

    def _run(self) -> None:
        poll = min(POLL_SECONDS, self._limits.stop_floor_seconds / 4, self._limits.floor_seconds / 4)
        before = time.monotonic()
        while True:
            time.sleep(poll)
            now = time.monotonic()
            if self.late(min(now - before, 2 * poll)):
                break
            before = now
        try:
            frames = sys._current_frames()
            os.write(sys.stderr.fileno(), _text(frames).encode())
            self._on_hang(Hang(self._waited, _stack(frames.get(threading.main_thread().ident or 0))))
            time.sleep(3 * poll)  # the end of this rank would end those that wait for it before they say the same
        finally:
            os._exit(ExitCode.HANG)


def _stack(frame: FrameType | None) -> tuple[Frame, ...]:
    frames = []
    while frame is not None:
        frames.append(Frame(frame.f_globals.get("__name__", "?"), frame.f_code.co_name, frame.f_lineno))
        frame = frame.f_back
    return tuple(frames)


def _text(frames: dict[int, FrameType]) -> str:
    """Return the stacks of all threads as one text: ranks that share standard error must not mix theirs."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    blocks = []
    for ident, frame in frames.items():
        lines = "\n".join(f"  {each}" for each in _stack(frame))
        blocks.append(f"thread {names.get(ident, ident)} (most recent call first):\n{lines}\n")
    return f"process {os.getpid()} hangs; its threads:\n" + "".join(blocks)
