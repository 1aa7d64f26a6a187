"""`:9100/metrics` and `:9100/progress` of a pod, served from a thread of local rank 0."""

import contextlib
import dataclasses
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, generate_latest

from internlm2_spec.contract import Progress, TrainPhase

PREFIX: Final = "internlm2_train_"
GAUGES: Final = {
    "step": "Last finished optimizer step.",
    "loss": "Mean loss per token of the last step.",
    "grad_norm": "Global gradient norm before clipping.",
    "tokens_per_second": "Tokens of all ranks per second, last step.",
    "mfu": "Model FLOPs utilisation of the last step, attention counted once (causal).",
    "mfu_full": "Model FLOPs utilisation of the last step, attention counted in full.",
    "step_seconds": "Wall time of the last step.",
    "data_wait_seconds": "Time the last step waited for data.",
    "checkpoint_stall_seconds": "Time training has waited for checkpoints, in all.",
    "checkpoint_step": "Step of the newest published checkpoint.",
    "checkpoint_memory_step": "Step of the newest copy of the state in this node's memory.",
}


class Metrics:
    """The latest numbers of this process, kept by the training loop and read by the server's threads."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.registry = CollectorRegistry()
        self._gauges = {name: Gauge(PREFIX + name, text, registry=self.registry) for name, text in GAUGES.items()}
        self._phase = Gauge(PREFIX + "phase", "1 for the current phase.", ["phase"], registry=self.registry)
        self._skipped = Counter(
            PREFIX + "skipped_steps", "Steps whose gradient was not finite.", registry=self.registry
        )
        self._skipped_saves = Counter(
            PREFIX + "checkpoints_skipped", "Checkpoints left out because the storage was behind.",
            registry=self.registry,
        )  # fmt: skip
        self._spikes = Counter(
            PREFIX + "loss_spikes", "Spikes of the loss, rolled back or only reported.", registry=self.registry
        )
        self._rollbacks = Counter(
            PREFIX + "rollbacks", "Returns to an earlier checkpoint after a spike.", registry=self.registry
        )
        self._server: ThreadingHTTPServer | None = None
        self.enter(progress.phase)

    def enter(self, phase: TrainPhase) -> None:
        self.progress = dataclasses.replace(self.progress, phase=phase)
        for each in TrainPhase:
            self._phase.labels(each.value).set(float(each is phase))

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
        self.set(step=step, loss=loss, tokens_per_second=tokens_per_second, mfu=mfu)

    def published(self, step: int, time_published: float) -> None:
        self.progress = dataclasses.replace(self.progress, checkpoint_step=step, checkpoint_time=time_published)
        self._gauges["checkpoint_step"].set(step)

    def set(self, **values: float | None) -> None:
        """Set gauges by name; None leaves one as it is."""
        for name, value in values.items():
            if value is not None:
                self._gauges[name].set(value)

    def skipped(self) -> None:
        self._skipped.inc()

    def checkpoints_skipped(self, count: int) -> None:
        self._skipped_saves.inc(count)

    def spiked(self) -> None:
        self._spikes.inc()

    def rolled_back(self, step: int) -> None:
        """Note that `step` is the last finished step again."""
        self._rollbacks.inc()
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


def _handler(metrics: Metrics) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/progress":
                self._reply("application/json", metrics.progress.to_json().encode())
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
