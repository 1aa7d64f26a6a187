"""`:9100/metrics` and `:9100/progress` of a pod, served from a thread of local rank 0."""

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, generate_latest

from internlm2_spec import metrics as catalogue
from internlm2_spec.contract import Progress, TrainPhase
from internlm2_spec.metrics import Cause, Part
from internlm2_spec.straggler import Slow, Slowness
from internlm2_trainer.observe.goodput import Ledger
from internlm2_trainer.observe.stopwatch import Window
from internlm2_trainer.observe.straggler import Spread

# What the time in a phase was spent on. That of steps is booked step by step, which leaves what is between them.
CAUSE_OF_PHASE: Final = {
    TrainPhase.INIT: Cause.INIT,
    TrainPhase.LOAD: Cause.LOAD,
    TrainPhase.STEP: Cause.OTHER,
    TrainPhase.CHECKPOINT: Cause.CHECKPOINT_STALL,
    TrainPhase.DONE: Cause.OTHER,
}


class Metrics:
    """The latest numbers of this process, kept by the training loop and read by the server's threads.

    `clock` gives seconds that never go back, and the process is `age_seconds` old.
    """

    def __init__(
        self, progress: Progress, *, age_seconds: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.progress = progress
        self.registry = CollectorRegistry()
        self._gauges, self._counters = _register(self.registry)
        self._clock = clock
        self._ledger = Ledger(clock() - age_seconds)
        for part in Part:
            self._counters["step_part_seconds_total"].labels(part)
        for cause in Cause:
            self._counters["seconds_total"].labels(cause)
        self.limit: Callable[[TrainPhase], float] | None = None  # seconds without progress that a phase may have
        self._server: ThreadingHTTPServer | None = None
        self._show(progress.phase)

    def said(self) -> Progress:
        """Return what `/progress` says now."""
        now = self.progress
        return dataclasses.replace(now, limit_seconds=self.limit(now.phase)) if self.limit else now

    def enter(self, phase: TrainPhase) -> None:
        """Begin a phase; the time in the last one is booked."""
        self.spent(CAUSE_OF_PHASE[self.progress.phase])
        self.progress = dataclasses.replace(self.progress, phase=phase)
        self._show(phase)

    def _show(self, phase: TrainPhase) -> None:
        for each in TrainPhase:
            self._gauges["phase"].labels(each.value).set(float(each is phase))

    def spent(self, cause: Cause) -> None:
        """Book the time since the last booking on its cause."""
        self._counters["seconds_total"].labels(cause).inc(self._ledger.spend(self._clock()))

    def resumed(self, step: int) -> None:
        """Note the step this process starts from."""
        self.progress = dataclasses.replace(self.progress, step=step, started_step=step, step_time=time.time())
        self._gauges["step"].set(step)

    def finished(self, step: int, *, loss: float, tokens_per_second: float, mfu: float | None, now: float) -> None:
        """Note a finished step; `now` is seconds since the epoch."""
        self.progress = dataclasses.replace(
            self.progress, step=step, step_time=now, first_step_time=self.progress.first_step_time or now,
            loss=loss, tokens_per_second=tokens_per_second, mfu=mfu,
        )  # fmt: skip
        self.set(step=step, loss=loss, tokens_per_second=tokens_per_second, mfu_ratio=mfu)

    def published(self, step: int, time_published: float) -> None:
        self.progress = dataclasses.replace(self.progress, checkpoint_step=step, checkpoint_time=time_published)
        self._gauges["checkpoint_step"].set(step)

    def set(self, **values: float | None) -> None:
        """Set gauges by name; None leaves one as it is."""
        for name, value in values.items():
            if value is not None:
                self._gauges[name].set(value)

    def split(self, window: Window) -> None:
        """Note where the time of a step went."""
        self.set(step_seconds=window.seconds)
        for part, seconds in window.parts.items():
            self._counters["step_part_seconds_total"].labels(part).inc(seconds)

    def compared(self, work: Spread, parts: Mapping[Slowness, Spread], slow: Slow | None) -> None:
        """Note how long the ranks worked in a step, in all and by what they did, and who has been slow for long."""
        self.set(slowest_rank=work.slowest_rank, straggler_rank=slow.rank if slow else -1)
        for statistic, seconds in _statistics(work):
            self._gauges["rank_work_seconds"].labels(statistic).set(seconds)
        for what, spread in parts.items():
            for statistic, seconds in _statistics(spread):
                self._gauges["rank_part_seconds"].labels(what, statistic).set(seconds)
        for what in Slowness:
            self._gauges["straggler_seconds"].labels(what).set(slow.seconds if slow and slow.what is what else 0.0)
        self.progress = dataclasses.replace(self.progress, slow=slow)

    def skipped(self) -> None:
        self._counters["skipped_steps_total"].inc()

    def checkpoints_skipped(self, count: int) -> None:
        self._counters["checkpoints_skipped_total"].inc(count)

    def spiked(self) -> None:
        self._counters["loss_spikes_total"].inc()

    def rolled_back(self, step: int) -> None:
        """Note that `step` is the last finished step again."""
        self._counters["rollbacks_total"].inc()
        self.progress = dataclasses.replace(self.progress, step=step, step_time=time.time())
        self.set(step=step)

    def serve(self, port: int) -> int:
        """Serve from a daemon thread and return the port.

        Raises:
            OSError: the port is taken.
        """
        self._server = ThreadingHTTPServer(("", port), _handler(self))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()
        return self._server.server_address[1]

    def close(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()


def _statistics(spread: Spread) -> tuple[tuple[str, float], ...]:
    return ("min", spread.least), ("median", spread.median), ("max", spread.greatest)


def _register(registry: CollectorRegistry) -> tuple[dict[str, Gauge], dict[str, Counter]]:
    """Make every metric of the catalogue; keys are their names without the prefix."""
    gauges, counters = {}, {}
    for metric in catalogue.TRAINER:
        name = metric.name.removeprefix(catalogue.TRAIN_PREFIX)
        if metric.kind == "gauge":
            gauges[name] = Gauge(metric.name, metric.meaning, metric.labels, registry=registry)
        else:
            counters[name] = Counter(metric.name, metric.meaning, metric.labels, registry=registry)
    return gauges, counters


def _handler(metrics: Metrics) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/progress":
                self._reply("application/json", metrics.said().to_json().encode())
            elif self.path == "/metrics":
                self._reply(CONTENT_TYPE_LATEST, generate_latest(metrics.registry))
            else:
                self.send_error(404)

        def _reply(self, kind: str, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            # A poll gives up after a second: its connection may be gone by now.
            with contextlib.suppress(ConnectionError):
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: a poll each second is not worth a line."""

    return Handler
