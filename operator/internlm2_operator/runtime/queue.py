"""Keys that wait for a worker: many reasons to look at one thing become one look.

The rules of client-go's work queue: a key is handed to one worker at a time; a key that is added
while it is worked on comes again afterwards; a key that failed comes back later, and later still.
"""

import asyncio
import heapq
from collections.abc import Callable
from typing import Final, Generic, TypeVar

Key = TypeVar("Key")

FIRST_DELAY: Final = 0.5
LONGEST_DELAY: Final = 60.0


class WorkQueue(Generic[Key]):
    """Unordered but fair: keys come out in the order in which they first fell due."""

    def __init__(self, *, uniform: Callable[[float, float], float]) -> None:
        self._uniform = uniform  # spreads retries, so that many keys that failed together do not return together
        self._due: dict[Key, float] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._busy: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._order = 0
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._due)

    def add(self, key: Key, *, delay: float = 0.0) -> None:
        """Ask for `key` in `delay` seconds, or sooner if somebody asks for it sooner."""
        due = asyncio.get_running_loop().time() + delay
        if self._due.get(key, float("inf")) <= due:
            return
        self._due[key] = due
        if key not in self._busy:
            self._push(key, due)

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
                return key
            self._changed.clear()
            try:
                async with asyncio.timeout(wait):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def done(self, key: Key) -> None:
        self._busy.discard(key)
        if key in self._due:
            self._push(key, self._due[key])

    def _push(self, key: Key, due: float) -> None:
        self._order += 1
        heapq.heappush(self._heap, (due, self._order, key))
        self._changed.set()

    def _next(self, now: float) -> tuple[Key | None, float | None]:
        """The key that is due, or the seconds until one is; entries that were overtaken are dropped."""
        while self._heap:
            due, _, key = self._heap[0]
            if key in self._busy or self._due.get(key) != due:
                heapq.heappop(self._heap)
            elif due > now:
                return None, due - now
            else:
                heapq.heappop(self._heap)
                del self._due[key]
                return key, None
        return None, None
