"""What a person at a terminal sees of a run: one line that changes in place, events as lines above it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from internlm2_spec.contract import TrainPhase

BAR: Final = 16
# Shorter than this a phase is not worth a word.
SILENT_SECONDS: Final = 5.0
SMOOTHING: Final = 0.1  # of the time of a step
_PHASES: Final = {
    TrainPhase.INIT: "starting: ranks meet, the model is built",
    TrainPhase.LOAD: "loading a checkpoint",
    TrainPhase.STEP: "first step",
    TrainPhase.CHECKPOINT: "saving a checkpoint",
    TrainPhase.DONE: "ending",
}
_LEFT_OUT: Final = frozenset({"event", "time", "attempt"})


@dataclass(frozen=True, slots=True)
class View:
    """What is known of the run so far. Times are seconds since the epoch."""

    stage: str
    steps: int
    step: int = 0
    loss: float | None = None
    gradient_norm: float | None = None
    tokens_per_second: float | None = None
    mfu: float | None = None
    step_seconds: float | None = None  # smoothed, from the end of a step to the next one's
    step_time: float | None = None
    checkpoint_time: float | None = None
    phase: TrainPhase = TrainPhase.INIT
    phase_time: float = 0.0


def seen(view: View, said: Mapping[str, Any]) -> View:
    """Return the view after one more line of output."""
    if "lossHex" in said:
        return _stepped(view, said)
    if said.get("event") == "checkpoint":
        return replace(view, checkpoint_time=said["time"])
    if said.get("event") == "resumed":
        return replace(view, step=said["step"])
    if said.get("event") == "loss-spike":
        return replace(view, step=said["resumed"], step_time=None)
    return view


def _stepped(view: View, said: Mapping[str, Any]) -> View:
    seconds = view.step_seconds
    if view.step_time is not None:
        last = said["time"] - view.step_time
        seconds = last if seconds is None else seconds + SMOOTHING * (last - seconds)
    return replace(
        view, step=said["step"], loss=said["loss"], gradient_norm=said["gradNorm"], mfu=said["mfuCausal"],
        tokens_per_second=said["tokensPerSecond"], step_seconds=seconds, step_time=said["time"],
    )  # fmt: skip


def entered(view: View, phase: TrainPhase, now: float) -> View:
    """Return the view in a phase that is seen at `now`."""
    return view if phase is view.phase else replace(view, phase=phase, phase_time=now)


def line(view: View, now: float, width: int) -> str:
    """Return the line that shows a run, at most `width` wide."""
    share = view.step / view.steps
    done = round(BAR * share)
    parts = [view.stage, f"[{'#' * done}{'.' * (BAR - done)}]", f"{view.step}/{view.steps}", f"{share:.0%}"]
    if phase := _phase(view, now):
        return "  ".join([*parts, phase])[:width]
    if view.loss is not None and view.gradient_norm is not None:
        parts += [f"loss {view.loss:.4f}", f"grad {view.gradient_norm:.2f}"]
    if view.tokens_per_second is not None:
        parts.append(f"{view.tokens_per_second:,.0f} tokens/s")
    if view.mfu is not None:
        parts.append(f"MFU {view.mfu:.1%}")
    if view.step_seconds is not None:
        parts.append(f"ETA {duration(view.step_seconds * (view.steps - view.step))}")
    if view.checkpoint_time is not None:
        parts.append(f"saved {duration(now - view.checkpoint_time)} ago")
    return "  ".join(parts)[:width]


def _phase(view: View, now: float) -> str:
    """Return what a phase that takes long is, and for how long it has; nothing while steps go by."""
    seconds = now - view.phase_time
    if seconds < SILENT_SECONDS or (view.phase is TrainPhase.STEP and view.step_time is not None):
        return ""
    return f"{_PHASES[view.phase]} ... {duration(seconds)}"


def duration(seconds: float) -> str:
    """Return 7s, 2m05s, 3h04m or 5d06h."""
    whole = max(0, round(seconds))
    for size, unit, part, name in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // part:02d}{name}"
    return f"{whole}s"


def event(said: Mapping[str, Any]) -> str | None:
    """Return the line of an event, None for a step: `12:03:04 checkpoint  step 20`."""
    if "event" not in said:
        return None
    clock = time.strftime("%H:%M:%S ", time.localtime(said["time"])) if "time" in said else ""
    facts = [f"{key} {_short(value)}" for key, value in said.items() if key not in _LEFT_OUT and value is not None]
    return "  ".join([f"{clock}{said['event']}", *facts])


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
