"""What the operator tells Prometheus about itself."""

import time
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_ARROWS: Final = (0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 30, 45, 60, 90, 120, 300, 600)


class Metrics:
    """All metrics, in a registry of their own. Names are `internlm2_operator_*`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.reconcile = self._histogram("reconcile_seconds", "Time of one reconcile by kind of key.", "kind")
        self.failures = self._counter("reconcile_failures", "Reconciles that failed by kind of key.", "kind")
        self.queue = Gauge(_name("queue_depth"), "Keys that wait for a worker.", registry=self.registry)
        self.actions = self._counter("actions", "Actions applied by kind.", "kind")
        self.requests = self._counter("api_requests", "Answers of the API server; code 0: none.", "method", "code")
        self.faults = self._counter("faults", "Faults recorded by cause.", "cause")
        self.arrows = self._histogram("fault_arrow_seconds", "From the signal to each step.", "arrow", buckets=_ARROWS)
        self.cordons = self._counter("cordons", "Nodes cordoned by cause.", "cause")
        self.holds = self._counter("cordons_held", "Cordons that were deserved but not made.", "reason")
        self.prometheus = Gauge(_name("prometheus_up"), "1 while Prometheus answers.", registry=self.registry)
        self.rounds = self._counter("source_rounds", "Rounds of each source that went well.", "source")
        self.watch_age = Gauge(_name("watch_age_seconds"), "Since the last watch event.", registry=self.registry)
        self.resync_repairs = self._counter("resync_repairs", "Objects that a LIST knew newer than the watch.")
        self.leader = Gauge(_name("leader"), "1 while this process holds the lease.", registry=self.registry)

    def answered(self, method: str, code: int) -> None:
        """Count one answer of the API server."""
        self.requests.labels(method, str(code)).inc()

    def watch_seen(self, at: float) -> None:
        """Measure the watch's age from monotonic time `at` on."""
        self.watch_age.set_function(lambda: time.monotonic() - at)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(_name(name), text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, *labels: str, buckets: tuple[float, ...] = _SECONDS) -> Histogram:
        return Histogram(_name(name), text, labels, buckets=buckets, registry=self.registry)


def _name(name: str) -> str:
    return f"internlm2_operator_{name}"
