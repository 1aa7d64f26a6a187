"""The page of all metrics, made from the catalogue that both registries are made from."""

from collections.abc import Iterable, Mapping

from internlm2_spec import metrics
from internlm2_spec.metrics import Metric

_HEAD = """
# Metrics

Prometheus reads the trainer's at `:9100/metrics` of every pod (local rank 0 serves) and the operator's at
`:8080/metrics`. Names follow [Prometheus's rules](https://prometheus.io/docs/practices/naming/).

## Trainer
"""
_PARTS = """
## Where a step's time goes

`internlm2_train_step_part_seconds_total{part=...}` splits the time of local rank 0 from the start of each step to the
start of the next, without gap or overlap; `internlm2_train_step_seconds` is the sum of the last whole step.
"""
_PARTS_NOTES = """
On a CPU these are times of the host. On a GPU they are times of the device, by events in its stream: a part is what
the computation was kept waiting, so data that were read while the last update still ran cost nothing. Nothing waits
for an event; they are read after the wait for the loss that each step has, so a step is counted one step later.

**Not in `communication`: messages inside the passes** (weights and gradients of shards, tensor, context, pipeline).
What of them is not hidden behind computation makes `forward_backward` longer; a profile shows it. On a GPU, what the
host is late with is counted in the part it belongs to.

    sum by (part) (rate(internlm2_train_step_part_seconds_total[5m]))          # shares of a second

## Stragglers

In a step every rank waits for the slowest, so wall times are alike on all. Compared is what a rank does without the
others: waiting for data; the forward pass of each of its layers on the first micro-batch, between the gather of a
layer's weights and its release; and a message of 1 MiB to the next rank of a ring, every fourth step, from four nodes
on. The figures travel as integers beside the label counts of the step after next, in the all-reduce that is there
anyway, 24 bytes a rank. Every pod serves the same, two steps late: `internlm2_train_rank_part_seconds`, and of data and
computation together `internlm2_train_slowest_rank` and `internlm2_train_rank_work_seconds`.

`internlm2_train_straggler_rank` is a rank that has stood out for three windows of eight steps, which
[health](health.md#stragglers) explains, else -1; `internlm2_train_straggler_seconds{what}` is by how much.

Not seen: a slow backward pass or optimizer alone, and a link of a node other than that of its first and last rank. A
tensor or context group exchanges messages inside a layer, so one slow rank of it shows in all. Pipeline ranks differ by
their number of layers, and are compared within their stage.

    internlm2_train_straggler_rank >= 0

## Goodput

`internlm2_train_seconds_total{cause=...}` books the time of a process since its start, each second on one cause. It
grows when a step or a phase ends, so the sum is the process's age but for what is under way.
"""
_CAUSES_NOTES = """
Goodput is the productive share of the time that pods had:

    sum(increase(internlm2_train_seconds_total{cause="productive"}[1h]))
      / sum(increase(internlm2_train_seconds_total[1h]))

`repeated` knows what the pods of this attempt did before a restart in place, whichever of them are still there. Steps
that are done again by a new attempt, or after every pod was replaced, count as productive: the operator has those, as
steps lost in `status.faults[]`. Time without a process (a pod that waits, a rendezvous) is no trainer's: it is in the
arrows of a fault, `internlm2_operator_fault_arrow_seconds`.

## Operator
"""


_SPENT = """
### What a job's GPUs are spent on

`internlm2_operator_job_gpu_seconds_total{spent_on=..., cause=...}` books the GPUs of every job that has begun, each
second on one account. A job that lost its nodes is charged those of its newest attempt.
"""
_SPENT_NOTES = """
The effective training time ratio (ETTR) is the productive part, the rest is lost, by cause:

    sum(increase(internlm2_operator_job_gpu_seconds_total{spent_on="productive"}[1d]))
      / sum(increase(internlm2_operator_job_gpu_seconds_total[1d]))
    sum by (cause) (increase(internlm2_operator_job_gpu_seconds_total{spent_on=~"fault|redo"}[1d])) / 3600

Waiting for checkpoints, which the trainer counts as `checkpoint_stall`, is in `productive` here.
"""
_AGENT = """
## Node agent
"""
_SCRAPE = """
## Labels of the scrape

The dashboards and alerts of the chart go by labels that Prometheus adds to the series of a pod:
"""
_SCRAPE_NOTES = """
A scrape configuration of your own by pod annotations needs these relabelings:

    - {source_labels: [__meta_kubernetes_namespace], target_label: namespace}
    - {source_labels: [__meta_kubernetes_pod_name], target_label: pod}
    - {source_labels: [__meta_kubernetes_pod_node_name], target_label: node}
    - {source_labels: [__meta_kubernetes_pod_label_training_internlm_io_job], target_label: training_job}
    - {source_labels: [__meta_kubernetes_pod_label_training_internlm_io_slot], target_label: slot}
"""


def page() -> str:
    """Return the page in Markdown."""
    parts = (
        _HEAD.strip(), _table(metrics.TRAINER), _PARTS.strip(), _values("part", metrics.PARTS), _PARTS_NOTES.strip(),
        _values("cause", metrics.CAUSES), _CAUSES_NOTES.strip(), _table(metrics.OPERATOR), _SPENT.strip(),
        _values("spent_on", metrics.SPENT_ON), _SPENT_NOTES.strip(), _AGENT.strip(),
        _table(metrics.AGENT), _SCRAPE.strip(), _values("label", metrics.SCRAPE_LABELS, "where it is from"),
        _SCRAPE_NOTES.strip(),
    )  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _table(catalogue: Iterable[Metric]) -> str:
    head = "| metric | type | labels | unit | meaning |\n|---|---|---|---|---|\n"
    return head + "\n".join(_row(metric) for metric in catalogue)


def _row(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return f"| `{metric.name}` | {metric.kind} | {labels} | {metric.unit} | {metric.meaning} |"


def _values(label: str, meanings: Mapping[str, str], head: str = "what it counts") -> str:
    rows = (f"| `{value}` | {meaning} |" for value, meaning in meanings.items())
    return f"| `{label}` | {head} |\n|---|---|\n" + "\n".join(rows)
