"""What the operator tells Prometheus about itself."""

import time
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from internlm2_spec import metrics as catalogue
from internlm2_spec.metrics import Metric

_CATALOGUE: Final = {metric.name: metric for metric in catalogue.OPERATOR}


class Metrics:
    """All metrics of the catalogue, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.reconcile = self._histogram("reconcile_seconds")
        self.failures = self._counter("reconcile_failures_total")
        self.queue = self._gauge("queue_depth")
        self.actions = self._counter("actions_total")
        self.requests = self._counter("api_requests_total")
        self.faults = self._counter("faults_total")
        self.arrows = self._histogram("fault_arrow_seconds")
        self.cordons = self._counter("cordons_total")
        self.holds = self._counter("cordons_held_total")
        self.prometheus = self._gauge("prometheus_up")
        self.rounds = self._counter("source_rounds_total")
        self.watch_age = self._gauge("watch_age_seconds")
        self.resync_repairs = self._counter("resync_repairs_total")
        self.leader = self._gauge("leader")

    def answered(self, method: str, code: int) -> None:
        """Count one answer of the API server."""
        self.requests.labels(method, str(code)).inc()

    def watch_seen(self, at: float) -> None:
        """Measure the watch's age from monotonic time `at` on."""
        self.watch_age.set_function(lambda: time.monotonic() - at)

    def _counter(self, name: str) -> Counter:
        metric = _metric(name)
        return Counter(metric.name, metric.meaning, metric.labels, registry=self.registry)

    def _gauge(self, name: str) -> Gauge:
        metric = _metric(name)
        return Gauge(metric.name, metric.meaning, metric.labels, registry=self.registry)

    def _histogram(self, name: str) -> Histogram:
        metric = _metric(name)
        return Histogram(metric.name, metric.meaning, metric.labels, buckets=metric.buckets, registry=self.registry)


def _metric(name: str) -> Metric:
    return _CATALOGUE[catalogue.OPERATOR_PREFIX + name]
