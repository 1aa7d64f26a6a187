"""One of each page, from objects as the API server holds them."""

import dataclasses
from typing import Any, Final

from internlm2_operator.api.job import InternLM2Job
from internlm2_operator.api.status import (
    CheckpointStatus,
    Fault,
    FaultTimes,
    JobStatus,
    NodesStatus,
    Phase,
    set_condition,
)
from internlm2_operator.cli.ui import html, pages
from internlm2_operator.cluster.history import Past
from internlm2_operator.health.node import NodeRecord
from tests.unit.plan.world import T0, after, job, note

NOW: Final = after(3600)
CLOSED: Final = Fault(
    id="abc123", cause="Xid79", node="gpu-017", gpu="GPU-3f1c", evidence=("XID 79 on GPU-3f1c", "NVRM: fallen off"),
    verdict="node", action="cordoned gpu-017", cordoned=True, steps_lost=4,
    times=FaultTimes(last_step=after(599), signal=after(600), verdict=after(600.5), cordon=after(601),
                     replacement=after(611), resume=after(630), closed=after(640)),
)  # fmt: skip
OPEN: Final = Fault(id="def456", cause="NodeNotReady", node="gpu-018", times=FaultTimes(signal=after(3500)))


BEGAN: Final = T0.timestamp() + 60
UNSEEN: Final = Past(BEGAN, NOW.timestamp(), 15.0)
PAST: Final = dataclasses.replace(UNSEEN, loss=((BEGAN, 7.5), (BEGAN + 15, 1.9312)), mfu=((BEGAN, 0.331),))


def running(**changes: Any) -> InternLM2Job:
    conditions = set_condition((), "Progressing", status="True", reason="Stepping", message="", generation=1, now=T0)
    status = JobStatus(
        phase=Phase.RUNNING, conditions=conditions, stage="stage-1", stage_index=1, attempt=2, size=2, step=25,
        loss=1.9312, mfu=0.331, tokens_per_second=16384.0, checkpoint=CheckpointStatus(step=20, time=after(3000)),
        nodes=NodesStatus(active=2, ready=3, spare=1), faults=(CLOSED, OPEN), start_time=after(60),
    )  # fmt: skip
    return job(stages=3).model_copy(update={"status": status} | changes)


CORDONED: Final = NodeRecord(
    "gpu-017", True, T0, True, 8,
    fault=dataclasses.replace(note(), by="internlm2-operator", rule="one signal that proves it", action="reboot"),
)  # fmt: skip


def of_each_kind() -> dict[str, pages.Page]:
    broken = pages.fault(running(), "abc123")
    assert broken is not None
    return {
        "jobs": pages.jobs([running()], NOW, namespace="", notes=["a note"], unreadable=["a/b: too new"]),
        "no jobs": pages.jobs([], NOW, namespace="empty"),
        "job": pages.job(running(), NOW),
        "job with its past": pages.job(running(), NOW, PAST),
        "job without a past": pages.job(running(), NOW, UNSEEN),
        "job that is new": pages.job(job(), NOW),
        "fault": broken,
        "nodes": pages.all_nodes([CORDONED], NOW),
        "no nodes": pages.all_nodes([], NOW),
        "node": pages.node(CORDONED, [running()], NOW),
        "problem": pages.Problem("You may not see this", "nodes is forbidden", "ask"),
    }


def rendered(page: pages.Page, *, reloads: bool = False) -> str:
    return html.render(page, html.Place("../", NOW, reloads=reloads))
