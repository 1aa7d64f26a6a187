"""Keys that wait for a worker: many reasons to look at one thing become one look.

The rules of client-go's work queue: a key is handed to one worker at a time; a key that is added
while it is worked on comes again afterwards; a key that failed comes back later, and later still.
"""

import asyncio
import contextlib
import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

Key = TypeVar("Key")
Asked = TypeVar("Asked", contravariant=True)

FIRST_DELAY: Final = 0.5
LONGEST_DELAY: Final = 60.0
# A look that nothing asked for but the clock lets news go first, for so many seconds.
PATIENCE: Final = 30.0


class Asks(Protocol[Asked]):
    """Where one asks for a look at a key."""

    def add(self, key: Asked, *, delay: float = 0.0) -> None:
        """Ask for `key` in `delay` seconds, or sooner if somebody asks for it sooner."""


@dataclass(frozen=True, slots=True)
class _Ask:
    """When a key falls due, and whether it may wait for others that fell due later."""

    due: float
    patient: bool


class ByKind:
    """A queue for each kind of key: a thousand jobs that want a look do not hold up the node that explains why."""

    def __init__(self, queues: Mapping[str, "WorkQueue[tuple[str, str]]"]) -> None:
        self._queues = queues

    def add(self, key: tuple[str, str], *, delay: float = 0.0) -> None:
        self._queues[key[0]].add(key, delay=delay)


class WorkQueue(Generic[Key]):
    """Fair: keys come out in the order in which they fell due, the patient ones after all others or PATIENCE late."""

    def __init__(
        self, *, uniform: Callable[[float, float], float], taken: Callable[[float], object] = lambda _: None
    ) -> None:
        self._uniform = uniform  # spreads retries, so that many keys that failed together do not return together
        self._taken = taken  # is told the seconds that a key waited after it fell due
        self._asked: dict[Key, _Ask] = {}
        self._heaps: tuple[list[tuple[float, int, Key]], list[tuple[float, int, Key]]] = ([], [])  # the patient second
        self._busy: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._order = 0
        self._changed = asyncio.Event()
        self._rested = asyncio.Event()  # a worker is done with a key

    def __len__(self) -> int:
        return len(self._asked)

    def add(self, key: Key, *, delay: float = 0.0, patient: bool = False) -> None:
        """Ask for `key` in `delay` seconds, or sooner if somebody asks for it sooner."""
        ask, known = _Ask(asyncio.get_running_loop().time() + delay, patient), self._asked.get(key)
        if known is not None and known.due <= ask.due and (patient or not known.patient):
            return
        if known is not None and not known.patient and patient:
            return  # news that is to come soon makes up for the clock
        self._asked[key] = ask
        if key not in self._busy:
            self._push(key, ask)

    def fail(self, key: Key) -> float:
        """Ask for a key again after a failure; returns the seconds until then, doubled at each failure."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        delay = min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(failures, 10)) * self._uniform(0.75, 1.25)
        self.add(key, delay=delay)
        return delay

    def forget(self, key: Key) -> None:
        """The key went well: its next failure is a first one."""
        self._failures.pop(key, None)

    async def take(self) -> Key:
        """Wait for the next key that is due. `done` must follow."""
        loop = asyncio.get_running_loop()
        while True:
            key, wait = self._next(loop.time())
            if key is not None:
                self._busy.add(key)
                self._taken(-(wait or 0.0))
                return key
            self._changed.clear()
            try:
                async with asyncio.timeout(wait):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def calm(self, seconds: float) -> None:
        """Wait until nothing is due and nobody works on a key, at most so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._presses(asyncio.get_running_loop().time()):
                    self._rested.clear()
                    await self._rested.wait()

    def _presses(self, now: float) -> bool:
        return bool(self._busy) or any((head := self._head(lane)) is not None and head.due <= now for lane in (0, 1))

    def done(self, key: Key) -> None:
        self._busy.discard(key)
        self._rested.set()
        if key in self._asked:
            self._push(key, self._asked[key])

    def _push(self, key: Key, ask: _Ask) -> None:
        self._order += 1
        heapq.heappush(self._heaps[ask.patient], (ask.due, self._order, key))
        self._changed.set()

    def _next(self, now: float) -> tuple[Key | None, float | None]:
        """The key that is due, and the seconds until one is, below zero when it was due before."""
        heads = [(head.due + PATIENCE * head.patient, head) for patient in (0, 1) if (head := self._head(patient))]
        due = [(order, head) for order, head in heads if head.due <= now]
        if not due:
            return None, min((head.due - now for _, head in heads), default=None)
        _, first = min(due, key=lambda one: one[0])
        _, _, key = heapq.heappop(self._heaps[first.patient])
        del self._asked[key]
        return key, first.due - now

    def _head(self, patient: int) -> _Ask | None:
        """Return what the first entry of a heap asks for; those that were overtaken are dropped."""
        heap = self._heaps[patient]
        while heap:
            due, _, key = heap[0]
            ask = _Ask(due, bool(patient))
            if key not in self._busy and self._asked.get(key) == ask:
                return ask
            heapq.heappop(heap)
        return None
