"""What a node was cordoned for, and how much that still counts against it.

The score halves every week, so that a node which was mended is as good as the others after a month, and one that comes
back again and again stays last in line. Three of 63 nodes were seen to cause more than half of all exclusions
(arXiv 2605.09370).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

HALF_LIFE: Final = timedelta(days=7)
# The annotation is bounded; the score remembers what fell off its end.
KEPT: Final = 16


@dataclass(frozen=True, slots=True)
class Past:
    """One cordon of ours: `at` is when it was made, `lifted` when the operator took it off after a passed check."""

    cause: str
    at: datetime
    action: str = ""
    lifted: datetime | None = None


@dataclass(frozen=True, slots=True)
class History:
    """The newest KEPT cordons, oldest first, and the score as it was at `scored`."""

    faults: tuple[Past, ...] = ()
    points: float = 0.0
    scored: datetime | None = None

    def score(self, now: datetime) -> float:
        """Return the number of cordons, each halved for every week since."""
        if self.scored is None:
            return 0.0
        return float(self.points * 0.5 ** (max(timedelta(0), now - self.scored) / HALF_LIFE))

    def cordoned(self, cause: str, action: str, now: datetime) -> "History":
        """Return the history with one cordon more."""
        faults = (*self.faults, Past(cause=cause, at=now, action=action))[-KEPT:]
        return History(faults=faults, points=self.score(now) + 1.0, scored=now)

    def lifted(self, at: datetime) -> "History":
        """Return the history in which the last cordon is over; the score stays what it is."""
        if not self.faults:
            return self
        return replace(self, faults=(*self.faults[:-1], replace(self.faults[-1], lifted=at)))

    @property
    def last(self) -> Past | None:
        return self.faults[-1] if self.faults else None

    def to_json(self) -> str:
        """Return the annotation's text, keys sorted so that equal histories are equal text."""
        faults = [
            {"cause": f.cause, "at": f.at.isoformat(), "action": f.action}
            | ({"lifted": f.lifted.isoformat()} if f.lifted else {})
            for f in self.faults
        ]
        scored = self.scored.isoformat() if self.scored else None
        return json.dumps({"score": round(self.points, 4), "scored": scored, "faults": faults}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "History":
        """Parse an annotation; text that is not ours is an empty history."""
        try:
            fields: Mapping[str, Any] = json.loads(text)
            points, scored = float(fields["score"]), fields["scored"]
            if not 0.0 <= points < 1e6:  # NaN is not, either
                return cls()
            faults = tuple(map(_past, fields["faults"]))[-KEPT:]
            return cls(faults=faults, points=points, scored=aware(scored) if scored else None)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
            return cls()


def aware(text: str) -> datetime:
    """Parse a time with its zone.

    Raises:
        ValueError: it has none, so that nobody can tell which moment is meant.
    """
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError(f"{text} has no time zone")
    return at


def _past(fields: Mapping[str, Any]) -> Past:
    lifted = fields.get("lifted")
    return Past(
        cause=str(fields["cause"]),
        at=aware(fields["at"]),
        action=str(fields.get("action", "")),
        lifted=aware(lifted) if lifted else None,
    )
