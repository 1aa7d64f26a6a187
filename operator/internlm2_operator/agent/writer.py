"""When the condition is written: a change at once, what stays rarely, and never more often than the bucket lets it."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from internlm2_operator.agent.metrics import Metrics
from internlm2_operator.cluster import errors
from internlm2_operator.cluster.gateway import Gateway, Object
from internlm2_operator.health.condition import TYPE, Condition, Event, events, say_time
from internlm2_spec import bucket

FIELD_MANAGER: Final = "internlm2-agent"
_BURST: Final = 3
_COUNTS_SECONDS: Final = 10.0
"""A message where only the number of events left out has changed is written so often."""
_AGAIN_SECONDS: Final = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class Writer:
    """The one writer of the condition; `current` says what it should be at the moment of the write."""

    def __init__(
        self,
        gateway: Gateway,
        node: str,
        metrics: Metrics,
        current: Callable[[], Condition],
        *,
        writes_per_second: float,
        heartbeat_seconds: float,
    ) -> None:
        self._gateway = gateway
        self._node = node
        self._metrics = metrics
        self._current = current
        self._heartbeat = heartbeat_seconds
        self._bucket = bucket.full(_BURST, writes_per_second, time.monotonic())
        self._awake = asyncio.Event()
        self._since: float | None = None  # monotonic second of the oldest change that is not written
        self._status, self._moved = "", ""
        self._written: Condition | None = None
        self._written_at = 0.0

    def found(self, there: Object | None) -> None:
        """Take over what is on the node: a status that stays keeps its time."""
        if there is not None:
            self._status, self._moved = str(there.get("status")), str(there.get("lastTransitionTime") or "")

    def wake(self) -> None:
        """Say that the condition may have changed."""
        self._since = self._since or time.monotonic()
        self._awake.set()

    async def run(self) -> None:
        """Write until cancelled."""
        failures = 0
        while True:
            if not self._due(self._current(), time.monotonic()):
                self._since = None
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._awake.wait(), 1.0)
                self._awake.clear()
                continue
            await asyncio.sleep(self._bucket.hold(time.monotonic()))
            self._bucket = self._bucket.taken(1, time.monotonic())
            try:
                await self._write(self._current())
                failures = 0
            except errors.ClusterError as error:
                self._metrics.writes.labels("failed").inc()
                pause = _AGAIN_SECONDS[min(failures, len(_AGAIN_SECONDS) - 1)]
                failures += 1
                logging.getLogger(__name__).warning("%s; again in %g s", error, pause)
                await asyncio.sleep(pause)

    def _due(self, wanted: Condition, now: float) -> bool:
        age = now - self._written_at
        if self._written is None or age >= self._heartbeat or _substance(wanted) != _substance(self._written):
            return True
        return wanted != self._written and age >= _COUNTS_SECONDS

    async def _write(self, wanted: Condition) -> None:
        now = say_time(datetime.now(UTC))[:19] + "Z"  # a Time of Kubernetes has whole seconds
        moved = self._moved if wanted.status == self._status and self._moved else now
        body = {
            "type": TYPE,
            "status": wanted.status,
            "reason": wanted.reason,
            "message": wanted.message,
            "lastHeartbeatTime": now,
            "lastTransitionTime": moved,
        }
        started = time.monotonic()
        await self._gateway.write_condition(self._node, body, manager=FIELD_MANAGER)
        self._status, self._moved = wanted.status, moved
        self._written, self._written_at = wanted, time.monotonic()
        self._metrics.writes.labels("written").inc()
        self._metrics.waited.set(self._written_at - (self._since or started))
        self._metrics.healthy.set({"True": 1, "False": 0}.get(wanted.status, -1))


def _substance(one: Condition) -> tuple[str, str, tuple[Event, ...]]:
    """Return what an operator acts on: all but the number of events left out."""
    return (one.status, one.reason, events(one.message))
