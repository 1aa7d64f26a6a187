"""Whether training goes wrong by itself: decisions from losses that all ranks share, so that all decide alike.

A spike is judged by median and median absolute deviation, which a few wild losses do not move, and only
when it lasts: a single bad batch is what clipping is for (Hu et al., Acme, NSDI 2024: go back when the
loss does not recover, to an earlier checkpoint, and leave the following batches out).
"""

import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from internlm2_spec.config import Guard

SIGMA: Final = 1.4826  # of a normal distribution, in median absolute deviations
# A loss that hardly varies has a tiny deviation: a rise below this part of the median is never a spike.
LEAST_RISE: Final = 0.05


class Diverged(RuntimeError):
    """Training went wrong in a way that the stage's guard does not let pass."""


@dataclass(frozen=True, slots=True)
class Rollback:
    """One return to an earlier step. Steps are counts of finished steps; `batches` left out: [first, stop)."""

    noticed: int
    resumed: int
    batches: tuple[int, int]


@dataclass(frozen=True, slots=True)
class History:
    """What the guard remembers, as part of every checkpoint.

    `losses` are the last healthy ones, at most a window, oldest first. `above` counts the steps in a row,
    up to the last, that were not healthy. `offset` is how many batches were left out so far: step n
    (from 0) trains on batch n + offset.
    """

    losses: tuple[float, ...] = ()
    above: int = 0
    offset: int = 0
    rollbacks: tuple[Rollback, ...] = ()

    def to_extra(self) -> dict[str, Any]:
        """Return the history as JSON that `from_extra` reads back exactly."""
        return asdict(self)

    @classmethod
    def from_extra(cls, extra: Mapping[str, Any]) -> "History":
        rollbacks = tuple(Rollback(**each | {"batches": tuple(each["batches"])}) for each in extra["rollbacks"])
        return cls(tuple(extra["losses"]), extra["above"], extra["offset"], rollbacks)


def limit(history: History, settings: Guard) -> float:
    """Return the loss above which a step is not healthy; infinite until the window is full."""
    if len(history.losses) < settings.window:
        return math.inf
    median = statistics.median(history.losses)
    deviation = statistics.median(abs(loss - median) for loss in history.losses)
    return median + max(settings.threshold * SIGMA * deviation, LEAST_RISE * abs(median))


def watch(history: History, settings: Guard, loss: float) -> tuple[History, bool]:
    """Take in the loss of a step and say whether it makes a spike: `patience` steps in a row not healthy.

    Losses of a spike never enter the window. After a spike that is only reported the window starts anew.
    """
    if settings.spike == "Off":
        return history, False
    if math.isfinite(loss) and loss <= limit(history, settings):
        losses = (*history.losses, loss)[-settings.window :]
        return replace(history, losses=losses, above=0), False
    history = replace(history, above=history.above + 1)
    if history.above < settings.patience:
        return history, False
    return anew(history) if settings.spike == "Report" else history, True


def anew(history: History) -> History:
    """Return the history with an empty window: a loss that stays where it is becomes the measure."""
    return replace(history, losses=(), above=0)


def latest_healthy(history: History, steps: int) -> int:
    """Return the newest step that a rollback after `steps` steps may return to.

    That is before the first loss of the spike. When the last rollback has not come past the place where its
    spike was noticed, its checkpoint was no better: then before that one.
    """
    healthy = steps - history.above
    if history.rollbacks and healthy <= history.rollbacks[-1].noticed:
        healthy = min(healthy, history.rollbacks[-1].resumed - 1)
    return healthy


def rolled_back(history: History, restored: History, *, steps: int, to: int) -> History:
    """Return the history after `steps` steps were given up for the checkpoint of step `to`, which held `restored`.

    The batches of the steps given up come no more.
    """
    first, stop = to + restored.offset, steps + history.offset
    rollback = Rollback(steps, to, (first, stop))
    return replace(restored, above=0, offset=stop - to, rollbacks=(*history.rollbacks, rollback))
