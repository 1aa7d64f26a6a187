"""Nodes that are judged: the breaker is shared, a passed check lifts a cordon, and what is not done is noted."""

import asyncio
import copy
import time
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest

from internlm2_operator.cluster import errors
from internlm2_operator.cluster.gateway import Object
from internlm2_operator.health import condition
from internlm2_operator.health.contact import HEARD, KUBELET_AWAY, LATE
from internlm2_operator.health.cordon import OPERATOR
from internlm2_operator.health.history import History
from internlm2_operator.health.node import WAVERS_FOR, CheckNote, FaultNote, HeldNote, down_since
from internlm2_operator.runtime.evidence import Evidence
from internlm2_operator.runtime.metrics import Metrics
from internlm2_operator.runtime.nodes import AHEAD, NodeReconciler
from internlm2_operator.runtime.world import World
from internlm2_spec import contract
from tests.api import jobs
from tests.unit.runtime.test_world import BORN, node, pod

NOW = datetime.now(UTC)


class Server:
    """Answers patches of nodes as the API server would, as far as anybody here reads the answer."""

    def __init__(self, *nodes: Object) -> None:
        self.nodes = {raw["metadata"]["name"]: raw for raw in nodes}
        self.patches: list[tuple[str, Object]] = []
        self.events: list[Object] = []
        self.renewed = ["at first"]  # what each look at a lease finds; the last for ever
        self.right = True  # to read leases
        self.answer = asyncio.Event()
        self.answer.set()

    async def node(self, name: str) -> Object:
        if name not in self.nodes:
            raise errors.NotFound(name)
        return copy.deepcopy(self.nodes[name])

    async def patch_node(self, name: str, patch: Object) -> Object:
        self.patches.append((name, patch))
        await self.answer.wait()
        raw = self.nodes[name]
        version = raw["metadata"]["resourceVersion"]
        if patch["metadata"].get("resourceVersion", version) != version:
            raise errors.Conflict(name)
        notes = raw["metadata"].setdefault("annotations", {})
        for key, value in patch["metadata"]["annotations"].items():
            notes.pop(key, None) if value is None else notes.update({key: value})
        raw["metadata"]["resourceVersion"] = str(int(version) + 1000)
        return copy.deepcopy(raw)

    async def lease(self, namespace: str, name: str) -> Object:
        assert namespace == "kube-node-lease"
        if not self.right:
            raise errors.Forbidden(name)
        found = self.renewed.pop(0) if len(self.renewed) > 1 else self.renewed[0]
        return {"spec": {"renewTime": found} if found else {}}

    async def record_event(self, body: Object) -> None:
        self.events.append(body)

    @property
    def cordons(self) -> list[str]:
        return [name for name, patch in self.patches if patch.get("spec", {}).get("unschedulable")]


def raw_node(name: str, *, ready: str = "True", version: int = 1, notes: dict[str, str] | None = None) -> Object:
    raw = node(version, ready=ready)
    raw["metadata"] |= {"name": name, "uid": f"uid-{name}", "annotations": notes or {}}
    return raw


def reconciler(
    server: Server, world: World, metrics: Metrics | None = None, silence: timedelta | None = None
) -> NodeReconciler:
    return NodeReconciler(
        gateway=server,  # type: ignore[arg-type]
        world=world,
        evidence=Evidence(),
        metrics=metrics or Metrics(),
        wake=lambda _: None,
        silence=lambda _: silence,
    )


def seeing(*nodes: Object) -> tuple[Server, World]:
    """Return a server with these nodes, and a world that knows them."""
    server, world = Server(*nodes), World()
    for raw in nodes:
        world.put_node(copy.deepcopy(raw))
    return server, world


async def judged_together(count: int) -> list[str]:
    server, world = seeing(*(raw_node(f"n{number}", ready="Unknown") for number in range(count)))
    server.answer.clear()
    for number in range(count):
        raw = pod(2, f"pod-{number}")
        raw["spec"]["nodeName"] = f"n{number}"
        world.put_pod(raw)
    judge = reconciler(server, world)
    looks = [asyncio.create_task(judge.reconcile(f"n{number}")) for number in range(count)]
    await asyncio.sleep(0)
    server.answer.set()
    await asyncio.gather(*looks)
    return server.cordons


def test_cordons_on_their_way_count_for_the_breaker() -> None:
    """Ten dead nodes of ten, two cordons allowed in five minutes: the third sees the two that are not answered yet."""
    assert len(asyncio.run(judged_together(10))) == 2


def test_a_kubelet_that_says_no_is_looked_at_when_its_grace_is_over_however_often_before() -> None:
    """Its pods move a few seconds later, and take the evidence with them."""
    raw = raw_node("n1", ready="False")
    since = datetime.now(UTC) - WAVERS_FOR + timedelta(seconds=10)
    raw["status"]["conditions"][0]["lastTransitionTime"] = since.isoformat()
    server, world = seeing(raw)
    there = pod(2)
    there["spec"]["nodeName"] = "n1"
    world.put_pod(there)
    judge = reconciler(server, world)
    for _ in range(2):
        again = asyncio.run(judge.reconcile("n1"))
        assert again is not None
        assert 0 < again <= 10
    assert server.cordons == []


def cut_off(*, back: float) -> tuple[Server, World]:
    """Return a silent node with a pod of ours, and an API server that was away and is back for so many seconds."""
    now = datetime.now(UTC)
    raw = raw_node("n1", ready="Unknown")
    raw["status"]["conditions"][0]["lastTransitionTime"] = (now - timedelta(seconds=back + 1)).isoformat()
    server, world = Server(raw), World()
    for seconds, there in ((back + 10, True), (back + 9, False), (back, True)):
        world.contact = world.contact.heard(now - timedelta(seconds=seconds), answered=there)
    world.put_node(copy.deepcopy(raw))
    there_too = pod(2)
    there_too["spec"]["nodeName"] = "n1"
    world.put_pod(there_too)
    return server, world


SOON: Final = LATE.total_seconds() - AHEAD.total_seconds() / 2
LEASES: Final = {
    "renewed meanwhile": (["at first", "later"], True),
    "not renewed": (["at first"], False),
    "without a time": ([""], False),
}


@pytest.mark.parametrize(("renewed", "lives"), LEASES.values(), ids=LEASES)
def test_a_silent_node_that_renews_its_lease_is_doubted_for_longer(renewed: list[str], lives: bool) -> None:
    """The condition alone is late: its kubelet has not seen yet that it is wrong."""
    server, world = cut_off(back=SOON)
    server.renewed = renewed
    judge = reconciler(server, world)
    for _ in range(2):
        asyncio.run(judge.reconcile("n1"))
    doubted = world.node("n1")
    assert doubted is not None
    assert doubted.excused is not None
    assert (doubted.excused > datetime.now(UTC) + AHEAD) is lives
    heartbeat = copy.deepcopy(server.nodes["n1"])
    heartbeat["metadata"]["resourceVersion"] = "9"
    world.put_node(heartbeat)
    assert world.node("n1") == doubted
    assert server.cordons == []


def fell_silent(ago: float) -> tuple[Server, World]:
    """Return a node with a pod of ours that has been silent for so many seconds."""
    raw = raw_node("n1", ready="Unknown")
    since = datetime.now(UTC) - timedelta(seconds=ago)
    raw["status"]["conditions"][0]["lastTransitionTime"] = since.isoformat()
    server, world = seeing(raw)
    there = pod(2)
    there["spec"]["nodeName"] = "n1"
    world.put_pod(there)
    return server, world


AWAY: Final = KUBELET_AWAY.total_seconds()
SILENCES: Final = {
    "a trainer answered a moment ago": (1.0, 0.5, True),
    "it goes on to": (AWAY - 5, 0.5, True),
    "for too long": (AWAY + 1, 0.5, False),
    "it answered before the node died": (1.0, 45.0, False),
    "it answers no more": (20.0, HEARD.total_seconds() + 1, False),
    "nobody ever did": (1.0, None, False),
}


@pytest.mark.parametrize(("ago", "silence", "doubted"), SILENCES.values(), ids=SILENCES)
def test_a_silent_node_whose_trainers_answer_is_not_lost(ago: float, silence: float | None, doubted: bool) -> None:
    server, world = fell_silent(ago)
    judge = reconciler(server, world, silence=None if silence is None else timedelta(seconds=silence))
    again = asyncio.run(judge.reconcile("n1"))
    assert (server.cordons == []) is doubted
    seen = world.node("n1")
    assert seen is not None
    assert (seen.fault is None) is doubted
    if doubted:  # it is looked at before the doubt is over, and jobs go by the same moment
        assert again is not None
        assert 0 < again < HEARD.total_seconds()
        assert (down_since(seen) or NOW) > datetime.now(UTC)


def test_a_kubelet_that_says_no_is_doubted_by_its_own_rule() -> None:
    raw = raw_node("n1", ready="False")
    server, world = seeing(raw)
    asyncio.run(reconciler(server, world, silence=timedelta()).reconcile("n1"))
    seen = world.node("n1")
    assert seen is not None
    assert seen.excused is None


def test_a_silent_node_is_cordoned_when_its_lease_is_not_renewed_either() -> None:
    server, world = cut_off(back=LATE.total_seconds() + 1)
    judge = reconciler(server, world)
    asyncio.run(judge.reconcile("n1"))
    assert server.cordons == ["n1"]


def test_without_the_right_to_read_leases_silence_is_believed(caplog: pytest.LogCaptureFixture) -> None:
    server, world = cut_off(back=LATE.total_seconds() + 1)
    server.right = False
    asyncio.run(reconciler(server, world).reconcile("n1"))
    assert server.cordons == ["n1"]
    assert "a silent node is believed without its lease: n1" in caplog.messages


def cordoned(*, passed: bool = True, before: bool = False) -> Object:
    """Return a node of ours, cordoned an hour ago and checked a minute ago."""
    at = NOW - timedelta(hours=1)
    note = FaultNote("Xid95", (), at, at, at, by=OPERATOR, action="cordon-reset", before=before)
    check = CheckNote(NOW - timedelta(minutes=1), "quick", passed=passed)
    notes = {
        contract.ANNOTATION_FAULT: note.to_json(),
        contract.ANNOTATION_CHECK: check.to_json(),
        contract.ANNOTATION_HISTORY: History().cordoned("Xid95", "cordon-reset", at).to_json(),
    }
    return raw_node("n1", notes=notes)


@pytest.mark.parametrize(
    ("there", "lifted"), [(cordoned(), True), (cordoned(passed=False), False), (cordoned(before=True), False)]
)
def test_a_passed_check_lifts_a_cordon_that_is_ours_alone(there: Object, lifted: bool) -> None:
    server, world = seeing(there)
    metrics = Metrics()
    asyncio.run(reconciler(server, world, metrics).reconcile("n1"))
    world.put_node(server.nodes["n1"])  # what the watch tells
    after = world.node("n1")
    assert after is not None
    assert (after.fault is None) is lifted
    assert metrics.registry.get_sample_value("internlm2_operator_uncordons_total", {"cause": "Xid95"}) == (
        1 if lifted else None
    )
    if lifted:
        assert after.reset == after.check.at if after.check else False
        assert after.history.last is not None
        assert after.history.last.lifted is not None


def test_a_node_that_somebody_changed_meanwhile_is_not_touched() -> None:
    """The cache knows a cordon of ours; on the server a person has taken the note away, and so kept the cordon."""
    server, world = seeing(cordoned())
    server.nodes["n1"]["metadata"]["annotations"].pop(contract.ANNOTATION_FAULT)
    asyncio.run(reconciler(server, world).reconcile("n1"))
    assert server.patches == []


def test_a_node_that_changes_between_read_and_write_is_decided_anew() -> None:
    server, world = seeing(cordoned())
    read = server.node

    async def read_then_changed(name: str) -> Object:
        raw = await read(name)
        server.nodes[name]["metadata"]["resourceVersion"] = "7"
        return raw

    server.node = read_then_changed  # type: ignore[method-assign]
    with pytest.raises(errors.Conflict):
        asyncio.run(reconciler(server, world).reconcile("n1"))
    assert contract.ANNOTATION_FAULT in server.nodes["n1"]["metadata"]["annotations"]


def test_a_node_that_is_gone_needs_no_uncordon() -> None:
    server, world = seeing(cordoned())
    del server.nodes["n1"]
    asyncio.run(reconciler(server, world).reconcile("n1"))
    assert server.patches == []


def says(raw: Object, *causes: str, at: datetime = NOW - timedelta(seconds=1)) -> Object:
    """Let the node agent say that this happened, a second ago unless told otherwise."""
    said = condition.condition([condition.event(cause, "0000:3b:00", at, "words") for cause in causes])
    own = {"type": condition.TYPE, "status": said.status, "reason": said.reason, "message": said.message}
    others = [c for c in raw["status"]["conditions"] if c["type"] != condition.TYPE]
    raw["status"]["conditions"] = [*others, own]
    return raw


def observing(world: World) -> None:
    body: dict[str, Any] = jobs.job({"health": {"mode": "Observe"}})
    meta = {"name": "demo", "namespace": "ns", "uid": "j", "resourceVersion": "1", "generation": 1}
    world.put_job(body | {"metadata": meta | {"creationTimestamp": BORN}})
    raw = pod(2)
    raw["spec"]["nodeName"] = "n1"
    world.put_pod(raw)


def taken_back(server: Server, world: World, judge: NodeReconciler) -> dict[str, str]:
    """Let the operator see the note, a person take it off, and the operator look again; return the node's notes."""
    asyncio.run(judge.reconcile("n1"))
    raw = server.nodes["n1"]
    del raw["metadata"]["annotations"][contract.ANNOTATION_FAULT]
    seen_again(server, world)
    asyncio.run(judge.reconcile("n1"))
    notes: dict[str, str] = server.nodes["n1"]["metadata"]["annotations"]
    return notes


def seen_again(server: Server, world: World) -> None:
    raw = server.nodes["n1"]
    raw["metadata"]["resourceVersion"] = str(int(raw["metadata"]["resourceVersion"]) + 1)
    assert world.put_node(copy.deepcopy(raw))


def test_a_person_who_takes_the_note_off_settles_what_was_said_until_then() -> None:
    """The agent goes on telling of the fault, and of a second one that came after the cordon; then of a third."""
    server, world = seeing(says(cordoned(passed=False), "Xid95", "Xid79"))
    judge = reconciler(server, world)
    notes = taken_back(server, world, judge)
    assert server.cordons == []
    assert datetime.fromisoformat(notes[contract.ANNOTATION_RESET]) >= NOW
    patches = len(server.patches)
    for one in (judge, reconciler(server, world)):
        asyncio.run(one.reconcile("n1"))
    assert len(server.patches) == patches
    says(server.nodes["n1"], "Xid79", at=datetime.now(UTC) + timedelta(seconds=1))
    seen_again(server, world)
    asyncio.run(judge.reconcile("n1"))
    assert server.cordons == ["n1"]


def test_a_note_that_goes_before_its_operator_looks_again_settles_as_much() -> None:
    server, world = seeing(says(raw_node("n1"), "Xid79"))
    judge = reconciler(server, world)
    asyncio.run(judge.reconcile("n1"))
    assert server.cordons == ["n1"]
    del server.nodes["n1"]["metadata"]["annotations"][contract.ANNOTATION_FAULT]
    time.sleep(0.02)
    says(server.nodes["n1"], "Xid79", "Xid95", at=datetime.now(UTC) - timedelta(milliseconds=10))  # after the cordon
    seen_again(server, world)
    asyncio.run(judge.reconcile("n1"))
    assert server.cordons == ["n1"]


def test_an_operator_that_did_not_see_the_note_go_settles_what_led_to_the_cordon_alone() -> None:
    """Nobody knows when it went: a fault of a second ago may be of after that."""
    raw = says(cordoned(passed=False), "Xid79")
    del raw["metadata"]["annotations"][contract.ANNOTATION_FAULT]
    server, world = seeing(raw)
    asyncio.run(reconciler(server, world).reconcile("n1"))
    assert server.cordons == ["n1"]
    cordon_before = NOW - timedelta(hours=1)
    assert server.nodes["n1"]["metadata"]["annotations"][contract.ANNOTATION_RESET] == cordon_before.isoformat()


def test_a_node_is_not_judged_while_it_cannot_be_written_down_that_a_person_took_it_back() -> None:
    server, world = seeing(says(cordoned(passed=False), "Xid79"))
    judge, tried = reconciler(server, world), []

    async def refused(name: str, patch: Object) -> Object:
        tried.append(set(patch["metadata"]["annotations"]))
        raise errors.Retry(name)

    server.patch_node = refused  # type: ignore[method-assign]
    with pytest.raises(errors.Retry):
        taken_back(server, world, judge)
    assert tried == [{contract.ANNOTATION_RESET}]


def held_of(server: Server) -> HeldNote | None:
    return HeldNote.from_json(server.nodes["n1"]["metadata"]["annotations"].get(contract.ANNOTATION_HELD, ""))


GOING = {"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}
OBSERVED = {
    "a cordon": (says(raw_node("n1"), "Xid79"), "Xid79", "cordon-reboot"),
    "a drain": (raw_node("n1") | {"spec": {"taints": [GOING]}}, "Maintenance", "drain"),
}


@pytest.mark.parametrize(("there", "cause", "action"), OBSERVED.values(), ids=OBSERVED)
def test_what_enforcing_would_have_done_is_counted_noted_and_told_once(there: Object, cause: str, action: str) -> None:
    server, world = seeing(there)
    observing(world)
    metrics = Metrics()
    judge = reconciler(server, world, metrics)
    for _ in range(2):
        assert asyncio.run(judge.reconcile("n1")) == 15.0
    labels = {"reason": "ObserveMode", "cause": cause, "action": action}
    assert metrics.registry.get_sample_value("internlm2_operator_cordons_held_total", labels) == 1
    assert [event["reason"] for event in server.events] == ["ObserveMode"]
    assert len(server.patches) == 1
    assert server.cordons == []
    note = held_of(server)
    assert note is not None
    assert (note.reason, note.cause, note.action) == ("ObserveMode", cause, action)


SUSPICIONS = {
    "a suspicion of the driver": (("Xid62",), "Xid62"),
    "a program's code": (("Xid13",), None),
    "nothing": ((), None),
}


@pytest.mark.parametrize(("causes", "noted"), SUSPICIONS.values(), ids=SUSPICIONS)
def test_only_a_suspicion_of_somebody_who_can_be_trusted_is_noted(causes: tuple[str, ...], noted: str | None) -> None:
    server, world = seeing(says(raw_node("n1"), *causes))
    judge = reconciler(server, world)
    again = [asyncio.run(judge.reconcile("n1")) for _ in range(2)]
    assert [seconds is not None for seconds in again] == [noted is not None] * 2
    note = held_of(server)
    assert (note.cause if note else None) == noted
    assert len(server.patches) == (noted is not None)


CLEARED = {
    "by a check": (HeldNote("Suspected", "Xid62", NOW - timedelta(hours=2)), True, True),
    "by time": (HeldNote("Suspected", "Xid62", NOW - timedelta(hours=25)), None, True),
    "not by a check that failed": (HeldNote("Suspected", "Xid62", NOW - timedelta(hours=2)), False, False),
    "not yet": (HeldNote("Suspected", "Xid62", NOW - timedelta(hours=2)), None, False),
}


@pytest.mark.parametrize(("held", "well", "cleared"), CLEARED.values(), ids=CLEARED)
def test_a_suspicion_is_cleared_up(held: HeldNote, well: bool | None, cleared: bool) -> None:
    notes = {contract.ANNOTATION_HELD: held.to_json()}
    if well is not None:
        notes[contract.ANNOTATION_CHECK] = CheckNote(NOW - timedelta(hours=1), "quick", passed=well).to_json()
    server, world = seeing(raw_node("n1", notes=notes))
    again = asyncio.run(reconciler(server, world).reconcile("n1"))
    assert (held_of(server) is None) is cleared
    assert (again is None) is cleared
    assert len(server.patches) == cleared


def test_what_pods_say_of_their_node_is_not_noted() -> None:
    server, world = seeing(raw_node("n1"))
    raw = pod(2, phase="Failed")
    raw["status"]["containerStatuses"] = [
        {"name": "trainer", "state": {"terminated": {"exitCode": 139, "reason": "Error"}}}
    ]
    world.put_pod(raw)
    asyncio.run(reconciler(server, world).reconcile("n1"))
    assert server.patches == []


def test_only_the_worst_ten_nodes_are_series_of_the_metric() -> None:
    histories = (History().cordoned("Xid79", "", NOW - timedelta(days=i)) for i in range(20))
    notes = ({contract.ANNOTATION_HISTORY: history.to_json()} for history in histories)
    server, world = seeing(*(raw_node(f"n{i:02d}", notes=note) for i, note in enumerate(notes)))
    metrics = Metrics()
    judge = reconciler(server, world, metrics)
    asyncio.run(judge.rank())
    (family,) = (f for f in metrics.registry.collect() if f.name == "internlm2_operator_node_lemon_score")
    assert [sample.labels["training_node"] for sample in family.samples] == [f"n{i:02d}" for i in range(10)]
    world.drop_node("n00", "uid-n00")
    asyncio.run(judge.rank())
    assert metrics.registry.get_sample_value("internlm2_operator_node_lemon_score", {"training_node": "n00"}) is None


def test_the_breaker_is_open_while_it_holds_a_cordon_back() -> None:
    """Three dead nodes of three and two cordons allowed: the third is held, until it is back."""
    server, world = seeing(*(raw_node(f"n{number}", ready="Unknown") for number in range(3)))
    metrics = Metrics()
    judge = reconciler(server, world, metrics)

    def held() -> float | None:
        return metrics.registry.get_sample_value("internlm2_operator_nodes_held", {"reason": "BreakerOpen"})

    seen = [held()]
    for number in range(3):
        raw = pod(2, f"pod-{number}")
        raw["spec"]["nodeName"] = f"n{number}"
        world.put_pod(raw)
        asyncio.run(judge.reconcile(f"n{number}"))
        seen.append(held())
    assert seen == [0, 0, 0, 1]
    assert len(server.cordons) == 2
    world.put_node(raw_node("n2", version=9000))
    asyncio.run(judge.reconcile("n2"))
    assert held() == 0
