"""The figures beside their targets and beside what the harness itself could do."""

from collections.abc import Iterator
from typing import Any

Row = tuple[str, str, str, str]


def table(results: dict[str, Any]) -> str:
    """Return one line a figure."""
    head = f"{results['nodes']} nodes, {results['jobs']} jobs, {results['pods']} pods"
    lines = [(head, "target", "measured", "limit of harness and machine"), *rows(results)]
    return "\n".join(
        f"{what:52} {target:>14} {measured:>28}  {limit}".rstrip() for what, target, measured, limit in lines
    )


def rows(results: dict[str, Any]) -> Iterator[Row]:
    """Yield what, target, measured, limit."""
    fill = results["fill"]
    yield "all pods created, /s", "", f"{fill['podsPerSecond']}", f"{fill['seconds']} s; kubelets share the API server"
    for name, section in (("events", _events), ("steady", _steady), ("creation", _creation), ("start", _start),
                          ("storm", _storm), ("cordons", _cordons)):  # fmt: skip
        if name in results:
            yield from section(results[name])


def _events(found: dict[str, Any]) -> Iterator[Row]:
    sent = f"{found['eventsPerSecond']} events/s, sent at most {found['sentLateSeconds']} s late"
    reached = found["eventToAction"]
    if reached["n"]:
        yield (
            "event to action, p50 / p95 / p99",
            "- / 1 / 3 s",
            _percentiles(reached),
            f"{reached['n']} actions; {sent}",
        )
    wait, work = found["queueWait"], found["reconcile"]
    yield (
        "  of which queue wait, p50 / p95 / p99",
        "",
        f"{wait['p50']} / {wait['p95']} / {wait['p99']} s",
        _cores(found),
    )
    yield "  of which reconcile, p50 / p95 / p99", "", f"{work['p50']} / {work['p95']} / {work['p99']} s", ""


def _steady(found: dict[str, Any]) -> Iterator[Row]:
    yield "memory (RSS), peak", "1024 MiB", f"{found['rssMib']} / {found['rssPeakMib']} MiB", ""
    yield "writes to the API server, steady", "40 /s", f"{found['writesPerSecond']} /s", _cores(found)
    told = ", ".join(f"{count} of {kind}" for kind, count in sorted(found["lists"].items())) or "0"
    yield "LISTs, steady", "resync only", told, f"{found['seconds']:.0f} s, everybody's"


def _creation(found: dict[str, Any]) -> Iterator[Row]:
    limit = f"bare client {found['barePodsPerSecond']} /s with {_cores({'cores': found['bareCores']})}"
    yield f"one job of {found['pods']} pods", "150 pods/s", f"{found['podsPerSecond']} pods/s", limit
    yield "  from the job to its last pod", "", f"{found['fromJobToLastPodSeconds']} s", _cores(found)


def _start(found: dict[str, Any]) -> Iterator[Row]:
    yield "start to first right action", "60 s", f"{found['toFirstActionSeconds']} s", f"peak {found['rssPeakMib']} MiB"


def _storm(found: dict[str, Any]) -> Iterator[Row]:
    sent = f"{found['eventsPerSecond']} events/s for {found['seconds']:.0f} s written, {_cores(found)}"
    sent = f"a bare watch {found['bareWatchLagSeconds']} s; {sent}"
    yield "lag after a storm of 2,000 events/s", "5 s", f"{found['lagSeconds']} s", sent


def _cordons(found: dict[str, Any]) -> Iterator[Row]:
    yield (
        f"{found['nodes']} nodes cordoned",
        "15 s",
        f"{found['seconds']} s" if found["cordoned"] == found["nodes"] else f"only {found['cordoned']}",
        f"their signals took {found['signalsTookSeconds']} s to write, {_cores(found)}",
    )


def _percentiles(found: dict[str, Any]) -> str:
    return f"{found['p50']:.3f} / {found['p95']:.3f} / {found['p99']:.3f} s"


def _cores(found: dict[str, Any]) -> str:
    return "cores: " + ", ".join(f"{name} {cores}" for name, cores in found["cores"].items())
