"""Objects of one sort, followed by LIST and WATCH as client-go's reflector does, in the cluster or in some namespaces.

A watch goes on from the version where it broke, so nothing is lost and nothing is listed again; only
when that version is not kept any more is everything listed anew, and what is gone is buried.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from typing import Any, Final

from internlm2_operator.cluster import errors
from internlm2_operator.cluster.gateway import Census, Gateway, Kind

RETRY_SECONDS: Final = 1.0
# The server ends a watch after this long, each one at another moment.
SHORTEST_WATCH, LONGEST_WATCH = 300, 600

Sink = Callable[[str, dict[str, Any]], bool]
"""Takes the event's type (empty in a LIST) and the object; True when it was news."""
log = logging.getLogger(__name__)


class Follower:
    """Brings objects into the cache: `kinds` are one sort of them, in the whole cluster or in a namespace each."""

    def __init__(self, gateway: Gateway, *kinds: Kind, take: Sink, bury: Callable[[Census], int]) -> None:
        self._gateway = gateway
        self._heard = dict.fromkeys(kinds, time.monotonic())
        self._take = take
        self._bury = bury
        self._versions = dict.fromkeys(kinds, 0)
        self._refused: set[Kind] = set()

    @property
    def heard(self) -> float:
        """Return when the last event or bookmark came (monotonic), of the stream that has been silent for longest.

        A namespace that refuses us is silent and tells nothing about the watches.
        """
        return min((at for kind, at in self._heard.items() if kind not in self._refused), default=time.monotonic())

    @heard.setter
    def heard(self, now: float) -> None:
        self._heard = dict.fromkeys(self._heard, now)

    def silence(self) -> float:
        """Return the seconds since something was heard."""
        return time.monotonic() - self.heard

    async def list(self) -> int:
        """LIST everything; returns how many objects were news, those that are gone included.

        One of several namespaces may refuse us, for who administers it can take our rights there away: the others go
        on, and nothing counts as gone.

        Raises:
            ClusterError: a LIST failed; what came before is taken.
        """
        news = 0
        found: list[Census] = []
        for kind in self._versions:
            try:
                told, listing = await self._census(kind)
            except errors.GiveUp as error:
                if len(self._versions) == 1:
                    raise
                self._tell_refused(kind, error)
                continue
            self._refused.discard(kind)
            news += told
            # A watch that breaks later goes on from here: what it had not brought yet is in the LIST.
            self._versions[kind] = max(self._versions[kind], listing.version)
            found.append(listing)
        if len(found) < len(self._versions):
            return news
        uids = frozenset[str]().union(*(listing.uids for listing in found))
        # What is newer than the oldest of the LISTs may have come after it.
        return news + self._bury(Census(uids, min(listing.version for listing in found)))

    async def _census(self, kind: Kind) -> tuple[int, Census]:
        news = 0

        def take(raw: dict[str, Any]) -> None:
            nonlocal news
            news += self._one(kind, "", raw)

        listing = await self._gateway.census(kind, take)
        return news, listing

    def _tell_refused(self, kind: Kind, error: errors.GiveUp) -> None:
        if kind not in self._refused:
            log.error("%s is left out: %s", kind.path, error)
        self._refused.add(kind)

    async def run(self) -> None:
        """Follow for ever, from the last LIST on."""
        async with asyncio.TaskGroup() as group:
            for kind in self._versions:
                group.create_task(self._run(kind))

    async def _run(self, kind: Kind) -> None:
        said = ""
        while True:
            try:
                await self._follow(kind)
                said = ""
            except errors.Expired as error:
                log.info("watch of %s begins anew: %s", kind.path, error)
                said = await self._anew(kind)
            except errors.ClusterError as error:
                # An outage has many tries; the first is news.
                if said != type(error).__name__:
                    log.warning("watch of %s broke: %s", kind.path, error)
                said = type(error).__name__
                await asyncio.sleep(RETRY_SECONDS)

    async def _follow(self, kind: Kind) -> None:
        seconds = random.randint(SHORTEST_WATCH, LONGEST_WATCH)
        async for event in self._gateway.watch(kind, self._versions[kind], seconds=seconds):
            self._heard[kind] = time.monotonic()
            if event["type"] != "BOOKMARK":
                self._one(kind, event["type"], event["object"])
            self._versions[kind] = int(event["object"]["metadata"]["resourceVersion"])

    async def _anew(self, kind: Kind) -> str:
        try:
            await self.list()
        except errors.ClusterError as error:
            log.warning("cannot list %s: %s", kind.path, error)
            await asyncio.sleep(RETRY_SECONDS)
            return type(error).__name__
        return ""

    def _one(self, kind: Kind, event: str, raw: dict[str, Any]) -> bool:
        try:
            return self._take(event, raw)
        except Exception:
            # One object that cannot be read must not blind us to all others.
            log.exception("%s %s is not readable", kind.path, raw["metadata"].get("name"))
            return False
