"""`fence.json`: the one attempt that may publish, and which steps of older attempts came too late to count.

An older attempt may pass its check of the fence and be held up before it writes its manifest: no storage
has a write that depends on another object. So the fence also says from which step each attempt resumed.
What an older attempt has beyond that step does not exist for anybody, whenever it was written.
"""

import json
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Resumed:
    """An attempt went on from `step` of a stage; -1 when there was no checkpoint."""

    stage: str
    attempt: int
    step: int


@dataclass(frozen=True, slots=True)
class Fence:
    """The state of the fence. Nobody holds it at attempt -1."""

    attempt: int = -1
    resumed: tuple[Resumed, ...] = ()

    def superseded_by(self, *, stage: str, attempt: int, step: int) -> int | None:
        """Return the newer attempt that resumed below a step that `attempt` published; None when the step counts."""
        newer = [r for r in self.resumed if r.stage == stage and r.attempt > attempt and r.step < step]
        return max((r.attempt for r in newer), default=None)

    def held_by(self, attempt: int, resumed: Resumed | None = None) -> "Fence":
        """Return the fence once `attempt` holds it, and has noted from where it went on.

        An attempt that noted twice (it was restarted in place) keeps the lower step. A note that a newer one with a
        lower step implies is dropped, so that the list grows with the progress lost and not with the attempts.
        """
        notes = list(self.resumed)
        if resumed is not None:
            before = [r.step for r in notes if (r.stage, r.attempt) == (resumed.stage, resumed.attempt)]
            lowest = min([resumed.step, *before])
            notes = [r for r in notes if r.stage != resumed.stage or (r.attempt < resumed.attempt and r.step < lowest)]
            notes.append(Resumed(resumed.stage, resumed.attempt, lowest))
        return Fence(attempt, tuple(notes))

    def to_json(self) -> str:
        """Return the body of `fence.json`."""
        return json.dumps({"attempt": self.attempt, "resumed": [[r.stage, r.attempt, r.step] for r in self.resumed]})

    @classmethod
    def from_json(cls, text: str) -> "Fence":
        """Raise ValueError for a body that is not a fence."""
        try:
            data = json.loads(text)
            notes = [Resumed(str(stage), int(attempt), int(step)) for stage, attempt, step in data.get("resumed", [])]
            return cls(int(data["attempt"]), tuple(notes))
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"not a fence: {type(error).__name__} {error}") from error
