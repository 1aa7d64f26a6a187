"""Which jobs stop for one of higher priority: the least important, the youngest, and nobody in vain."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol, TypeVar


class Holder(Protocol):
    """A job that holds nodes."""

    @property
    def uid(self) -> str: ...
    @property
    def priority(self) -> int: ...
    @property
    def created(self) -> datetime: ...
    @property
    def holds(self) -> Mapping[str, int]: ...


Job = TypeVar("Job", bound=Holder)


@dataclass(slots=True)
class _Freed:
    """The nodes that would carry a pod of `gpus` once some jobs are gone."""

    gpus: int
    free: Mapping[str, int]  # by node that the waiting job may use
    freed: Counter[str] = field(default_factory=Counter)

    def add(self, holder: Holder) -> int:
        """Take a holder away; returns how many nodes that frees."""
        before = self._carrying(holder)
        self.freed.update({name: gpus for name, gpus in holder.holds.items() if name in self.free})
        return self._carrying(holder) - before

    def put_back(self, holder: Holder) -> int:
        """Undo `add`; returns how many nodes that costs."""
        before = self._carrying(holder)
        self.freed.subtract({name: gpus for name, gpus in holder.holds.items() if name in self.free})
        return before - self._carrying(holder)

    def _carrying(self, holder: Holder) -> int:
        return sum(name in self.free and self.free[name] + self.freed[name] >= self.gpus for name in holder.holds)


def victims(holders: Iterable[Job], *, gpus: int, missing: int, free: Mapping[str, int]) -> tuple[Job, ...]:
    """Return who has to stop so that `missing` further nodes have `gpus` free; nobody when all would not be enough.

    `holders` are the jobs of lower priority, and `free` the GPUs left on each node that the waiting job
    may use. One job stops instead of several when one of no higher priority than theirs is enough.
    """
    ordered = sorted(holders, key=lambda h: (h.priority, -h.created.timestamp(), h.uid))
    room, gained, picked = _Freed(gpus, free), 0, []
    for holder in ordered:
        if gained >= missing:
            break
        gained += room.add(holder)
        picked.append(holder)
    if gained < missing:
        return ()
    needed = list(picked)
    for holder in reversed(picked):
        cost = room.put_back(holder)
        if gained - cost >= missing:
            gained -= cost
            needed.remove(holder)
        else:
            room.add(holder)
    return _one_instead(ordered, needed, gpus, missing, free)


def _one_instead(
    ordered: list[Job], needed: list[Job], gpus: int, missing: int, free: Mapping[str, int]
) -> tuple[Job, ...]:
    if len(needed) > 1:
        least = max(holder.priority for holder in needed)
        alone = [h for h in ordered if h.priority <= least and _Freed(gpus, free).add(h) >= missing]
        if alone:
            return (min(alone, key=lambda h: len(h.holds)),)
    return tuple(needed)
