"""An hour of a cluster as Prometheus would have scraped it, with known values, and a real Prometheus that holds it.

One job of 16 GPUs on two nodes trains. At half past, node n1 has XID 79: the fault is open for a minute, and the steps
of half a minute are done again. Everything that nobody asks about is a constant.
"""

import contextlib
import functools
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from dashboards.ask import Prometheus, Window
from internlm2_spec import metrics as catalogue
from internlm2_spec.metrics import Cause, Metric, Part, SpentOn
from tests.api.apiserver import free_ports, wait_for

SCRAPE: Final = 15
START: Final = 1_780_000_005  # a multiple of the scrape interval
HOUR: Final = 3600
FAULT, CLOSED, CAUGHT_UP = 1800, 1860, 1890
GPUS: Final = 16
WINDOW: Final = Window(start=START, end=START + HOUR, step=SCRAPE, scrape=SCRAPE)
NAMESPACE, JOB = "training", "demo"
ARROWS: Final = {"verdict": 2.0, "cordon": 1.0, "replacement": 32.0, "resume": 15.0, "closed": 10.0, "total": 60.0}

# Seconds since the start to a value, None where there is no sample.
Value = Callable[[int], float | None]
Labels = dict[str, str]

_JOB: Final = {"training_namespace": "training", "training_job": "demo"}
_OPERATOR: Final = {"namespace": "internlm2-system", "pod": "internlm2-operator-0", "node": "n3"}


def always(value: float) -> Value:
    return lambda _: value


def growing(per_second: float) -> Value:
    return lambda at: per_second * at


def between(start: float, end: float, value: float = 1.0) -> Value:
    return lambda at: value if start <= at < end else None


def spent(at: int) -> dict[SpentOn, float]:
    """Return the seconds on each account after so many."""
    fault = min(max(at - FAULT, 0), CLOSED - FAULT)
    redo = min(max(at - CLOSED, 0), CAUGHT_UP - CLOSED)
    return {SpentOn.PRODUCTIVE: at - fault - redo, SpentOn.FAULT: fault, SpentOn.REDO: redo}


def _account(on: SpentOn) -> Value:
    def value(at: int) -> float | None:
        seconds = spent(at)[on]
        return GPUS * seconds if seconds or on is SpentOn.PRODUCTIVE else None

    return value


def _since_fault(value: float) -> Value:
    return lambda at: value if at >= FAULT else None


def _told() -> Iterator[tuple[str, Labels, Value]]:
    """Yield what the story is about: the name without the prefix of the operator, labels, values."""
    yield "job_phase", _JOB | {"phase": "Running"}, lambda at: None if FAULT <= at < CLOSED else 1.0
    yield "job_phase", _JOB | {"phase": "Recovering"}, between(FAULT, CLOSED)
    yield (
        "job_fault_timestamp_seconds",
        _JOB | {"cause": "Xid79", "kind": "infrastructure", "training_node": "n1"},
        between(FAULT, CLOSED, START + FAULT),
    )
    for on in (SpentOn.PRODUCTIVE, SpentOn.FAULT, SpentOn.REDO):
        cause = "" if on is SpentOn.PRODUCTIVE else "Xid79"
        yield "job_gpu_seconds_total", _JOB | {"spent_on": on.value, "cause": cause}, _account(on)
    yield "job_step", _JOB, lambda at: float(at // 10)
    for state, count in {"active": 2, "spare": 1, "wanted": 2}.items():
        yield "job_nodes", _JOB | {"state": state}, always(count)
    yield "job_checkpoint_timestamp_seconds", _JOB, lambda at: START + at // 300 * 300.0
    fresh = {"condition": "CheckpointFresh", "status": "True", "reason": "Verified"}
    yield "job_condition", _JOB | fresh, always(1)
    for state, count in {"ready": 3, "not_ready": 0, "cordoned": 1}.items():
        yield "nodes", {"state": state}, always(count)
    yield "node_cordon_timestamp_seconds", {"training_node": "n1", "cause": "Xid79"}, _since_fault(START + FAULT + 3)
    yield "node_lemon_score", {"training_node": "n1"}, _since_fault(1.0)
    yield "faults_total", {"cause": "Xid79"}, _since_fault(1)
    yield "cordons_total", {"cause": "Xid79"}, _since_fault(1)
    yield "uncordons_total", {"cause": "Xid79"}, lambda at: 1.0 if at >= HOUR // 4 * 3 else None
    yield "suspicions_total", {"cause": "Xid62"}, _since_fault(2)
    yield "fault_steps_lost_total", {"cause": "Xid79"}, _since_fault(3)
    for reason in ("BreakerOpen", "ObserveMode", "NodeNeeded"):
        yield "nodes_held", {"reason": reason}, always(0)


def _arrows(metric: Metric) -> Iterator[tuple[str, Labels, Value]]:
    for arrow, seconds in ARROWS.items():
        labels = {"arrow": arrow}
        for bound in metric.buckets:
            yield f"{metric.name}_bucket", labels | {"le": str(float(bound))}, _since_fault(float(seconds <= bound))
        yield f"{metric.name}_bucket", labels | {"le": "+Inf"}, _since_fault(1)
        yield f"{metric.name}_sum", labels, _since_fault(seconds)
        yield f"{metric.name}_count", labels, _since_fault(1)


TRAINER: Final[Mapping[str, Value]] = {
    "mfu_ratio": always(0.42),
    "mfu_full_ratio": always(0.5),
    "loss": lambda at: 4.0 - at / HOUR,
    "tokens_per_second": always(52_000),
    "step": lambda at: float(at // 10),
    "step_seconds": always(10),
    "checkpoint_step": lambda at: float(at // 300 * 30),
    "straggler_rank": always(-1),
}
_PER_SECOND: Final = {
    Part.FORWARD_BACKWARD: 0.8, Part.OPTIMIZER: 0.1, Part.COMMUNICATION: 0.06, Part.DATA: 0.02,
    Part.CHECKPOINT_STALL: 0.02, Part.OTHER: 0.0,
}  # fmt: skip


def _of_trainer(metric: Metric, pod: Labels) -> Iterator[tuple[str, Labels, Value]]:
    name = metric.name.removeprefix(catalogue.TRAIN_PREFIX)
    if name == "step_part_seconds_total":
        for part, share in _PER_SECOND.items():
            yield metric.name, pod | {"part": part.value}, growing(share)
    elif name == "seconds_total":
        for cause in Cause:
            yield metric.name, pod | {"cause": cause.value}, growing({"productive": 0.97, "other": 0.03}.get(cause, 0))
    elif "statistic" in metric.labels:
        for statistic, value in {"min": 1.0, "median": 1.1, "max": 1.5}.items():
            more = {"what": "compute"} if "what" in metric.labels else {}
            yield metric.name, pod | more | {"statistic": statistic}, always(value)
    else:
        yield metric.name, pod | dict.fromkeys(metric.labels, "step"), TRAINER.get(name, always(1))


def _rest(metric: Metric, told: set[str]) -> Iterator[tuple[str, Labels, Value]]:
    """Yield something of a metric that the story does not tell of."""
    labels = dict.fromkeys(metric.labels, "job")
    if metric.kind == "histogram":
        for bound in (*map(float, metric.buckets), "+Inf"):
            yield f"{metric.name}_bucket", labels | {"le": str(bound)}, growing(1)
        yield f"{metric.name}_sum", labels, growing(0.001)
        yield f"{metric.name}_count", labels, growing(1)
    elif metric.name not in told:
        yield metric.name, labels, growing(0.1) if metric.kind == "counter" else always(1)


def every_series() -> Iterator[tuple[str, Labels, Value]]:
    told = [(catalogue.OPERATOR_PREFIX + name, labels | _OPERATOR, value) for name, labels, value in _told()]
    yield from told
    names = {name for name, _, _ in told}
    for metric in catalogue.OPERATOR:
        of_arrows = metric.name.endswith("fault_arrow_seconds")
        for name, labels, value in _arrows(metric) if of_arrows else _rest(metric, names):
            yield name, labels | _OPERATOR, value
    for slot in (0, 1):
        pod = {"namespace": "training", "training_job": "demo", "pod": f"demo-0-1-{slot}", "slot": str(slot)}
        for metric in catalogue.TRAINER:
            yield from _of_trainer(metric, pod | {"node": f"n{slot + 1}"})
    for metric in catalogue.AGENT:
        for name, labels, value in _rest(metric, set()):
            yield name, labels | _OPERATOR | {"pod": "agent"}, value


def open_metrics(series: Iterable[tuple[str, Labels, Value]]) -> str:
    lines = [
        f"{name}{{{','.join(f'{key}={value!r}'.replace(chr(39), chr(34)) for key, value in labels.items())}}}"
        f" {value_at} {START + at}"
        for name, labels, value in series
        for at in range(0, HOUR + 1, SCRAPE)
        if (value_at := value(at)) is not None
    ]
    return "\n".join(lines) + "\n# EOF\n"


@contextlib.contextmanager
def told_to_prometheus(folder: Path) -> Iterator[str]:
    """Run a Prometheus that holds the story, and yield its URL."""
    (folder / "story.txt").write_text(open_metrics(every_series()))
    make = ["promtool", "tsdb", "create-blocks-from", "openmetrics", str(folder / "story.txt"), str(folder / "data")]
    subprocess.run(make, check=True, capture_output=True, timeout=120)
    (folder / "prometheus.yml").write_text("{}")
    port = free_ports(1)[0]
    argv = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address=127.0.0.1:{port}", "--storage.tsdb.retention.time=100y",
            # Blocks hold no marks of series that ended: without them one would go on for five minutes.
            f"--query.lookback-delta={SCRAPE - 5}s"]  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    with (folder / "prometheus.log").open("ab") as log, subprocess.Popen(argv, stdout=log, stderr=log) as process:
        try:
            wait_for(functools.partial(_holds, url), what="a Prometheus with the story")
            yield url
        finally:
            process.kill()


def _holds(url: str) -> bool:
    with contextlib.suppress(OSError):
        return bool(Prometheus(url).instant("internlm2_operator_leader", WINDOW.end))
    return False
