"""Every row of the table of causes: what is seen goes in, cause, class and reaction come out."""

import dataclasses
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from internlm2_operator.plan.cause import By, Cause, Kind, Mark, Reaction
from internlm2_operator.plan.causes import TABLE, cause
from internlm2_operator.plan.exits import signal_of
from internlm2_operator.plan.recognise import end_of, hindrance_of, refusal_of
from internlm2_operator.plan.snapshot import CheckpointView, PodPhase, PodRecord, Refusal
from internlm2_spec.contract import ExitCode, FailureClass, Termination
from tests.unit.plan.world import T0, World, bug, four_nodes, job, peer, trained_world


def training() -> World:
    return trained_world()


def fresh() -> World:
    return World(job(), four_nodes())


def starting() -> World:
    """The pods of the first attempt run, but for that of slot 1."""
    world = World(job(spares=0), four_nodes()).settled()
    return world.with_pods(phase=PodPhase.RUNNING).with_pods(1, phase=PodPhase.PENDING)


def said(failure: FailureClass, reason: str, code: int = 1) -> Termination:
    return Termination(failure, reason, code, message="words", step=7)


def ends(code: int | None, **changes: Any) -> Callable[[World], World]:
    return lambda w: w.ended(1, code, **({"reason": "Error"} | changes))


def all_stop(termination: Termination | None = None) -> Callable[[World], World]:
    def event(world: World) -> World:
        for slot in (0, 1, 2):
            world = world.ended(slot, 75, reason="Error", termination=termination)
        return world

    return event


def taken(disruption: str = "") -> Callable[[World], World]:
    """Somebody deletes the pod of slot 1; it takes the others along into a checkpoint."""

    def event(world: World) -> World:
        gone_by = world.now + timedelta(seconds=300)
        world = world.with_pods(1, deleting=True, grace=300, gone_by=gone_by, disruption=disruption)
        return all_stop()(world.settled())

    return event


def waits(reason: str, **changes: Any) -> Callable[[World], World]:
    return lambda w: w.with_pods(1, waiting=reason, message="words", **changes)


def unscheduled(reason: str) -> Callable[[World], World]:
    return lambda w: w.with_pods(1, reason=reason, message="0/4 nodes are available")


def store(problem: str) -> Callable[[World], World]:
    return lambda w: dataclasses.replace(w, checkpoint=CheckpointView(problem=problem, message="words"))


def refused(message: str) -> Callable[[World], World]:
    """The API server lets no pod of the placed attempt in."""
    return lambda w: dataclasses.replace(w.applied(w.plan()), refused=Refusal(1, w.now, message))


def gone(world: World) -> World:
    return dataclasses.replace(world, pods=tuple(p for p in world.pods if p.slot != 1))


def stuck(world: World) -> World:
    return world.with_pods(1, deleting=True, grace=30, gone_by=world.now - timedelta(seconds=31))


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """`told` is what the plan says where it records no fault and does not name the cause."""

    happens: Callable[[World], World]
    start: Callable[[], World] = training
    told: str = ""


INFRA = FailureClass.INFRASTRUCTURE
CASES = {
    "NodeNotReady": Case(lambda w: w.dead("n2")),
    "NodeGone": Case(lambda w: dataclasses.replace(w, nodes=tuple(n for n in w.nodes if n.name != "n2"))),
    "NodeFault": Case(lambda w: w.faulty("n2", "Xid79")),
    "NodeCheckFailed": Case(ends(76)),
    "DeviceError": Case(ends(128, reason="StartError", message="nvidia-container-cli: initialization error")),
    "Preempted": Case(taken("PreemptionByScheduler")),
    "Drained": Case(taken("EvictionByEvictionAPI")),
    "Maintenance": Case(lambda w: w.with_node("n2", notice="taint ToBeDeletedByClusterAutoscaler")),
    "TaintEvicted": Case(taken("DeletionByTaintManager")),
    "PodDeleted": Case(taken()),
    "PodLost": Case(gone),
    "StuckTerminating": Case(stuck),
    "StorageLimitExceeded": Case(
        ends(137, reason="Evicted", message='Usage of EmptyDir volume "tmp" exceeds the limit "1Gi".')
    ),
    "Evicted": Case(
        ends(
            137,
            reason="Evicted",
            disruption="TerminationByKubelet",
            message="The node was low on resource: memory. Container trainer was using 9Gi, which exceeds its request",
        )
    ),
    "NodeShutdown": Case(ends(137, reason="Terminated", disruption="TerminationByKubelet")),
    "TerminatedByKubelet": Case(ends(137, disruption="TerminationByKubelet")),
    "NodeFull": Case(ends(None, reason="OutOfnvidia.com/gpu")),
    "AdmissionRefused": Case(ends(None, reason="UnexpectedAdmissionError")),
    "OOMKilled": Case(ends(137, reason="OOMKilled")),
    "StartError": Case(ends(128, reason="StartError", message='exec: "python": executable file not found in $PATH')),
    "OutOfMemory": Case(ends(64, termination=said(FailureClass.USER, "OutOfMemory", 64))),
    "Diverged": Case(ends(70, termination=said(FailureClass.USER, "Diverged", 70))),
    "ConfigRefused": Case(ends(64, termination=said(FailureClass.USER, "ConfigurationRefused", 64))),
    "ProgramError": Case(ends(70, termination=bug())),
    "SecretMissing": Case(lambda w: dataclasses.replace(w, missing=("secret/s3",)), fresh),
    "BucketMissing": Case(store("BucketMissing"), fresh),
    "CredentialsRefused": Case(store("CredentialsRefused"), fresh),
    "DataMissing": Case(store("DataMissing"), fresh),
    "StoreUnavailable": Case(ends(1, termination=said(INFRA, "StoreUnavailable"))),
    "DataRefused": Case(ends(65, termination=said(FailureClass.USER, "DataRefused", 65))),
    "ImageInvalid": Case(waits("InvalidImageName"), starting),
    "ImagePullFailed": Case(waits("ImagePullBackOff"), starting),
    "ObjectMissing": Case(waits("CreateContainerConfigError"), starting),
    "ContainerFailed": Case(waits("CreateContainerError"), starting),
    "SandboxNotReady": Case(waits("ContainerCreating", prepared=False), starting, told="Running"),
    "StartSlow": Case(waits("ContainerCreating"), starting, told="Running"),
    "SchedulingGated": Case(unscheduled("SchedulingGated"), starting),
    "Unschedulable": Case(unscheduled("Unschedulable"), starting),
    "NotStarted": Case(unscheduled(""), starting, told="Running"),
    "QuotaExceeded": Case(refused('403 Forbidden: pods "p" is forbidden: exceeded quota: gpus'), fresh),
    "PodRefused": Case(refused('403 Forbidden: pods "p" is forbidden: violates PodSecurity'), fresh),
    "Done": Case(lambda w: w.ended(0, 0).ended(1, 0), told="WaitingForManifest"),
    "CompletionUnproved": Case(lambda w: w.ended(0, 0).ended(1, 0).settled().later(61)),
    "Fenced": Case(all_stop(said(FailureClass.STOPPED, "Fenced", 75))),
    "Stopped": Case(all_stop()),
    "PeerLost": Case(
        lambda w: w.ended(1, 1, termination=peer()).ended(2, 1, termination=peer()), told="WaitingForCause"
    ),
    "Hang": Case(ends(77, termination=said(INFRA, "Hang", 77))),
    "Stalled": Case(lambda w: w.later(200)),
    "ShutdownTimeout": Case(ends(1, termination=said(INFRA, "ShutdownTimeout"))),
    "ProcessRestart": Case(lambda w: w.later(30).restarted(13, resumed=10)),
    "ProcessKilled": Case(ends(137)),
    "ProcessTerminated": Case(ends(143)),
    "ProcessAborted": Case(ends(134)),
    "ProcessCrashed": Case(ends(139)),
    "ProcessExit": Case(ends(3)),
}
rows = pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)


def test_every_row_has_a_case_and_every_case_a_row() -> None:
    assert list(CASES) != []
    assert sorted(CASES) == sorted(row.name for row in TABLE)


@rows
def test_cause_class_and_reaction(row: Cause) -> None:
    case = CASES[row.name]
    before = case.start().settled() if case.start is training else case.start()
    after = case.happens(before).settled()
    assert _told(after) == (case.told or row.name)
    assert _reaction(before, after) is row.reaction
    counted = after.job.status.restarts.counted - before.job.status.restarts.counted
    infrastructure = after.job.status.restarts.infrastructure - before.job.status.restarts.infrastructure
    answered = row.reaction in (Reaction.REPLACE, Reaction.RESTART)
    assert counted == (row.kind is Kind.USER)
    assert infrastructure == (row.kind is Kind.INFRASTRUCTURE and answered)


@rows
def test_suspicion_against_the_node(row: Cause) -> None:
    case = CASES[row.name]
    after = case.happens(case.start())
    pod = next((p for p in after.pods if p.slot == 1), None)
    assert (pod is not None and signal_of(pod) is not None) is row.suspects


@rows
def test_only_the_user_is_counted_and_only_waiting_has_patience(row: Cause) -> None:
    assert (row.repeats > 0) is (row.kind is Kind.USER)
    assert (row.patience is not None) is (row.reaction is Reaction.HOLD)
    assert (row.backoff is not None) is (row.reaction in (Reaction.HOLD, Reaction.RETRY))


@pytest.mark.parametrize("row", [row for row in TABLE if row.patience], ids=lambda row: row.name)
def test_pod_that_does_not_start_is_replaced_after_its_patience_and_not_before(row: Cause) -> None:
    world = CASES[row.name].happens(CASES[row.name].start()).settled()
    patience = timedelta(seconds=row.patience or 0)
    assert not _in(world, patience).settled().job.status.faults
    replaced = _in(world, patience + timedelta(seconds=1)).settled()
    assert [(f.cause, f.verdict) for f in replaced.job.status.faults] == [(row.name, "waiting")]
    assert replaced.on[1] == "n3"
    assert replaced.job.status.restarts.infrastructure == 0


POD = PodRecord("p", "default", "demo", "u", 0, 1, 0, 0, "n1", PodPhase.FAILED, T0, finished=T0)
LIVES = dataclasses.replace(POD, phase=PodPhase.PENDING, finished=None)


def _shown(mark: Mark) -> Cause | None:
    """Return the row that a pod with this one sign is found in."""
    value = mark.value.replace("*", "Something")
    match mark.by:
        case By.KUBELET:
            return end_of(dataclasses.replace(POD, reason=value, message=mark.says))
        case By.DISRUPTION:
            return end_of(dataclasses.replace(POD, disruption=value))
        case By.DELETED:
            return end_of(dataclasses.replace(POD, deleting=True))
        case By.TRAINER:
            return end_of(dataclasses.replace(POD, exit_code=1, termination=said(INFRA, value)))
        case By.EXIT:
            return end_of(dataclasses.replace(POD, exit_code=int(value)))
        case By.CLASS:
            return end_of(dataclasses.replace(POD, exit_code=1, termination=said(FailureClass(value), "Other")))
        case By.SANDBOX:
            return hindrance_of(dataclasses.replace(LIVES, waiting="ContainerCreating", prepared=False))
        case By.WAITING:
            return hindrance_of(dataclasses.replace(LIVES, waiting=value))
        case By.SCHEDULER:
            return hindrance_of(dataclasses.replace(LIVES, reason=value))
        case By.API:
            return refusal_of(f"403 Forbidden: {mark.says}")


@pytest.mark.parametrize(
    ("row", "mark"),
    [(row, mark) for row in TABLE for mark in row.marks],
    ids=lambda one: one.name if isinstance(one, Cause) else f"{one.by.name}={one.value}{one.says}",
)
def test_no_sign_is_hidden_by_another_row(row: Cause, mark: Mark) -> None:
    assert _shown(mark) is row


BELIEVED = {
    "an eviction explains an exit code": ({"exit_code": 137, "disruption": "EvictionByEvictionAPI"}, "Drained"),
    "a full memory explains what the agent saw of its rank": (
        {"exit_code": 1, "reason": "OOMKilled", "termination": said(INFRA, "RankKilled")},
        "OOMKilled",
    ),
    "the kubelet's reason tells more than its disruption": (
        {"reason": "Evicted", "disruption": "TerminationByKubelet"},
        "Evicted",
    ),
    "a deletion explains a kill": ({"exit_code": 137, "deleting": True}, "PodDeleted"),
    "the trainer's word tells more than its code": (
        {"exit_code": 64, "termination": said(FailureClass.USER, "OutOfMemory", 64)},
        "OutOfMemory",
    ),
    "a follower's code is the other's": (
        {"exit_code": 70, "termination": said(FailureClass.PEER, "RendezvousClosed", 70)},
        "PeerLost",
    ),
    "a hang that waits for others is theirs": (
        {"exit_code": 77, "termination": said(FailureClass.PEER, "Hang", 77)},
        "PeerLost",
    ),
    "an ordinary word of the kubelet says nothing": ({"exit_code": 65, "reason": "Error"}, "DataRefused"),
    "no sign at all": ({"reason": "ContainerStatusUnknown"}, "ProcessExit"),
}


@pytest.mark.parametrize(("signs", "name"), BELIEVED.values(), ids=BELIEVED)
def test_which_sign_is_believed(signs: dict[str, Any], name: str) -> None:
    assert end_of(dataclasses.replace(POD, **signs)).name == name


@pytest.mark.parametrize("code", sorted(set(ExitCode) - {ExitCode.DONE}))
def test_every_exit_code_of_the_contract_has_a_row(code: ExitCode) -> None:
    assert end_of(dataclasses.replace(POD, exit_code=int(code))).name != "ProcessExit"


def _told(world: World) -> str:
    """Return the cause that is recorded, or else the reason that the plan gives."""
    faults = world.job.status.faults
    return cause(faults[-1].cause).name if faults else _decided(world)


def _decided(world: World) -> str:
    """Return the reason of the decision that spoke."""
    return world.plan().trail[-1].split(": ")[1]


def _reaction(before: World, after: World) -> Reaction:
    """Tell from what the plans did to the world what the operator's reaction was."""
    was, status = before.job.status, after.job.status
    if max(1, status.attempt) > max(1, was.attempt):
        # An attempt that may be placed is, once its predecessors are gone.
        return Reaction.RESTART if after.later(2).settled().job.status.size else Reaction.RETRY
    if status.replacements:
        return Reaction.REPLACE
    if not status.size:
        return Reaction.GATE
    if status.faults:
        return Reaction.RECORD
    if _decided(after) == "WaitingForCause":
        return Reaction.FOLLOW
    return (
        Reaction.HOLD if before.progress == {} and _in(after, timedelta(days=1)).plan().status.faults else Reaction.KEEP
    )


def _in(world: World, time: timedelta) -> World:
    """Let nothing but time pass."""
    return dataclasses.replace(world, now=world.now + time)
