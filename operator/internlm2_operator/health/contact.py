"""Nodes that fall silent, and are there all the same: nobody could reach the API server, or the kubelet alone is away.

Kubelets renew their leases at the API server. While it is away none can, and once it is back the node controller may
call nodes silent before their kubelets have tried again. A kubelet that restarts, or is starved for a while, takes
nothing from the trainers on its node: they answer who asks them.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

# No grace of a node controller is as short as this.
BLIP: Final = timedelta(seconds=3)
# A kubelet renews every 10 s, and waits up to 7 s between tries that fail.
LATE: Final = timedelta(seconds=20)
# Trainers are asked each second, and given one to answer.
HEARD: Final = timedelta(seconds=5)
# A kubelet that is away for longer is ill itself, however well the trainers on its node are.
KUBELET_AWAY: Final = timedelta(minutes=1)


def lives(since: datetime, heard: datetime) -> datetime:
    """Return until when a node that is called silent since then may only lack its kubelet: a trainer on it was heard.

    What a trainer says is its user's word. It can hold a cordon back for that minute, of a node that takes no pods
    meanwhile, and no longer.
    """
    return min(heard + HEARD, since + KUBELET_AWAY)


@dataclass(frozen=True, slots=True)
class Contact:
    """When the API server answered us last, since when it does not, and from when until when it was away before."""

    answered: datetime | None = None
    silent: datetime | None = None  # None while it answers
    away: datetime | None = None
    back: datetime | None = None

    def heard(self, now: datetime, *, answered: bool) -> "Contact":
        """Return what is known after one more call, which was answered or not."""
        if not answered:
            return self if self.silent else replace(self, silent=self.answered or now)
        if self.silent is None or now - self.silent < BLIP:
            return replace(self, answered=now, silent=None)
        return Contact(answered=now, away=self.silent, back=now)

    def excuses(self, since: datetime) -> datetime | None:
        """Return until when a kubelet that is called silent since then may only have been cut off, None for never."""
        if self.silent is not None and self.silent <= since:
            return since + LATE  # nobody is called silent before the API server is back
        if self.away is None or self.back is None or not self.away <= since < self.back + LATE:
            return None
        return self.back + LATE
