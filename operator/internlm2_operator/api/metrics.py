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
others: waiting for data, and the forward pass of each of its layers on the first micro-batch, between the gather of a
layer's weights and its release. The figures travel as integers beside the label counts of the step after next, in the
all-reduce that is there anyway, 8 bytes a rank. Every pod serves the same: `internlm2_train_slowest_rank` and
`internlm2_train_rank_work_seconds{statistic="min"|"median"|"max"}`, two steps late.

Not seen: a slow backward pass or optimizer alone. A tensor or context group exchanges messages inside a layer, so one
slow rank of it shows in all. Pipeline ranks differ by their number of layers.

    internlm2_train_rank_work_seconds{statistic="max"}
      > ignoring (statistic) 1.2 * internlm2_train_rank_work_seconds{statistic="median"}

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


def page() -> str:
    """Return the page in Markdown."""
    parts = (
        _HEAD.strip(), _table(metrics.TRAINER), _PARTS.strip(), _values("part", metrics.PARTS), _PARTS_NOTES.strip(),
        _values("cause", metrics.CAUSES), _CAUSES_NOTES.strip(), _table(metrics.OPERATOR),
    )  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _table(catalogue: Iterable[Metric]) -> str:
    head = "| metric | type | labels | unit | meaning |\n|---|---|---|---|---|\n"
    return head + "\n".join(_row(metric) for metric in catalogue)


def _row(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return f"| `{metric.name}` | {metric.kind} | {labels} | {metric.unit} | {metric.meaning} |"


def _values(label: str, meanings: Mapping[str, str]) -> str:
    rows = (f"| `{value}` | {meaning} |" for value, meaning in meanings.items())
    return f"| `{label}` | what it counts |\n|---|---|\n" + "\n".join(rows)
