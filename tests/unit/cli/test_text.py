"""What `status` and `faults` print."""

from typing import Any

from internlm2_operator.api.job import InternLM2Job
from internlm2_operator.api.status import Fault, FaultTimes, JobStatus, set_condition
from internlm2_operator.cli import text
from tests.unit.plan.world import T0, after, job


def with_status(**fields: Any) -> InternLM2Job:
    return job().model_copy(update={"status": JobStatus(**fields)})


FAULT = Fault(
    id="f1", cause="Xid79", node="n1", evidence=("XID 79",), verdict="node", action="replaced",
    times=FaultTimes(signal=T0, verdict=after(1), closed=after(3)), seconds={"verdict": 1.0}, steps_lost=2,
)  # fmt: skip


def test_a_table_has_a_row_a_job_sorted_by_its_key() -> None:
    jobs = [with_status(phase="Running", stage="a", step=7, faults=(FAULT,)), job().model_copy(update={"name": "abc"})]
    answer = text.jobs(jobs, after(600), everywhere=True)
    rows = [line.split() for line in answer.lines]
    assert rows[0][:3] == ["NAMESPACE", "NAME", "PHASE"]
    assert rows[1][:3] == ["default", "abc", "Pending"]
    assert rows[2] == ["default", "demo", "Running", "a", "0", "7", "-", "-", "0", "Xid79", "10m"]
    assert answer.names == ("internlm2job.training.internlm.io/demo", "internlm2job.training.internlm.io/abc")


def test_wide_says_why_a_job_does_not_go_on() -> None:
    conditions = set_condition((), "Scheduled", status="False", reason="Queued", message="", generation=1, now=T0)
    answer = text.jobs([with_status(conditions=conditions)], T0, everywhere=False)
    assert answer.wide is not None
    assert answer.wide[1].split()[-1] == "Queued"


def test_no_jobs_are_a_line_and_an_empty_list() -> None:
    answer = text.jobs([], T0, everywhere=False)
    assert (answer.lines, answer.data, answer.names) == (("no jobs",), [], ())


def test_a_fault_has_its_arrows_and_its_evidence() -> None:
    lines = list(text.faults(with_status(faults=(FAULT,))))
    assert lines[0] == "f1 Xid79 on n1: closed"
    assert lines[1] == "  verdict node; replaced; steps lost 2"
    assert lines[3].endswith("(+1.0 s)")
    assert lines[-1] == "  evidence: XID 79"


def test_a_condition_without_words_ends_with_its_reason() -> None:
    conditions = set_condition((), "Recovering", status="False", reason="NoFault", message="", generation=1, now=T0)
    assert list(text.status(with_status(conditions=conditions)))[-1] == "  Recovering=False NoFault"
