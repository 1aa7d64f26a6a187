"""Cordons of ours, with what they rest on."""

import dataclasses
from typing import Any

from internlm2_operator.api.status import Fault, JobStatus
from internlm2_operator.cli import cordons
from internlm2_operator.health.cordon import OPERATOR
from internlm2_operator.health.node import NodeRecord
from internlm2_spec.contract import ANNOTATION_FAULT
from tests.unit.plan.world import T0, after, job, note


def raw(name: str, text: str | None) -> dict[str, Any]:
    annotations = {ANNOTATION_FAULT: text} if text else {}
    return {"metadata": {"name": name, "creationTimestamp": T0.isoformat(), "annotations": annotations},
            "spec": {"unschedulable": True}}  # fmt: skip


def test_oldest_first_with_the_jobs_that_were_hit() -> None:
    hit = job().model_copy(update={"status": JobStatus(faults=(Fault(id="f", cause="Xid79", node="late"),))})
    late = dataclasses.replace(note(at=after(60)), by="operator-0")
    answer = cordons.told([raw("late", late.to_json()), raw("early", note().to_json())], [hit], after(180))
    rows = [line.split() for line in answer.lines]
    assert rows[1] == ["early", "3m", "Xid79", "GPU-0", "-", "-"]
    assert rows[2] == ["late", "2m", "Xid79", "GPU-0", "operator-0", "default/demo"]
    assert answer.names == ("node/early", "node/late")
    assert answer.wide is not None
    assert answer.wide[2] == "  evidence: Xid79 was seen"


def test_a_cordon_of_a_person_is_not_ours_to_explain() -> None:
    answer = cordons.told([raw("drained", None), raw("odd", "by hand")], [], T0)
    assert (answer.lines, answer.data) == (("no node is cordoned by the operator",), [])


def test_why_a_node_was_cordoned_is_told_by_rule_evidence_and_remedy() -> None:
    said = dataclasses.replace(
        note(), gpu="GPU-0", by=OPERATOR, before=True, rule="one signal that proves it", action="cordon-reboot"
    )
    node = NodeRecord("n1", True, T0, 8, unschedulable=True, fault=said)
    head, *rest = cordons.reason(node, after(300)).lines
    assert head.startswith("n1 was cordoned ")
    assert f": {said.cause} on GPU-0" in head
    assert rest == [
        "rule: one signal that proves it",
        *(f"evidence: {line}" for line in said.evidence),
        "to mend it: cordon-reboot",
        "it was unschedulable before: lifting our cordon leaves that",
        "it stays: somebody else had cordoned the node before: a person lifts it",
    ]
    foreign = cordons.reason(dataclasses.replace(node, fault=None), T0)
    assert foreign.lines == ("n1 has no cordon of ours: somebody else cordoned or tainted it",)
