"""Every metric of both halves: what the registries are made from, and `docs/metrics.md`.

Names follow https://prometheus.io/docs/practices/naming/: one prefix a half, base units, the unit in the
name, `_total` at the end of a counter.
"""

import enum
from dataclasses import dataclass
from typing import Final, Literal

TRAIN_PREFIX: Final = "internlm2_train_"
OPERATOR_PREFIX: Final = "internlm2_operator_"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric by its full name. `unit` is empty for what is counted; `buckets` are a histogram's upper bounds."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: Literal["", "seconds", "bytes", "ratio", "tokens per second"]
    meaning: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


class Part(enum.StrEnum):
    """What a rank does at a moment of a step: label `part` of `internlm2_train_step_part_seconds_total`."""

    DATA = "data"
    FORWARD_BACKWARD = "forward_backward"
    OPTIMIZER = "optimizer"
    COMMUNICATION = "communication"
    CHECKPOINT_STALL = "checkpoint_stall"
    OTHER = "other"


class Cause(enum.StrEnum):
    """What a process spent its time on: label `cause` of `internlm2_train_seconds_total`."""

    INIT = "init"
    LOAD = "load"
    PRODUCTIVE = "productive"
    REPEATED = "repeated"
    ROLLED_BACK = "rolled_back"
    SKIPPED = "skipped"
    ROLLBACK = "rollback"
    CHECKPOINT_STALL = "checkpoint_stall"
    OTHER = "other"


PARTS: Final[dict[str, str]] = {
    Part.DATA: "waiting for the samples of the step, and counting their labels",
    Part.FORWARD_BACKWARD: "both passes of all micro-steps, with the layout's messages in them; the gradient's norm",
    Part.OPTIMIZER: "clipping and AdamW",
    Part.COMMUNICATION: "the two all-reduces of a step (labels before the passes, loss and norm after them),"
    " with the wait for the slowest rank",
    Part.CHECKPOINT_STALL: "copying the state for a checkpoint; for the last one, until it is published",
    Part.OTHER: "the rest: the guard, a rollback, reports",
}
CAUSES: Final[dict[str, str]] = {
    Cause.INIT: "from the start of the process until it begins to load: imports, joining the ranks, building the model",
    Cause.LOAD: "reading the state to resume from, up to the first step",
    Cause.PRODUCTIVE: "steps that the run had not done before",
    Cause.REPEATED: "steps that some pod of the attempt had already done when its processes last ended",
    Cause.ROLLED_BACK: "steps that make up for those a rollback gave up",
    Cause.SKIPPED: "steps whose gradient was not finite",
    Cause.ROLLBACK: "going back to an earlier checkpoint after a spike of the loss",
    Cause.CHECKPOINT_STALL: "waiting for checkpoints, in storage or memory",
    Cause.OTHER: "between steps, and between the last step and the end",
}

_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_ARROWS: Final = (0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 30, 45, 60, 90, 120, 300, 600)


def _train(
    name: str,
    kind: Literal["counter", "gauge"],
    unit: Literal["", "seconds", "bytes", "ratio", "tokens per second"],
    meaning: str,
    *labels: str,
) -> Metric:
    return Metric(TRAIN_PREFIX + name, kind, unit, meaning, labels)


TRAINER: Final = (
    _train("phase", "gauge", "", "1 for the current phase.", "phase"),
    _train("step", "gauge", "", "Last finished optimizer step."),
    _train("loss", "gauge", "", "Mean loss per token of the last step."),
    _train("grad_norm", "gauge", "", "Global gradient norm before clipping."),
    _train("tokens_per_second", "gauge", "tokens per second", "Tokens of all ranks per second, last step."),
    _train("mfu_ratio", "gauge", "ratio", "Model FLOPs utilisation of the last step, attention counted once (causal)."),
    _train("mfu_full_ratio", "gauge", "ratio", "Model FLOPs utilisation of the last step, attention counted in full."),
    _train("step_seconds", "gauge", "seconds", "Wall time from the start of the last whole step to that of the next."),
    _train("step_part_seconds_total", "counter", "seconds", "Wall time of steps by what the rank did in it.", "part"),
    _train("seconds_total", "counter", "seconds", "Wall time of the process by what it was spent on.", "cause"),
    _train("rank_work_seconds", "gauge", "seconds", "Work of a step that a rank does without the others: the least,"
           " median and greatest of all ranks.", "statistic"),
    _train("slowest_rank", "gauge", "", "The rank whose work took longest."),
    _train("resident_bytes", "gauge", "bytes", "Memory of this rank's process that is in RAM."),
    _train("device_allocated_peak_bytes", "gauge", "bytes", "Most device memory that tensors of this rank have taken."),
    _train("device_reserved_peak_bytes", "gauge", "bytes", "Most device memory that this rank's allocator has held."),
    _train("estimated_bytes", "gauge", "bytes", "Memory of a rank as estimated before the run (docs/estimate.md)."),
    _train("checkpoint_step", "gauge", "", "Step of the newest published checkpoint."),
    _train("checkpoint_memory_step", "gauge", "", "Step of the newest copy of the state in this node's memory."),
    _train("checkpoints_skipped_total", "counter", "", "Checkpoints left out because the storage was behind."),
    _train("skipped_steps_total", "counter", "", "Steps whose gradient was not finite."),
    _train("loss_spikes_total", "counter", "", "Spikes of the loss, rolled back or only reported."),
    _train("rollbacks_total", "counter", "", "Returns to an earlier checkpoint after a spike."),
)  # fmt: skip


def _operator(name: str, kind: Literal["counter", "gauge"], meaning: str, *labels: str) -> Metric:
    return Metric(OPERATOR_PREFIX + name, kind, "seconds" if name.endswith("_seconds") else "", meaning, labels)


def _durations(name: str, meaning: str, label: str, buckets: tuple[float, ...]) -> Metric:
    return Metric(OPERATOR_PREFIX + name, "histogram", "seconds", meaning, (label,), buckets)


OPERATOR: Final = (
    _durations("reconcile_seconds", "Time of one reconcile by kind of key.", "kind", _SECONDS),
    _operator("reconcile_failures_total", "counter", "Reconciles that failed by kind of key.", "kind"),
    _operator("queue_depth", "gauge", "Keys that wait for a worker."),
    _operator("actions_total", "counter", "Actions applied by kind.", "kind"),
    _operator("api_requests_total", "counter", "Answers of the API server; code 0: none.", "method", "code"),
    _operator("faults_total", "counter", "Faults recorded by cause.", "cause"),
    _durations("fault_arrow_seconds", "From the signal to each step.", "arrow", _ARROWS),
    _operator("cordons_total", "counter", "Nodes cordoned by cause.", "cause"),
    _operator("cordons_held_total", "counter", "Cordons that were deserved but not made.", "reason"),
    _operator("prometheus_up", "gauge", "1 while Prometheus answers."),
    _operator("source_rounds_total", "counter", "Rounds of each source that went well.", "source"),
    _operator("watch_age_seconds", "gauge", "Since the last watch event."),
    _operator("resync_repairs_total", "counter", "Objects that a LIST knew newer than the watch."),
    _operator("leader", "gauge", "1 while this process holds the lease."),
)
