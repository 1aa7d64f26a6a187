"""Every metric of both halves: what the registries are made from, and `docs/metrics.md`.

Names follow https://prometheus.io/docs/practices/naming/: one prefix a half, base units, the unit in the
name, `_total` at the end of a counter.
"""

import enum
from dataclasses import dataclass
from typing import Final, Literal

TRAIN_PREFIX: Final = "internlm2_train_"
OPERATOR_PREFIX: Final = "internlm2_operator_"
AGENT_PREFIX: Final = "internlm2_agent_"


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


class SpentOn(enum.StrEnum):
    """What a job's GPUs are spent on: label `spent_on` of `internlm2_operator_job_gpu_seconds_total`."""

    PRODUCTIVE = "productive"
    REDO = "redo"
    FAULT = "fault"
    START = "start"
    QUEUE = "queue"


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

SPENT_ON: Final[dict[str, str]] = {
    SpentOn.PRODUCTIVE: "steps that the job had not done before, checkpoints included",
    SpentOn.REDO: "steps that it had done before; `cause` is that of the newest fault that lost steps",
    SpentOn.FAULT: "a fault is open; `cause` is that of the oldest one",
    SpentOn.START: "an attempt starts that no fault is the reason of: the first one, a change of size, a new stage",
    SpentOn.QUEUE: "the job waits for nodes, for as many as its newest attempt had",
}
SCRAPE_LABELS: Final[dict[str, str]] = {
    "namespace": "of the pod",
    "pod": "name of the pod",
    "node": "node of the pod",
    "training_job": "label `training.internlm.io/job` of the pod, the name of its InternLM2Job",
    "slot": "label `training.internlm.io/slot` of the pod",
}
"""Labels that Prometheus adds to every series of a pod; the dashboards and alerts use them. No metric has one of its
own by these names: Prometheus would rename it."""

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
    _train("rank_part_seconds", "gauge", "seconds", "What a rank does in a step without the others, by what it is:"
           " data, compute, communication (a message of 1 MiB). The least, median and greatest of all ranks.",
           "what", "statistic"),
    _train("straggler_rank", "gauge", "", "The rank that has stood out from the others for several windows; -1: none."),
    _train("straggler_seconds", "gauge", "seconds", "How far it is above their median in a step, by what it is slow"
           " in; 0: it is not.", "what"),
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
    unit: Literal["", "seconds"] = "seconds" if name.removesuffix("_total").endswith("_seconds") else ""
    return Metric(OPERATOR_PREFIX + name, kind, unit, meaning, labels)


_JOB: Final = ("training_namespace", "training_job")


def _job(name: str, kind: Literal["counter", "gauge"], meaning: str, *labels: str) -> Metric:
    return _operator(f"job_{name}", kind, meaning, *_JOB, *labels)


def _durations(name: str, meaning: str, label: str, buckets: tuple[float, ...]) -> Metric:
    return Metric(OPERATOR_PREFIX + name, "histogram", "seconds", meaning, (label,), buckets)


OPERATOR: Final = (
    _durations("reconcile_seconds", "Time of one reconcile by kind of key.", "kind", _SECONDS),
    _durations("queue_wait_seconds", "From when a key falls due until a worker takes it.", "kind", _SECONDS),
    _operator("reconcile_failures_total", "counter", "Reconciles that failed by kind of key.", "kind"),
    _operator("queue_depth", "gauge", "Keys that wait for a worker."),
    _operator("actions_total", "counter", "Actions applied by kind.", "kind"),
    _operator("api_requests_total", "counter", "Answers of the API server; code 0: none.", "method", "code"),
    _operator("faults_total", "counter", "Faults that are over, by cause; counted once it is sure.", "cause"),
    _durations("fault_arrow_seconds", "From each time of a fault to the next, and in all.", "arrow", _ARROWS),
    _operator("fault_steps_lost_total", "counter", "Steps that faults made jobs do again, by cause.", "cause"),
    _job("phase", "gauge", "1 for the phase of a job.", "phase"),
    _job("condition", "gauge", "1 for each condition of a job as it is.", "condition", "status", "reason"),
    _job("step", "gauge", "Newest finished optimizer step of a job; it stays while its pods are replaced."),
    _job("nodes", "gauge", "Nodes of a job: that train (active), wait to take over (spare), nodes.max (wanted).",
         "state"),
    _job("gpu_seconds_total", "counter", "Time of a job's GPUs by what it was spent on, and whose fault that was.",
         "spent_on", "cause"),
    _job("checkpoint_timestamp_seconds", "gauge", "Unix time at which the newest verified checkpoint was written."),
    _job("fault_timestamp_seconds", "gauge", "Unix time of the signal of each fault that is open.",
         "cause", "kind", "training_node"),
    _operator("cordons_total", "counter", "Nodes cordoned by cause.", "cause"),
    _operator("uncordons_total", "counter", "Cordons lifted after a passed check, by cause.", "cause"),
    _operator(
        "cordons_held_total",
        "counter",
        "What enforcing would have done: cordons that were not made, and drains that were not asked for.",
        "reason",
        "cause",
        "action",
    ),
    _operator("nodes_held", "gauge", "Nodes whose cordon is held back now, by reason.", "reason"),
    _operator("nodes", "gauge", "Nodes by state: ready, not_ready, cordoned (by the operator).", "state"),
    _operator("node_cordon_timestamp_seconds", "gauge", "Unix time of each cordon of the operator that stands.",
              "training_node", "cause"),
    _operator("suspicions_total", "counter", "Suspicions that are not enough for a cordon, by cause.", "cause"),
    _operator(
        "node_lemon_score",
        "gauge",
        "Cordons of a node, each halved for every week since; the worst ten.",
        "training_node",
    ),
    _operator("node_checks_total", "counter", "Nodes checked by outcome: passed, failed.", "outcome"),
    _operator("prometheus_up", "gauge", "1 while Prometheus answers, NaN where it is not asked."),
    _operator("log_rules", "gauge", "Rules of rank logs in force that the cluster added to the table."),
    _operator(
        "log_rules_refused", "gauge", "1 while the ConfigMap of these rules has a mistake: the last good ones stay."
    ),
    _operator("source_rounds_total", "counter", "Rounds of each source that went well.", "source"),
    _operator("watch_age_seconds", "gauge", "Since the last event or bookmark of a watch.", "kind"),
    _operator("resync_repairs_total", "counter", "Objects that a LIST knew newer than the watch."),
    _operator("leader", "gauge", "1 while this process holds the lease."),
)  # fmt: skip


def _agent(name: str, kind: Literal["counter", "gauge"], meaning: str, *labels: str) -> Metric:
    return Metric(AGENT_PREFIX + name, kind, "seconds" if name.endswith("_seconds") else "", meaning, labels)


AGENT: Final = (
    _agent(
        "records_total",
        "counter",
        "Lines of the kernel log by writer: kernel, process, dictionary, unreadable.",
        "writer",
    ),
    _agent("records_lost_total", "counter", "Times that the kernel overwrote records before they were read."),
    _agent("events_total", "counter", "Events of the kernel log by cause.", "cause"),
    _agent("condition_writes_total", "counter", "Writes of the condition by outcome: written, failed.", "outcome"),
    _agent("write_wait_seconds", "gauge", "From a change of the condition until it was written, last write."),
    _agent("healthy", "gauge", "Last condition written: 1 True, 0 False, -1 Unknown."),
)
