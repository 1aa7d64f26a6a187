"""Where every GPU-second goes: to steps that count, to a part of a recovery and its cause, or to waiting nodes."""

import enum
from collections import Counter, defaultdict
from dataclasses import dataclass, field


class Part(enum.StrEnum):
    PRODUCTIVE = "productive"  # steps that were never done again
    CHECKPOINT = "checkpoint"  # the training waits for a copy
    DETECT = "detect"  # nothing steps and nothing starts yet
    RESTART = "restart"  # processes start, load, take the first step
    REDO = "redo"  # steps that were done and lost
    QUEUE = "queue"  # no attempt: too few nodes, or the operator waits
    UNUSED = "unused"  # nodes of the job's range that the attempt was made without
    SPARE = "spare"  # healthy nodes beside the job
    REPAIR = "repair"  # nodes that are out


LOST = (Part.DETECT, Part.RESTART, Part.REDO, Part.QUEUE)
NO_CAUSE = ""


@dataclass(slots=True)
class Account:
    """GPU-seconds by part and cause. What is booked adds up to GPUs x time, whatever happens."""

    booked: defaultdict[tuple[Part, str], float] = field(default_factory=lambda: defaultdict(float))
    faults: Counter[str] = field(default_factory=Counter)  # that struck a node in use or in waiting
    interruptions: Counter[str] = field(default_factory=Counter)  # those of them that stopped the steps

    def book(self, part: Part, gpu_seconds: float, cause: str = NO_CAUSE) -> None:
        self.booked[part, cause] += gpu_seconds

    def lose(self, gpu_seconds: float, cause: str) -> None:
        """Steps that counted are to be done again."""
        self.booked[Part.PRODUCTIVE, NO_CAUSE] -= gpu_seconds
        self.booked[Part.REDO, cause] += gpu_seconds

    def of(self, part: Part) -> float:
        """Return the GPU-seconds of a part over all causes."""
        return sum(seconds for (other, _), seconds in self.booked.items() if other is part)

    @property
    def total(self) -> float:
        return sum(self.booked.values())
