"""The agent's process: the kernel's log and measurements in, one condition of its node out."""

import asyncio
import contextlib
import logging
import random
import signal
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from internlm2_operator.agent import kmsg, measure, memory
from internlm2_operator.agent.metrics import Metrics
from internlm2_operator.agent.options import Options
from internlm2_operator.agent.writer import Writer
from internlm2_operator.cluster import errors, pages
from internlm2_operator.cluster.gateway import Gateway, Object, connect, unobserved
from internlm2_operator.health import host, kernel
from internlm2_operator.health.condition import (
    TYPE,
    Condition,
    Event,
    condition,
    event,
    event_of,
    forget,
    keep,
    restarted,
)
from internlm2_spec import contract
from internlm2_spec.config import Refused

_TICK_SECONDS: Final = 1.0
_DISK_SECONDS: Final = 5.0
_HANG_SECONDS: Final = 10.0
_STALE_SECONDS: Final = 90.0
_REOPEN_SECONDS: Final = 5.0
_logger: Final = logging.getLogger(__name__)


class Agent:
    """What one agent knows of its node. All state that outlives a restart is in `known`."""

    def __init__(self, options: Options, gateway: Gateway, metrics: Metrics) -> None:
        self._options = options
        self._gateway = gateway
        self._metrics = metrics
        known = memory.recall(options.state, _boot(options))
        # What is not measured any more could never end.
        self.known = replace(known, levels=tuple(e for e in known.levels if _measured(e, options)))
        self._writer = Writer(
            gateway, options.node, metrics, self.condition,
            writes_per_second=options.writes_per_second, heartbeat_seconds=options.heartbeat_seconds,
        )  # fmt: skip
        self._look = asyncio.Event()
        self._caught_up = asyncio.Event()
        self._carriers: dict[str, int] = {}
        self._reset: datetime | None = None
        self._ticked = time.monotonic()

    def condition(self) -> Condition:
        """Return what is to be written now."""
        return condition((*self.known.kept.events, *self.known.levels), self.known.kept.left_out)

    def sick(self) -> str:
        late = time.monotonic() - self._ticked
        return f"no measurement for {late:.0f} s" if late > _STALE_SECONDS else ""

    async def run(self) -> None:
        """Work until cancelled."""
        await self._first()
        async with asyncio.TaskGroup() as group:
            for work in (self._follow(), self._measure(), self._watch_node(), self._watch_clock(), self._write()):
                group.create_task(work)

    async def _write(self) -> None:
        # What is in the log already comes before the first word: a lost memory must not make a sick node well.
        await self._caught_up.wait()
        await self._writer.run()

    async def _first(self) -> None:
        """Learn what is on the node already, so that a restart moves no time; without an answer go on at once."""
        with contextlib.suppress(errors.ClusterError):
            node = await self._gateway.node(self._options.node)
            self._writer.found(_condition_on(node))
            self._judge_node(node)

    async def _follow(self) -> None:
        """Read the kernel's log; while it cannot be read the condition is Unknown at best."""
        while True:
            try:
                async for batch in kmsg.batches(self._options.kmsg):
                    self._level("KernelLogUnreadable", "", None)
                    self._take(batch)
                    if batch.drained:
                        self._caught_up.set()
            except OSError as error:
                why = f"{error.strerror or error}"
                self._level("KernelLogUnreadable", "", event("KernelLogUnreadable", "", _now(), why))
                self._caught_up.set()
                _logger.error("%s: %s; it is opened again in %g s", self._options.kmsg, why, _REOPEN_SECONDS)
            await asyncio.sleep(_REOPEN_SECONDS)

    def _take(self, batch: kmsg.Batch) -> None:
        self._metrics.lost.inc(batch.lost)
        before = self.known
        wall, boot = _now(), time.monotonic()
        for line in batch.lines:
            record = kernel.record(line)
            self._metrics.records.labels(_writer_of(line, record)).inc()
            if record is None or record.sequence <= self.known.sequence:
                continue
            self.known = replace(self.known, sequence=record.sequence)
            if record.facility == kernel.KERNEL and (seen := kernel.read(record.text)) is not None:
                # The log's clock drifts from the wall's by seconds in months: it only dates what we did not see happen.
                age = 0.0 if batch.live else max(0.0, boot - record.microseconds / 1e6)
                self._see(seen, wall - timedelta(seconds=age))
        # Not later: what was dealt with long ago and is read anew must not be told for a moment.
        self.known = replace(self.known, kept=forget(self.known.kept, wall, self._reset))
        if self.known.kept != before.kept:
            self._changed()
        elif self.known.sequence != before.sequence:
            self._save()

    def _see(self, seen: kernel.Seen, at: datetime) -> None:
        if isinstance(seen, kernel.DriverLoaded):
            self.known = replace(self.known, kept=restarted(self.known.kept))
        elif isinstance(seen, kernel.FilesystemFailed | kernel.LinkChanged):
            self._look.set()  # the log says when to look, the measurement whether it concerns us
        elif (new := event_of(seen, at)) is not None:
            self._metrics.events.labels(new.cause).inc()
            self.known = replace(self.known, kept=keep(self.known.kept, new))

    async def _measure(self) -> None:
        """Look at links each second and at disks every five, at both at once when the log says so."""
        disks_at = 0.0
        while True:
            self._ticked = time.monotonic()
            look = self._look.is_set()
            self._look.clear()
            for name in self._options.links:
                seen = measure.link(self._options.sys_net, name)
                self._level("LinkDown", name, host.link(seen, _now()))
                note = host.flapped(seen, self._carriers.get(name, seen.changes), _now())
                self._carriers[name] = seen.changes
                if note is not None:
                    self.known = replace(self.known, kept=keep(self.known.kept, note))
                    self._changed()
            if look or self._ticked >= disks_at:
                disks_at = self._ticked + _DISK_SECONDS
                await self._measure_disks()
            self._forget()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._look.wait(), _TICK_SECONDS)

    async def _measure_disks(self) -> None:
        for path in self._options.disks:
            # In a thread: a disk that hangs must not keep the kernel's log waiting, and is a fault itself.
            try:
                async with asyncio.timeout(_HANG_SECONDS):
                    seen = await asyncio.to_thread(measure.disk, path, self._options.disk_root)
            except TimeoutError:
                seen = host.Disk(path, free_percent=100.0, failed=True)
            was_full = self._standing("DiskFull", path) is not None
            found = host.disk(seen, self._options.free_percent, _now(), was_full=was_full)
            for cause in ("DiskFull", "DiskReadOnly"):
                self._level(cause, path, found if found is not None and found.cause == cause else None)

    async def _watch_node(self) -> None:
        await self._every(self._options.node_seconds, self._ask_node)

    async def _watch_clock(self) -> None:
        await self._every(self._options.clock_seconds, self._ask_clock)

    async def _every(self, seconds: float, ask: Callable[[], Coroutine[Any, Any, None]]) -> None:
        while True:
            try:
                await ask()
            except errors.ClusterError as error:
                _logger.warning("%s", error)
            # Spread, so that the agents of a cluster that was switched on at once do not ask at once.
            await asyncio.sleep(seconds * random.uniform(0.8, 1.2))

    async def _ask_node(self) -> None:
        self._judge_node(await self._gateway.node(self._options.node))

    def _judge_node(self, node: Object) -> None:
        resource = self._options.resource
        found = host.devices(resource, *measure.devices(node, resource), _now())
        for cause in ("DeviceUnhealthy", "DevicePluginRestarting"):
            self._level(cause, resource, found if found is not None and found.cause == cause else None)
        self._reset = _reset(node)
        self._forget()

    async def _ask_clock(self) -> None:
        earliest = _now()
        server = await self._gateway.date()
        latest = _now()
        self._level("ClockSkew", "", host.clock(earliest, latest, server, latest))

    def _forget(self) -> None:
        kept = forget(self.known.kept, _now(), self._reset)
        if kept != self.known.kept:
            self.known = replace(self.known, kept=kept)
            self._changed()

    def _standing(self, cause: str, where: str) -> Event | None:
        return next((e for e in self.known.levels if (e.cause, e.where) == (cause, where)), None)

    def _level(self, cause: str, where: str, found: Event | None) -> None:
        """Let a measured fault begin, stand since it began, or end. One device more is a fault anew."""
        standing = self._standing(cause, where)
        if standing is None or found is None:
            same = standing is found
        else:
            same = cause != "DeviceUnhealthy" or standing.detail == found.detail
        if same:
            return
        others = tuple(e for e in self.known.levels if e is not standing)
        self.known = replace(self.known, levels=(*others, found) if found is not None else others)
        self._changed()

    def _changed(self) -> None:
        self._save()
        self._writer.wake()

    def _save(self) -> None:
        try:
            memory.save(self._options.state, self.known)
        except OSError as error:  # a full disk is one of the things to tell, not one to die of
            _logger.error("%s: %s; a restart would read the log anew", self._options.state, error.strerror)


async def run(options: Options) -> None:
    """Run until SIGTERM or SIGINT."""
    metrics = Metrics()
    gateway = await connect(unobserved)
    try:
        agent = Agent(options, gateway, metrics)
        try:
            runner = await pages.serve(options.port, metrics.registry, agent.sick)
        except OSError as error:
            raise Refused("--port", wrong=f"{options.port}: {error.strerror}", right="give a free port") from error
        try:
            work = asyncio.create_task(agent.run())
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, work.cancel)
            with contextlib.suppress(asyncio.CancelledError):
                await work
        finally:
            await runner.cleanup()
    finally:
        await gateway.close()


def _boot(options: Options) -> str:
    try:
        return options.boot_id.read_text().strip()
    except OSError as error:
        raise Refused(
            "--boot-id", wrong=f"{options.boot_id}: {error.strerror}", right="give a readable file"
        ) from error


def _measured(level: Event, options: Options) -> bool:
    if level.cause.startswith("Disk"):
        return level.where in options.disks
    if level.cause.startswith("Device"):
        return level.where == options.resource
    return level.cause != "LinkDown" or level.where in options.links


def _condition_on(node: Object) -> Object | None:
    return next((c for c in node.get("status", {}).get("conditions") or () if c.get("type") == TYPE), None)


def _reset(node: Object) -> datetime | None:
    """Return when somebody said that the node's faults were dealt with; a text that is no time says nothing."""
    text = (node["metadata"].get("annotations") or {}).get(contract.ANNOTATION_RESET, "")
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return at if at.tzinfo is not None and at <= _now() else None


def _writer_of(line: bytes, record: kernel.Record | None) -> str:
    if record is None:
        return "dictionary" if line.startswith(b" ") else "unreadable"
    return "kernel" if record.facility == kernel.KERNEL else "process"


def _now() -> datetime:
    return datetime.now(UTC)
