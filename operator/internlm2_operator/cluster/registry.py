"""The metrics of one process, made from its part of the catalogue."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from internlm2_spec.metrics import Metric


class Registry:
    """Makes metrics by their names without `prefix`; KeyError for one that the catalogue does not list."""

    def __init__(self, listed: Iterable[Metric], prefix: str) -> None:
        self.collector = CollectorRegistry()
        self._listed = {metric.name.removeprefix(prefix): metric for metric in listed}

    def counter(self, name: str) -> Counter:
        metric = self._listed[name]
        return Counter(metric.name, metric.meaning, metric.labels, registry=self.collector)

    def gauge(self, name: str) -> Gauge:
        metric = self._listed[name]
        return Gauge(metric.name, metric.meaning, metric.labels, registry=self.collector)

    def histogram(self, name: str) -> Histogram:
        metric = self._listed[name]
        return Histogram(metric.name, metric.meaning, metric.labels, buckets=metric.buckets, registry=self.collector)
