"""What the exporters of a case showed, scrape by scrape, and what is new in each."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from internlm2_operator.health import edges, series
from internlm2_operator.health.series import Series
from internlm2_operator.health.signals import Kind, Signal
from internlm2_operator.replay.case import START, Case, Observation


class Scrapes:
    """Remembers what was scraped. A scrape shows all GPUs of a node, a case names a few."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._memory: edges.Memory | None = None
        self._listed: dict[tuple[str, str], set[str]] = {}  # all GPUs of a node, by it and a series
        named: dict[str, set[str]] = defaultdict(set)
        for one in case.seen:
            if one.kind == "metric" and (gpu := _gpu(one)):
                named[one.node].add(gpu)
        # For each node of which the case names fewer than there are: the others are well.
        self._beside = frozenset((node, "unnamed") for node, gpus in named.items() if len(gpus) < case.gpus)

    def fail(self, node: str) -> None:
        """Forget the gauges of a node: a series ends with the scrape that failed."""
        if self._memory is not None:
            last = self._memory.last
            left = {key: code for key, code in last.xids.items() if key[0] != node}
            self._memory = replace(self._memory, last=replace(last, xids=left))

    def scrape(self, at: datetime, metrics: Sequence[Observation]) -> list[Signal]:
        """Take what was scraped at one moment, of nodes whose exporter answered; return what is new."""
        shown = [one for one in metrics if not self._of_a_pod(one)]
        sample = self._sample(at, [*shown, *self._gone(shown)])
        if self._memory is None and at > START:
            self._memory = edges.baseline(edges.Sample(at=START))  # nothing stood there when the case began
        if self._memory is None:
            self._memory = edges.baseline(sample)
            return []
        found, self._memory = edges.edges(self._unnamed(self._memory, sample), sample)
        return [s for s in found if s.kind is not Kind.EXPORTER_DOWN]

    def _of_a_pod(self, one: Observation) -> bool:
        """Say whether a series names another node than its own: a pod made it, and `prometheus.match` leaves it out."""
        said = _labels(one).get("Hostname", one.node)
        return said != one.node and said in self._case.nodes

    def _gone(self, scraped: Sequence[Observation]) -> Iterator[Observation]:
        """Yield as absent the GPUs that a list of all of a node's lacks now, while it has most of them still."""
        lists: dict[tuple[str, str], dict[str, Observation]] = defaultdict(dict)
        for one in scraped:
            if gpu := _gpu(one):
                lists[one.node, str(one.fields.get("name"))][gpu] = one
        for key, listed in lists.items():
            whole = self._listed.get(key, set())
            if len(listed) == self._case.gpus > 1:
                self._listed[key] = set(listed)
            elif 2 * len(listed) >= len(whole) and set(listed) < whole:
                some = next(iter(listed.values()))
                for gpu in whole - set(listed):
                    yield replace(some, fields={"name": key[1], "gpu": gpu, "value": None})

    def _unnamed(self, memory: edges.Memory, sample: edges.Sample) -> edges.Memory:
        """Return what was known, and the GPUs that the case did not name before: a scrape shows all, a case but a few.

        More of a node than the job says that it has are new there.
        """
        known = memory.known
        for node in {node for node, _ in sample.gpus - known}:
            named = {gpu for gpu in (known | memory.lost.keys() | sample.gpus) if gpu[0] == node}
            if len(named) <= self._case.gpus:
                known |= named - memory.lost.keys()
        return replace(memory, known=known)

    def _sample(self, at: datetime, metrics: Sequence[Observation]) -> edges.Sample:
        """Return the scrape of the nodes that have one now, the others as they were."""
        scraped_nodes = {one.node for one in metrics}
        last = self._memory.last if self._memory else edges.Sample(at=at)
        absent = {(one.node, _gpu(one)) for one in metrics if one.fields.get("value", 0) is None}
        read = [(one, value) for one in metrics if (value := _number(one.fields.get("value"))) is not None]
        xids = {key: code for key, code in last.xids.items() if key[0] not in scraped_nodes}
        counts = {key: value for key, value in last.counts.items() if key[0] not in scraped_nodes}
        counters = {key: value for key, value in last.counters.items() if key[0] not in scraped_nodes}
        found = series.sort(
            Series(str(one.fields.get("name")), one.node, _gpu(one), value, str(_labels(one).get("xid", "")))
            for one, value in read
        )
        present = {(one.node, _gpu(one)) for one, _ in read if _gpu(one)}
        return edges.Sample(
            at=at,
            scraped={**last.scraped, **dict.fromkeys(scraped_nodes, at.timestamp())},
            gpus=frozenset((last.gpus | present | self._beside) - (absent - present)),
            xids={**xids, **found.xids},
            counts={**counts, **found.counts},
            counters={**counters, **found.counters},
        )


def failed(one: Observation) -> Observation | None:
    """Return what a scrape that failed is where it is told by Prometheus' own series `up`, None for all else."""
    down = one.kind == "metric" and one.fields.get("name") == "up" and one.fields.get("value") == 0
    return replace(one, kind="prometheus_down") if down else None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def _gpu(one: Observation) -> str:
    return str(one.fields.get("gpu") or _labels(one).get("UUID") or _labels(one).get("gpu") or "")


def _labels(one: Observation) -> Mapping[str, Any]:
    labels = one.fields.get("labels")
    return labels if isinstance(labels, Mapping) else {}
