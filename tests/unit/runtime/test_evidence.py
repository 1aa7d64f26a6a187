"""What speaks against a node, and for how long."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internlm2_operator.health import condition
from internlm2_operator.health.diagnose import diagnose
from internlm2_operator.health.signals import Kind, Signal, Source
from internlm2_operator.health.verdict import Action, Blame, Verdict
from internlm2_operator.plan.topology import RACK
from internlm2_operator.runtime.evidence import KEPT, Evidence
from internlm2_operator.runtime.world import World
from internlm2_spec import contract
from internlm2_spec.contract import FailureClass, Termination
from tests.examples import few
from tests.unit.runtime.test_world import node, pod

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


def xid(at: datetime = NOW) -> Signal:
    return Signal(Kind.XID, Source.PROMETHEUS, node="n1", at=at, detail="d", gpu="g", xid=79)


def blind() -> Signal:
    return Signal(Kind.EXPORTER_DOWN, Source.PROMETHEUS, node="n1", at=NOW, detail="d")


def with_node() -> World:
    world = World()
    world.put_node(node(1))
    return world


def kinds(evidence: Evidence, world: World, now: datetime = NOW) -> list[Kind]:
    return [signal.kind for signal in evidence.signals(world, "n1", now)]


def job_with_fault(**times: str) -> dict[str, Any]:
    """Return a job whose status says that node n1 failed."""
    stage = {
        "name": "a",
        "data": {"url": "file:///d"},
        "sequenceLength": 256,
        "globalBatchTokens": 16384,
        "steps": 1,
    }
    fault = {"id": "f", "cause": "NodeNotReady", "node": "n1", "times": {"signal": "2026-11-25T11:59:00Z"} | times}
    return {
        "metadata": {
            "name": "demo",
            "namespace": "ns",
            "uid": "job-1",
            "resourceVersion": "7",
            "creationTimestamp": "2026-11-25T10:00:00Z",
        },
        "spec": {
            "model": {"preset": "internlm2-tiny"},
            "checkpoint": {"url": "file:///c"},
            "nodes": {"min": 1, "max": 1},
            "stages": [stage],
        },
        "status": {"faults": [fault]},
    }


def test_an_edge_is_kept_with_the_job_of_its_node_until_it_is_old() -> None:
    evidence, world = Evidence(), with_node()
    world.put_pod(pod(1))
    assert evidence.add([xid()], world) == {"n1"}
    assert [signal.job for signal in evidence.signals(world, "n1", NOW)] == ["ns/demo"]
    assert kinds(evidence, world, NOW + timedelta(hours=25)) == []


def test_an_edge_about_a_node_that_does_not_exist_is_nothing() -> None:
    evidence = Evidence()
    assert evidence.add([xid(), blind()], World()) == set()
    assert kinds(evidence, with_node()) == []


def test_a_storm_of_a_programs_codes_is_bounded_and_pushes_no_fault_out() -> None:
    evidence, world = Evidence(), with_node()
    storm = [replace(xid(NOW + timedelta(seconds=n)), xid=31, gpu=f"g{n}") for n in range(1000)]
    for part in ([xid()], storm, storm[:5]):
        evidence.add(part, world)
    found = evidence.signals(world, "n1", NOW)
    assert len(found) == KEPT
    assert [s.xid for s in found].count(79) == 1
    assert diagnose(found, "n1", NOW).cordon


def mended(at: datetime, **meta: Any) -> dict[str, Any]:
    """Return node n1 with a word of somebody that its faults up to then were dealt with."""
    raw = node(2)
    raw["metadata"] |= meta | {"annotations": {contract.ANNOTATION_RESET: at.isoformat()}}
    return raw


def test_an_edge_of_before_a_reset_is_over() -> None:
    evidence, world = Evidence(), with_node()
    evidence.add([xid()], world)
    world.put_node(mended(NOW))
    assert kinds(evidence, world) == []
    evidence.add([xid(NOW + timedelta(seconds=1))], world)
    assert kinds(evidence, world) == [Kind.XID]


def test_what_ends_in_the_second_of_its_nodes_birth_is_that_nodes() -> None:
    evidence, world = Evidence(), with_node()
    there = world.node("n1")
    assert there is not None
    assert there.created is not None
    evidence.add([xid(there.created)], world)
    assert kinds(evidence, world, there.created + timedelta(seconds=1)) == [Kind.XID]


def test_a_machine_that_has_the_name_of_another_has_not_suffered_what_that_one_did() -> None:
    """Clouds repair a node by a new one with its name. Its agent speaks of it alone, and its object may be new only."""
    evidence, world = Evidence(), with_node()
    evidence.add([xid()], world)
    assert kinds(evidence, world) == [Kind.XID]
    raw = node(2)
    raw["metadata"] |= {"uid": "node-2", "creationTimestamp": (NOW + timedelta(minutes=5)).isoformat()}
    world.drop_node("n1", "node-1")
    world.put_node(raw)
    assert kinds(evidence, world, NOW + timedelta(minutes=6)) == []
    said = condition.condition([condition.event("Xid79", "0000:3b:00", NOW, "words")])
    raw["status"]["conditions"].append({"type": condition.TYPE, "status": said.status, "message": said.message})
    raw["metadata"]["resourceVersion"] = "3"
    world.put_node(raw)
    assert kinds(evidence, world, NOW + timedelta(minutes=6)) == [Kind.XID]


@pytest.mark.parametrize(("seconds", "counts"), [(-1, True), (0, False), (1, False)])
def test_what_the_agent_says_of_before_a_reset_is_over(seconds: float, counts: bool) -> None:
    """The agent takes up to half a minute to forget it, and an operator that starts anew knows nothing of a cordon."""
    raw, world = node(1), World()
    said = condition.condition([condition.event("Xid79", "0000:3b:00", NOW, "words")])
    raw["status"]["conditions"].append({"type": condition.TYPE, "status": said.status, "message": said.message})
    reset = NOW + timedelta(seconds=seconds)
    raw["metadata"]["annotations"] = {contract.ANNOTATION_RESET: reset.isoformat()}
    world.put_node(raw)
    assert (kinds(Evidence(), world, NOW + timedelta(seconds=2)) == [Kind.XID]) is counts


def test_a_silent_exporter_is_known_until_the_next_sample() -> None:
    evidence, world = Evidence(), with_node()
    assert evidence.add([blind()], world) == set()
    assert kinds(evidence, world) == [Kind.EXPORTER_DOWN]
    evidence.add([], world)
    assert kinds(evidence, world) == []


def test_a_silent_node_counts_only_when_it_holds_our_pods() -> None:
    world = World()
    world.put_node(node(1, ready="Unknown"))
    assert kinds(Evidence(), world) == []
    world.put_pod(pod(2))
    assert kinds(Evidence(), world) == [Kind.NODE_NOT_READY]


def test_a_silent_node_counts_while_the_fault_that_took_its_pods_is_open() -> None:
    world = World()
    world.put_node(node(1, ready="Unknown"))
    world.put_job(job_with_fault())
    assert kinds(Evidence(), world) == [Kind.NODE_NOT_READY]


def test_a_silence_that_began_before_a_reset_is_over_and_the_next_one_is_not() -> None:
    """A repaired machine may be taken back before it answers; the fault that its silence was is open until then."""
    world = World()
    world.put_job(job_with_fault())
    raw = mended(NOW)
    raw["status"]["conditions"][0] |= {"status": "Unknown", "lastTransitionTime": NOW.isoformat()}
    world.put_node(raw)
    assert kinds(Evidence(), world, NOW + timedelta(seconds=1)) == []
    raw["metadata"]["resourceVersion"] = "3"
    raw["status"]["conditions"][0] |= {"lastTransitionTime": (NOW + timedelta(seconds=1)).isoformat()}
    world.put_node(raw)
    assert kinds(Evidence(), world, NOW + timedelta(seconds=1)) == [Kind.NODE_NOT_READY]


def test_a_silent_node_of_a_closed_fault_is_somebody_elses_business() -> None:
    world = World()
    world.put_node(node(1, ready="Unknown"))
    world.put_job(job_with_fault(closed="2026-11-25T11:59:30Z"))
    assert kinds(Evidence(), world) == []


BLOCK = "example.com/block"


def cluster(owners: Sequence[str], *, label: str = RACK, ready: str = "True", **said: str) -> World:
    """Return a world of nodes n0, n1, ... behind one switch, one for each owner; an owner is a job's name or nobody."""
    world = World()
    for number, owner in enumerate(owners):
        raw = node(1, ready=ready)
        raw["metadata"] |= {"name": f"n{number}", "uid": f"node-{number}", "labels": {label: "r1"}}
        if said:
            raw["status"]["conditions"].append({"type": "GPUHealthy", "status": "False"} | said)
        world.put_node(raw)
        if owner:
            body = pod(2, f"pod-{number}")
            body["metadata"]["labels"][contract.LABEL_JOB] = owner
            body["spec"]["nodeName"] = f"n{number}"
            world.put_pod(body)
    return world


def verdict(world: World, name: str = "n0", evidence: Evidence | None = None) -> Verdict:
    return diagnose((evidence or Evidence()).signals(world, name, NOW), name, NOW)


OUTAGES = {
    "nodes of two jobs in one rack": (["one", "two", "two"], RACK, Blame.FABRIC),
    "nodes of one job, and one that holds nobody any more": (["one", "one", ""], RACK, Blame.FABRIC),
    "nodes of one job alone": (["one", "one", "one"], RACK, Blame.NODE),
    "two nodes are no rack": (["one", "two"], RACK, Blame.NODE),
    "nodes that another label puts together": (["one", "two", "two"], BLOCK, Blame.NODE),
}


@pytest.mark.parametrize(("owners", "label", "blame"), OUTAGES.values(), ids=OUTAGES)
def test_nodes_that_fall_silent_together_behind_one_switch(owners: list[str], label: str, blame: Blame) -> None:
    found = verdict(cluster(owners, label=label, ready="Unknown"))
    assert (found.blame, found.cordon) == (blame, blame is Blame.NODE)


def test_the_label_is_that_of_the_jobs_on_the_node_else_the_operators() -> None:
    world = cluster(["one", "two", "two"], label=BLOCK, ready="Unknown")
    assert verdict(world, evidence=Evidence(BLOCK)).blame is Blame.FABRIC
    body = job_with_fault(closed="2026-11-25T11:59:30Z")
    body["metadata"]["name"] = "one"
    body["spec"]["topology"] = {"label": BLOCK}
    world.put_job(body)
    assert verdict(world).blame is Blame.FABRIC
    assert verdict(world, "n1").blame is Blame.NODE, "the other job says nothing of blocks"


def test_links_of_many_nodes_at_one_switch_are_the_switch() -> None:
    said = f"LinkDown on ib0 at {NOW:%Y-%m-%dT%H:%M:%S}.000Z"
    world = cluster(["one", "one", "one"], message=said)
    found = verdict(world)
    assert (found.blame, found.action, found.cause) == (Blame.FABRIC, Action.CHECK, "LinkDown")
    alone = verdict(cluster(["one"], message=said))
    assert (alone.blame, alone.action, alone.cordon) == (Blame.NODE, Action.CHECK, False)


def test_the_last_link_of_a_switch_to_come_back_is_not_its_nodes() -> None:
    """Links that fall together rise one after another, and by then the pods have ended."""
    said = f"LinkDown on ib0 at {NOW:%Y-%m-%dT%H:%M:%S}.000Z"
    world, evidence = cluster(["one", "one"], message=said), Evidence()
    killed = pod(3, "pod-0", "Failed")
    killed["metadata"]["labels"][contract.LABEL_JOB] = "one"
    killed["spec"]["nodeName"] = "n0"
    end = {"exitCode": 137, "reason": "Error", "finishedAt": NOW.isoformat()}
    killed["status"]["containerStatuses"] = [{"name": "trainer", "state": {"terminated": end}}]
    assert verdict(world, "n1", evidence).blame is Blame.FABRIC
    back = node(5)
    back["metadata"] |= {"name": "n1", "uid": "node-1", "labels": {RACK: "r1"}}
    world.put_node(back)
    world.put_pod(killed)
    assert verdict(world, "n1", evidence).blame is Blame.NONE
    found = verdict(world, "n0", evidence)
    assert (found.blame, found.cordon) == (Blame.FABRIC, False)
    assert verdict(world, "n0").cordon, "the control: one that knows of no other link"
    later = NOW + timedelta(minutes=6)
    assert all(s.node == "n0" for s in evidence.signals(world, "n0", later)), "and it is forgotten"


def test_one_code_on_nodes_of_several_jobs_behind_one_switch() -> None:
    world, evidence = cluster(["one", "two", "two"]), Evidence()
    evidence.add([replace(xid(), node=f"n{number}", xid=74) for number in range(3)], world)
    assert verdict(world, evidence=evidence).blame is Blame.FABRIC
    apart, other = cluster(["one", "two", "two"], label=BLOCK), Evidence()
    other.add([replace(xid(), node=f"n{number}", xid=74) for number in range(3)], apart)
    assert verdict(apart, evidence=other).blame is not Blame.FABRIC


SAYINGS = st.sampled_from(
    ["", *(f"{what} at {NOW - timedelta(seconds=s):%Y-%m-%dT%H:%M:%S}.000Z" for s in (1, 30, 400)
           for what in ("LinkDown on ib0", "Xid 31 on 0000:3b:00", "Xid 74 on 0000:3b:00", "Xid 119 on 0000:3b:00"))]
)  # fmt: skip
STATES = st.tuples(st.sampled_from(["one", "two"]), st.sampled_from(["True", "Unknown"]), SAYINGS, st.booleans())


@few
@given(st.lists(STATES, min_size=1, max_size=7))
def test_what_is_left_out_changes_no_verdict(states: list[tuple[str, str, str, bool]]) -> None:
    """All that speaks about any node, taken together, leads to the same verdicts as what is handed out for each."""
    world, evidence = cluster([owner for owner, *_ in states]), Evidence()
    for number, (_, ready, said, xids) in enumerate(states):
        raw = node(2, ready=ready)
        raw["metadata"] |= {"name": f"n{number}", "uid": f"node-{number}", "labels": {RACK: f"r{number % 2}"}}
        raw["status"]["conditions"].append({"type": "GPUHealthy", "status": "False", "message": said})
        world.put_node(raw)
        evidence.add([replace(xid(), node=f"n{number}", xid=74)] if xids else [], world)
    names = [f"n{number}" for number in range(len(states))]
    own = {name: [s for s in evidence.signals(world, name, NOW) if s.node == name] for name in names}
    everything = [signal for signals in own.values() for signal in signals]
    assert [verdict(world, name, evidence) for name in names] == [diagnose(everything, name, NOW) for name in names]


def test_a_cordoned_node_still_tells_what_others_share_with_it() -> None:
    world, evidence = cluster(["one", "two", "two"]), Evidence()
    evidence.add([replace(xid(), node="n1", xid=74), replace(xid(), node="n2", xid=74)], world)
    world.put_node(mended(NOW, labels={RACK: "r1"}))
    evidence.add([replace(xid(), node="n0", xid=74)], world)
    assert verdict(world, evidence=evidence).blame is Blame.FABRIC
    assert verdict(world, "n1", evidence).blame is Blame.NONE


# Whatever a user of a namespace can write: pods of any labels on any node, and what their containers say at their end.
REASONS = st.sampled_from(
    ["Error", "OOMKilled", "Evicted", "StartError", "NodeShutdown", "UnexpectedAdmissionError", ""]
)
WORDS = st.one_of(
    st.text(max_size=60),
    st.sampled_from([
        "NVRM: Xid (PCI:0000:3b:00): 79, pid=1, name=x, GPU has fallen off the bus.",
        "Xid 79 on 0000:3b:00 at 2026-11-25T12:00:00.000Z (GPU has fallen off the bus.)",
        "RuntimeError: CUDA error: uncorrectable ECC error encountered",
        "nvidia-container-cli: device error",
    ]),
)  # fmt: skip
SAID = st.builds(
    Termination, st.sampled_from(FailureClass), st.sampled_from(["Hang", "RankKilled", "RankAborted", "x"]),
    st.integers(0, 255), message=WORDS, rank=st.integers(-1, 99), step=st.integers(0, 9), traceback=WORDS,
)  # fmt: skip
ENDS = st.fixed_dictionaries(
    {
        "exitCode": st.sampled_from([1, 64, 70, 75, 76, 77, 132, 134, 137, 139, 143]),
        "reason": REASONS,
        "message": st.one_of(WORDS, SAID.map(Termination.to_json)),
        "finishedAt": st.sampled_from(["2026-11-25T11:59:30Z", "2026-11-25T12:00:00Z", "2030-01-01T00:00:00Z"]),
    }
)
NUMBERS = (contract.LABEL_STAGE, contract.LABEL_ATTEMPT, contract.LABEL_SLOT)


@st.composite
def theirs(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Draw pods on n0, n1 and n2, as a user may make them and let them end."""
    pods = []
    for number in range(draw(st.integers(0, 8))):
        raw = pod(number + 1, f"pod-{number}", phase="Failed", namespace=draw(st.sampled_from(["ns", "other"])))
        labels = {contract.LABEL_JOB: draw(st.sampled_from(["one", "two", "demo"]))}
        labels |= {label: str(draw(st.integers(0, 3))) for label in NUMBERS}
        raw["metadata"]["labels"] = labels
        raw["spec"]["nodeName"] = f"n{draw(st.integers(0, 2))}"
        ended = {"name": "trainer", "state": {"terminated": draw(ENDS)}}
        target = {"type": "DisruptionTarget", "status": "True", "reason": draw(REASONS)}
        raw["status"] |= {"containerStatuses": [ended], "reason": draw(REASONS), "conditions": [target]}
        pods.append(raw)
    return pods


@few
@given(theirs(), st.sampled_from(["Enforce", "Observe"]), st.sampled_from([RACK, "kubernetes.io/os"]))
def test_nothing_that_a_user_can_write_cordons_a_node(pods: list[dict[str, Any]], mode: str, label: str) -> None:
    world, evidence = cluster(["one", "two", ""]), Evidence()
    body = job_with_fault(closed="2026-11-25T11:59:30Z")
    body["spec"] |= {"topology": {"label": label}, "health": {"mode": mode, "maxCordonPercent": 100}}
    world.put_job(body)
    for raw in pods:
        world.put_pod(raw)
    verdicts = [verdict(world, f"n{number}", evidence) for number in range(3)]
    assert [v.node for v in verdicts if v.cordon] == []
    assert {v.blame for v in verdicts} <= {Blame.NONE, Blame.UNKNOWN}


def killed(world: World, *, deleted: bool = False) -> None:
    raw = pod(9, "killed", phase="Failed")
    raw["spec"]["nodeName"] = "n0"
    ended = {"exitCode": 137, "reason": "Error", "finishedAt": "2026-11-25T12:00:00Z"}
    raw["status"]["containerStatuses"] = [{"name": "trainer", "state": {"terminated": ended}}]
    if deleted:
        raw["metadata"] |= {"deletionTimestamp": "2026-11-25T12:00:00Z", "deletionGracePeriodSeconds": 30}
    world.put_pod(raw)


def test_the_control_of_that_a_suspicion_of_the_driver_and_an_end_of_a_pod_do_cordon() -> None:
    world, evidence = cluster(["one", "two", ""]), Evidence()
    killed(world)
    assert not verdict(world, evidence=evidence).cordon
    evidence.add([replace(xid(), node="n0", xid=119, source=Source.DRIVER)], world)
    assert verdict(world, evidence=evidence).cordon


def test_an_end_that_was_seen_counts_after_its_pod_is_gone_but_not_one_that_was_asked_for() -> None:
    for deleted in (False, True):
        world, evidence = cluster(["one", "two", ""]), Evidence()
        killed(world, deleted=deleted)
        world.drop_pod("ns/demo", "killed")
        evidence.add([replace(xid(), node="n0", xid=119, source=Source.DRIVER)], world)
        assert verdict(world, evidence=evidence).cordon is not deleted
