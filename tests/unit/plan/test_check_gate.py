"""A start that waits for a check of its nodes: what it waits for, how long, and what it makes of the answers."""

import dataclasses
from datetime import datetime, timedelta
from typing import Any

import pytest

from internlm2_operator.api.health import HealthSpec
from internlm2_operator.api.job import InternLM2Job
from internlm2_operator.api.status import Fault, FaultTimes, NodeCheckStatus
from internlm2_operator.plan import check_gate
from internlm2_operator.plan.check import LIMIT, Depth
from internlm2_operator.plan.snapshot import CheckPod, CheckView, Heard, Outcome, PodPhase
from tests.unit.plan.checks import Cluster, checked, verdicts
from tests.unit.plan.world import T0, World, after, four_nodes, job, note, trained_world

ON = CheckView(on=True)
UNTIL = (LIMIT[Depth.QUICK] + check_gate.LATE).total_seconds()


def pod(node: str, outcome: Outcome | None, *, at: datetime = T0) -> CheckPod:
    phase = PodPhase.RUNNING if outcome is None else PodPhase.FAILED
    return CheckPod(f"check-{node}", f"uid-{node}", "id", 0, node, at, phase, outcome=outcome, finished=at)


class Gate:
    """A world whose operator runs checks; the test says what they answer."""

    def __init__(self, world: World, view: CheckView | None = ON) -> None:
        self.world = dataclasses.replace(world, checks=view)
        self.view = view

    def settled(self) -> "Gate":
        return Gate(self.world.settled(), self.view)

    def later(self, seconds: float) -> "Gate":
        return Gate(self.world.later(seconds), self.view)

    def answered(self, **outcomes: bool) -> "Gate":
        """Note results on nodes, as the operator does."""
        world = self.world
        for name, passed in outcomes.items():
            world = world.with_node(name, check=checked(passed, world.now))
        return Gate(world, self.view)

    @property
    def check(self) -> NodeCheckStatus:
        found = self.world.job.status.node_check
        assert found is not None
        return found

    def condition(self, kind: str = "NodesChecked") -> tuple[str, str]:
        found = self.world.job.status.condition(kind)
        return (found.status, found.reason) if found else ("", "")


def fresh(made: InternLM2Job | None = None) -> Gate:
    return Gate(World(made or job(spares=0), four_nodes())).settled()


def test_a_first_start_waits_for_its_nodes_and_says_so() -> None:
    gate = fresh()
    assert (gate.world.pods, gate.check.nodes) == ((), ("n1", "n2"))
    assert gate.condition("Progressing") == ("False", "CheckingNodes")
    assert gate.condition() == ("False", "CheckingNodes")
    told = gate.world.job.status.condition("Progressing")
    assert told is not None
    assert told.message.startswith("quick check before the first start since 2026-03-01T12:00:00+00:00, ")
    assert told.message.endswith("2026-03-01T12:06:00+00:00 at the latest: 2 nodes are to answer: n1, n2")


def test_a_job_that_waits_for_a_check_keeps_its_place_in_the_queue() -> None:
    assert fresh().world.job.status.queued_time == T0


def test_it_starts_when_all_have_passed() -> None:
    gate = fresh().later(20).answered(n1=True, n2=True).settled()
    assert set(gate.world.on.values()) == {"n1", "n2"}
    assert (gate.check.passed, gate.check.nodes, gate.condition()) == (2, (), ("True", "Checked"))


def test_an_answer_of_before_does_not_count() -> None:
    early = World(job(spares=0), four_nodes()).with_node("n1", check=checked(True, after(-1)))
    assert Gate(early).settled().later(5).answered(n2=True).settled().world.pods == ()


def test_a_node_that_failed_is_left_and_another_is_checked_in_its_place() -> None:
    gate = fresh().later(20).answered(n1=False, n2=True).settled()
    assert (gate.world.pods, gate.check.nodes) == ((), ("n1", "n2", "n3"))
    gate = gate.answered(n3=True).settled()
    assert set(gate.world.on.values()) == {"n2", "n3"}
    assert (gate.check.failed, gate.check.passed, gate.condition()) == (("n1",), 2, ("False", "Checked"))


def test_a_node_that_failed_is_not_used_before_its_cordon_where_no_other_is_free() -> None:
    gate = Gate(World(job(spares=0), four_nodes()[:2])).settled().later(20).answered(n1=False, n2=True).settled()
    assert gate.world.pods == ()
    cordoned = Gate(gate.world.with_node("n1", fault=note(), unschedulable=True), ON).settled()
    assert cordoned.condition("Progressing") == ("False", "Queued")


def test_a_node_that_nobody_cordons_is_used_after_all_where_no_other_is_free() -> None:
    """The breaker, or health.mode Observe: a check does not keep a job for ever."""
    gate = Gate(World(job(spares=0), four_nodes()[:2])).settled().later(20).answered(n1=False, n2=True).settled()
    assert set(gate.later(11).settled().world.on.values()) == {"n1", "n2"}


def test_who_did_not_answer_in_time_is_taken_last() -> None:
    gate = fresh().later(5).answered(n2=True).settled().later(UNTIL - 6).settled()
    assert gate.world.pods == ()
    gate = gate.later(2).settled()
    assert set(gate.world.on.values()) == {"n2", "n3"}
    assert (gate.check.silent, gate.condition()) == (("n1",), ("False", "Checked"))


def test_silence_of_all_never_blocks_a_job_for_ever() -> None:
    gate = Gate(World(job(spares=0), four_nodes()[:2])).settled().later(UNTIL + 1).settled()
    assert set(gate.world.on.values()) == {"n1", "n2"}
    assert gate.check.silent == ("n1", "n2")


LOST = {
    "its nodes are taken by somebody else": {"used": 2},
    "its nodes are gone": {"ready": False},
}


@pytest.mark.parametrize("change", LOST.values(), ids=LOST)
def test_a_job_that_lost_its_nodes_before_they_were_checked_has_the_next_ones_checked(change: dict[str, Any]) -> None:
    gate = Gate(World(job(spares=0), four_nodes()[:2])).settled()
    lost = Gate(gate.world.with_node("n1", **change), ON).settled()
    assert (lost.condition("Progressing"), lost.condition()) == (("False", "Queued"), ("False", "NotChecked"))
    assert check_gate.asked(lost.world.job) is None
    long = lost.later(UNTIL + 1)
    back = Gate(long.world.with_node("n1", used=0, ready=True), ON).settled()
    assert (back.world.pods, back.check.since) == ((), long.world.now)
    assert back.condition("Progressing") == ("False", "CheckingNodes")


def test_a_job_that_is_resumed_has_its_nodes_checked_from_the_start() -> None:
    held = fresh()
    stopped = Gate(held.world.edited(suspend=True), ON).settled()
    assert check_gate.asked(stopped.world.job) is None
    again = Gate(stopped.later(UNTIL + 1).world.edited(suspend=False), ON).settled()
    assert (again.world.pods, again.check.since) == ((), again.world.now)


def test_unknown_is_an_answer_that_proves_nothing() -> None:
    gate = fresh().later(20)
    view = CheckView(on=True, pods=(pod("n1", Outcome.UNKNOWN), pod("n2", Outcome.PASSED)))
    after_it = Gate(gate.world, view).settled()
    assert set(after_it.world.on.values()) == {"n1", "n2"}
    assert (after_it.check.passed, after_it.check.failed, after_it.check.silent) == (1, (), ())


def test_a_node_under_check_for_somebody_else_is_taken_last() -> None:
    started = job(spares=0, health=_first("None"))
    view = CheckView(on=True, pods=(pod("n1", None),))
    assert set(Gate(World(started, four_nodes()), view).settled().world.on.values()) == {"n2", "n3"}


def test_a_second_start_is_not_checked() -> None:
    world = trained_world(job(spares=0)).dead("n1").settled()
    gate = Gate(dataclasses.replace(world, now=world.now + timedelta(seconds=30))).settled()
    assert (gate.world.job.status.attempt, gate.world.job.status.node_check) == (2, None)
    assert len(gate.world.live) == 2


NO_CHECK: dict[str, tuple[InternLM2Job, CheckView | None, tuple[str, str]]] = {
    "nobody asked for it": (job(spares=0, health={"check": {"firstStart": "None"}}), ON, ("", "")),
    "the operator has no image": (job(spares=0), CheckView(on=False), ("False", "ChecksOff")),
    "it is not known here, as in `internlm2 why`": (job(spares=0), None, ("", "")),
}


@pytest.mark.parametrize(("made", "view", "want"), NO_CHECK.values(), ids=NO_CHECK)
def test_a_job_starts_at_once_where(made: InternLM2Job, view: CheckView | None, want: tuple[str, str]) -> None:
    gate = Gate(World(made, four_nodes()), view).settled()
    assert (len(gate.world.live), gate.condition()) == (2, want)


def test_full_is_waited_for_longer() -> None:
    gate = fresh(job(spares=0, health={"check": {"firstStart": "Full"}}))
    assert gate.check.depth == "full"
    assert gate.later(UNTIL + 1).settled().world.pods == ()
    assert len(gate.later((LIMIT[Depth.FULL] + check_gate.LATE).total_seconds() + 1).settled().world.live) == 2


def test_an_edit_ends_the_wait() -> None:
    edited = Gate(fresh().world.edited(health=_first("None")), ON).settled()
    assert len(edited.world.live) == 2


def test_an_operator_that_lost_its_image_ends_the_wait() -> None:
    assert len(Gate(fresh().world, CheckView(on=False)).settled().world.live) == 2


def test_what_the_operator_has_to_check_is_in_the_status() -> None:
    made = fresh(job(spares=0, topology={"label": "rack", "policy": "Pack"})).world.job
    found = check_gate.asked(made)
    assert found is not None
    assert (found.job, found.nodes, found.depth, found.since, found.label) == (
        "default/demo", ("n1", "n2"), Depth.QUICK, T0, "rack",
    )  # fmt: skip
    assert check_gate.asked(made.model_copy(update={"deleting": True})) is None
    assert check_gate.asked(fresh().answered(n1=True, n2=True).settled().world.job) is None


def test_after_a_second_hang_without_a_culprit_the_nodes_are_checked_before_the_next_attempt() -> None:
    gate = _hung(after(-600), after(-10)).settled()
    assert (gate.world.pods, gate.check.why) == ((), "Hang")
    told = gate.world.job.status.condition("Progressing")
    assert told is not None
    assert told.message.startswith("quick check after a second hang without a culprit since ")
    gate = gate.later(20).answered(n1=True, n2=True).settled()
    assert len(gate.world.live) == 2


def test_after_a_second_hang_all_nodes_of_the_job_meet_in_one_check_and_who_fails_it_is_left() -> None:
    gate = _hung(after(-600), after(-10)).settled()
    wanted = check_gate.asked(gate.world.job)
    assert wanted is not None
    nodes = {node.name: node for node in gate.world.nodes}
    ran = Cluster(nodes, asked=(wanted,), bad=frozenset({"n2"})).run(4)
    assert ran.members() == [("n1", "n2")]
    assert verdicts(ran, nodes) == {"n1": True, "n2": False, "n3": None, "n4": None}
    gate = gate.later(20).answered(n1=True, n2=False)
    gate = Gate(gate.world.with_node("n2", fault=note("NodeCheckFailed"))).settled()
    assert set(gate.check.nodes) == {"n1", "n2", "n3"}, "the one that is taken instead is checked, too"


def test_two_stalls_that_nobody_is_to_blame_for_lead_to_the_check_and_one_does_not() -> None:
    once = _stalled(Gate(trained_world(job(spares=0))))
    assert [(f.cause, f.node) for f in once.world.job.status.faults] == [("Stalled", "")]
    again = _stalled(Gate(once.world.trained(20)))
    assert len(once.world.live) == 2
    assert (again.world.live, again.check.why, again.check.nodes) == ([], "Hang", ("n1", "n2"))


def _stalled(gate: Gate) -> Gate:
    """Let every process of the job be stopped until the operator starts it anew."""
    world = gate.world
    said = {name: dataclasses.replace(each, limit_seconds=60.0) for name, each in world.progress.items()}
    heard = {pod.name: Heard(200, 199, mute=True) for pod in world.live}
    stopped = dataclasses.replace(world.later(200), progress=said, heard=heard).settled()
    return Gate(dataclasses.replace(stopped.later(30), heard=None)).settled()


def test_after_the_first_hang_they_are_not() -> None:
    assert len(_hung(after(-10)).settled().world.live) == 2


def _hung(*times: datetime) -> Gate:
    """Return a job that trained before, whose next attempt is to be placed."""
    faults = tuple(
        Fault(id=f"f{i}", cause="Hang", times=FaultTimes(signal=at, closed=at)) for i, at in enumerate(times)
    )
    made = job(spares=0)
    status = made.status.model_copy(update={"attempt": 3, "start_time": after(-9000), "faults": faults})
    return Gate(World(made.model_copy(update={"status": status}), four_nodes()))


def _first(depth: str) -> Any:
    return HealthSpec.model_validate({"check": {"firstStart": depth}})
