"""The life of a cordon on a real API server: made, lifted after a passed check, or only told. A node left in time."""

import functools
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from internlm2_operator.health import condition
from internlm2_operator.health.node import CheckNote
from internlm2_spec import contract
from tests.api.apiserver import ApiServer, wait_for
from tests.api.rest import Object, Rest
from tests.api.stage import OperatorProcess, Stage, node_of, on_stage
from tests.servers import S3Server

pytestmark = pytest.mark.api

FOREIGN = {"key": "dedicated", "value": "team-a", "effect": "PreferNoSchedule"}


@pytest.fixture
def nodes(api: ApiServer, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Nodes without a job."""
    idle = S3Server(tmp_path_factory.mktemp("idle"))
    name = f"cordon-{abs(hash(request.node.name)) % 10**6}"
    with on_stage(Rest(api), idle, name, secret=False, data=False) as ready:
        yield ready


def test_a_passed_check_lifts_our_cordon_and_nothing_else(process: OperatorProcess, nodes: Stage, rest: Rest) -> None:
    ours, theirs = nodes.make_nodes("ours", "theirs")
    rest.merge(f"/api/v1/nodes/{ours}", {"spec": {"taints": [FOREIGN]}})
    rest.merge(f"/api/v1/nodes/{theirs}", {"spec": {"unschedulable": True}})
    for node in (theirs, ours):
        report(rest, node, 95)
    for node in (theirs, ours):
        wait_for(functools.partial(note, rest, node), what="cordon")
    assert [note(rest, node)["before"] for node in (ours, theirs)] == [False, True]
    assert {taint["key"] for taint in seen(rest, ours)["spec"]["taints"]} == {"dedicated", contract.TAINT_FAULT}
    # A check of before the cordon, and one that failed, prove nothing.
    for said in (CheckNote(datetime.now(UTC) - timedelta(hours=1), "quick", True), passed(False)):
        annotate(rest, ours, said)
    annotate(rest, theirs, passed(True))
    let_look(process, rest, ours)
    assert note(rest, ours)
    annotate(rest, ours, passed(True))
    lifted = wait_for(lambda: None if note(rest, ours) else seen(rest, ours), what="the end of the cordon")
    assert not lifted["spec"].get("unschedulable")
    assert {taint["key"] for taint in lifted["spec"]["taints"]} == {"dedicated"}
    notes = lifted["metadata"]["annotations"]
    (past,) = json.loads(notes[contract.ANNOTATION_HISTORY])["faults"]
    assert (past["cause"], past["action"]) == ("Xid95", "cordon-reset")
    assert past["lifted"] > past["at"]
    assert contract.ANNOTATION_RESET in notes
    assert process.metric('internlm2_operator_uncordons_total{cause="Xid95"}') == 1
    # Somebody else's cordon stays, though its check passed first.
    assert note(rest, theirs)
    assert seen(rest, theirs)["spec"]["unschedulable"] is True


def test_what_the_agent_still_says_of_before_the_check_cordons_nobody_after_a_restart(
    process: OperatorProcess, nodes: Stage, rest: Rest
) -> None:
    mended, sick = nodes.make_nodes("mended", "sick")
    report(rest, mended, 95)
    wait_for(lambda: note(rest, mended), what="cordon")
    annotate(rest, mended, passed(True))
    wait_for(lambda: not note(rest, mended), what="the end of the cordon")
    judged_anew(process, rest, sick)
    assert not note(rest, mended)
    # On probation a suspicion is enough; the node that never was cordoned is only suspected.
    (fresh,) = nodes.make_nodes("fresh")
    report(rest, fresh, 62)
    report(rest, mended, 62)
    again = wait_for(lambda: note(rest, mended), what="cordon on probation")
    assert (again["cause"], again["action"]) == ("Xid62", "cordon-replace")
    held = wait_for(lambda: note(rest, fresh, contract.ANNOTATION_HELD), what="suspicion")
    assert (held["reason"], held["cause"], held["action"]) == ("Suspected", "Xid62", "check")
    assert not note(rest, fresh)


def test_a_node_whose_note_a_person_takes_off_is_not_cordoned_for_the_same_again(
    process: OperatorProcess, nodes: Stage, rest: Rest
) -> None:
    """Neither by the operator that knows the cordon, nor by one that starts later and hears the agent's old words."""
    mended, sick = nodes.make_nodes("mended", "sick")
    report(rest, mended, 95)
    wait_for(lambda: note(rest, mended), what="cordon")
    report(rest, mended, 79)  # a second fault, while it is cordoned for the first
    take_back(rest, mended)
    judged_anew(process, rest, sick)
    assert not note(rest, mended)
    assert not seen(rest, mended)["spec"].get("unschedulable")
    report(rest, mended, 64)
    assert wait_for(lambda: note(rest, mended), what="cordon for what came since")["cause"] == "Xid64"


def test_a_node_that_a_person_takes_back_before_it_answers_is_not_cordoned_for_the_same_silence(
    process: OperatorProcess, rest: Rest, store: S3Server
) -> None:
    with on_stage(rest, store, "early") as stage:
        stage.make_nodes("a", "b")
        stage.make_job()
        stage.train()
        dead = node_of(stage.pods()["job-0-001-0001"])
        stage.set_ready(dead, ready=False)
        wait_for(lambda: note(rest, dead), what="cordon")
        take_back(rest, dead)
        let_look(process, rest, dead)
        assert not note(rest, dead)
        assert stage.status()["faults"][-1]["times"].get("closed") is None, "its silence is the job's business still"
        stage.set_ready(dead, ready=True)
        settled = datetime.fromisoformat(seen(rest, dead)["metadata"]["annotations"][contract.ANNOTATION_RESET])
        # Conditions have whole seconds.
        wait_for(lambda: datetime.now(UTC) >= settled + timedelta(seconds=1), what="another second")
        stage.set_ready(dead, ready=False)
        assert wait_for(lambda: note(rest, dead), what="cordon for the next silence")["cause"] == "NodeNotReady"


def test_what_enforcing_would_have_done_is_counted_and_noted(
    process: OperatorProcess, rest: Rest, store: S3Server
) -> None:
    with on_stage(rest, store, "observe") as stage:
        stage.make_nodes("a", "b")
        stage.make_job(health={"mode": "Observe"})
        stage.wait_for_pods(2)
        stage.run_pods()
        node = node_of(stage.pods()["job-0-001-0001"])
        report(rest, node, 79)
        held = wait_for(lambda: note(rest, node, contract.ANNOTATION_HELD), what="note")
        assert (held["reason"], held["cause"], held["action"]) == ("ObserveMode", "Xid79", "cordon-reboot")
        assert held["evidence"]
        stage.wait_for_reason("ObserveMode")
        labels = 'action="cordon-reboot",cause="Xid79",reason="ObserveMode"'
        assert process.metric(f"internlm2_operator_cordons_held_total{{{labels}}}") == 1
        assert not seen(rest, node)["spec"].get("unschedulable")
        assert not note(rest, node)


def test_a_node_that_is_announced_to_go_is_left_after_a_checkpoint(
    process: OperatorProcess, rest: Rest, store: S3Server
) -> None:
    with on_stage(rest, store, "leave") as stage:
        stage.make_nodes("a", "b", "c")
        stage.make_job()
        stage.train()
        going = node_of(stage.pods()["job-0-001-0001"])
        taint = {"key": "cloud.google.com/impending-node-termination", "effect": "NoSchedule"}
        rest.merge(f"/api/v1/nodes/{going}", {"spec": {"taints": [taint]}})
        wait_for(lambda: stage.pods() == {}, what="pods that stop")
        graces = {pod["metadata"]["deletionGracePeriodSeconds"] for pod in rest.items("/api/v1/namespaces/leave/pods")}
        assert graces == {stage.job()["spec"]["template"]["terminationGracePeriodSeconds"]}
        stage.say_goodbye()
        pods = stage.wait_for_pods(2)
        assert {pod["metadata"]["labels"][contract.LABEL_ATTEMPT] for pod in pods.values()} == {"2"}
        assert going not in {node_of(pod) for pod in pods.values()}
        (fault,) = stage.status()["faults"]
        assert (fault["cause"], fault["node"], fault["verdict"]) == ("Maintenance", going, "request")
        assert not note(rest, going)
    assert process.healthy()


def take_back(rest: Rest, node: str) -> None:
    """Do what a person does who judges that a node is well, and wait until the operator has written down that it is."""
    rest.merge(f"/api/v1/nodes/{node}", {
        "metadata": {"annotations": {contract.ANNOTATION_FAULT: None}},
        "spec": {"unschedulable": None, "taints": None},
    })  # fmt: skip
    wait_for(lambda: contract.ANNOTATION_RESET in seen(rest, node)["metadata"]["annotations"], what="a word of it")


def let_look(process: OperatorProcess, rest: Rest, node: str) -> None:
    """Have the operator look at a node about which nothing new is said that counts."""
    looks = 'internlm2_operator_reconcile_seconds_count{kind="node"}'
    before = process.metric(looks)
    report(rest, node, 43)
    wait_for(lambda: process.metric(looks) > before, what="a look")


def judged_anew(process: OperatorProcess, rest: Rest, sick: str) -> None:
    """Let an operator start anew, which judges all nodes: when the sick one is cordoned, so is each that should be."""
    process.kill()
    report(rest, sick, 95)
    process.start()
    wait_for(lambda: note(rest, sick), what="cordon of the other")
    rest("DELETE", f"/api/v1/nodes/{sick}")  # it would count for the breaker


def passed(well: bool) -> CheckNote:
    return CheckNote(datetime.now(UTC), "quick", passed=well)


def annotate(rest: Rest, node: str, said: CheckNote) -> None:
    rest.merge(f"/api/v1/nodes/{node}", {"metadata": {"annotations": {contract.ANNOTATION_CHECK: said.to_json()}}})


def gpu_status(rest: Rest, node: str, xid: int) -> Object:
    """Return the status of a node whose agent has read an XID in the kernel's log, too."""
    conditions = seen(rest, node)["status"]["conditions"]
    known = next((c["message"] for c in conditions if c["type"] == condition.TYPE), "")
    new = condition.event(f"Xid{xid}", "0000:3b:00", datetime.now(UTC), "words")
    said = condition.condition([*condition.events(known), new])
    own = {"type": condition.TYPE, "status": said.status, "reason": said.reason, "message": said.message}
    return {"status": {"conditions": [*(c for c in conditions if c["type"] != condition.TYPE), own]}}


def report(rest: Rest, node: str, xid: int) -> None:
    rest.merge(f"/api/v1/nodes/{node}/status", gpu_status(rest, node, xid))


def seen(rest: Rest, node: str) -> Object:
    return rest("GET", f"/api/v1/nodes/{node}")


def note(rest: Rest, node: str, key: str = contract.ANNOTATION_FAULT) -> Object:
    """Return a note of ours on a node, empty without one."""
    text = seen(rest, node)["metadata"].get("annotations", {}).get(key)
    found: Object = json.loads(text) if text else {}
    return found
