"""status.faults: one record per fault, opened by a loss, closed by the first step after it.

Everything here is derived again from what is there now, so an operator that restarts in the middle
carries on with the same record.
"""

import hashlib
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

from internlm2_operator.api.status import MAX_FAULTS, Fault, FaultTimes, arrow_seconds
from internlm2_operator.health.node import NODE_CHECK_FAILED, FaultNote
from internlm2_operator.plan.cause import Kind
from internlm2_operator.plan.causes import cause
from internlm2_operator.plan.hang import completed
from internlm2_operator.plan.loss import AWAITED, Loss
from internlm2_operator.plan.view import STEPPING, View
from internlm2_spec.contract import FIRST_INCARNATION, Progress

PROCESS_RESTART: Final = "ProcessRestart"
IN_PLACE: Final = "torchrun restarted the processes in place"
DEAD: Final = ("NodeNotReady", "NodeGone")
# A node needs up to 50 s to be called dead, and torchrun re-forms before that: a restart whose cause
# was not known is explained by a node fault or a pod's end that shows up within this time.
EXPLAINED_WITHIN: Final = timedelta(seconds=120)
# Kubernetes calls a node dead at most 50 s after its last word, and a restart that it caused is not over before that.
CALLED_DEAD_WITHIN: Final = timedelta(seconds=60)
# Whatever else a node, a GPU or a pod suffers is told at once, or with the next scrape of its metrics.
TOLD_WITHIN: Final = timedelta(seconds=5)
# A removed member ends within its grace of one second; a step that is done later is done without it.
MOVED_ON: Final = timedelta(seconds=20)
# A time that went through the status has whole microseconds, the trainer's clock has not.
CLOCK_GRAIN: Final = 1e-3


def open_faults(faults: Iterable[Fault]) -> tuple[Fault, ...]:
    return tuple(f for f in faults if f.times.closed is None)


def final(fault: Fault, now: datetime) -> bool:
    """Say whether a record stays as it is: it is closed, and nothing that is still to come can be the reason of it."""
    may_be_explained = not fault.cordoned and (fault.action == IN_PLACE or cause(fault.cause).symptom)
    seen = fault.times.signal
    in_time = may_be_explained and seen is not None and now - seen <= EXPLAINED_WITHIN
    return fault.times.closed is not None and not in_time


def fault_id(where: str, signal_at: datetime) -> str:
    """Return the id of a fault: the same for the same place and moment, whoever computes it."""
    return hashlib.sha256(f"{where} {signal_at.isoformat()}".encode()).hexdigest()[:12]


def record(
    faults: tuple[Fault, ...], view: View, lost: Iterable[Loss], action: str, now: datetime
) -> tuple[Fault, ...]:
    """Open a record for each loss; one that explains a restart seen before takes over its record.

    What is asked for or waited for once more stays one record: it would push the others out.
    """
    for loss in lost:
        new = _opened(view, loss, action, now)
        if (same := next((f for f in reversed(open_faults(faults)) if _again(new, f)), None)) is not None:
            faults = tuple(_repeated(f, new) if f is same else f for f in faults)
            continue
        old = next((f for f in reversed(faults) if _explains(new, f)), None)
        kept = tuple(f for f in faults if f is not old)
        faults = (*kept, _taken_over(old, new) if old else new)
    return faults[-MAX_FAULTS:]


def _again(new: Fault, old: Fault) -> bool:
    """Say whether `new` is one more round of a wait, or the end of what somebody asked for."""
    kind = cause(new.cause).kind
    return (kind is Kind.WAITING and new.cause == old.cause) or (kind is Kind.REQUEST and old.action == AWAITED)


def _repeated(old: Fault, new: Fault) -> Fault:
    if cause(new.cause).kind is Kind.REQUEST:
        return old.model_copy(update={"action": new.action})
    times = old.times.model_copy(update={"verdict": new.times.verdict})
    said = {"evidence": new.evidence, "action": new.action, "node": new.node, "times": times}
    return old.model_copy(update=said | {"count": old.count + 1})


def refresh(view: View, now: datetime) -> tuple[Fault, ...]:
    """Bring every record up to date: late cordons, replacement, resume, first step, restarts in place."""
    known = tuple(_with_cordon(f, view) for f in view.status.faults)
    known = (*known, *_restart_in_place(view, known, now))
    known = tuple(completed(f, view) if f.action == IN_PLACE and f.times.closed is None else f for f in known)
    return tuple(_advanced(f, view, now) for f in known)[-MAX_FAULTS:]


def _opened(view: View, loss: Loss, action: str, now: datetime) -> Fault:
    times = FaultTimes(
        last_step=_last_step(view, loss),
        signal=min(loss.signal_at, _reformed_without(view, loss) or loss.signal_at),
        verdict=loss.verdict_at or now,
        cordon=loss.cordoned_at,
    )
    where = loss.node or f"{view.job.uid}/{view.status.attempt}/{loss.slot}"
    fault = Fault(
        id=fault_id(where, loss.signal_at),
        cause=loss.cause,
        node=loss.node,
        gpu=loss.gpu,
        evidence=tuple(e[:1024] for e in loss.evidence[:16]),
        verdict=loss.verdict,
        action=action,
        cordoned=loss.cordoned_at is not None,
        times=times,
    )
    return fault if trained(view, loss) else _closed_at_once(fault, now)


def trained(view: View, loss: Loss) -> bool:
    """Say whether the lost pod was one of those that train; a spare that is lost stops nobody."""
    if loss.whole:
        return True
    others = sum(name != (loss.pod.name if loss.pod else "") for name in view.progress)
    return (loss.pod is not None and loss.pod.name in view.progress) or others < view.status.size


def _closed_at_once(fault: Fault, now: datetime) -> Fault:
    times = fault.times.model_copy(update={"closed": now})
    return fault.model_copy(update={"times": times, "steps_lost": 0, "seconds": arrow_seconds(times)})


def _reformed_without(view: View, loss: Loss) -> datetime | None:
    """Return when the others started again without a lost member, if they have already.

    torchrun puts a spare in a dead member's place before Kubernetes calls the node dead, so the
    proof of the loss may be older than its signal. A member that was well for longer than that had only become a spare.
    """
    if (last := _last_step(view, loss)) is None:
        return None
    later = [p.started_time for p in view.progress.values() if p.started_time > last.timestamp() + CLOCK_GRAIN]
    formed = view.told(min(later)) if later else None
    return formed if formed and loss.signal_at - formed <= _told_within(loss.cause) else None


def _last_step(view: View, loss: Loss) -> datetime | None:
    """Return when the lost pod was last seen to finish a step, or to start."""
    own = view.progress.get(loss.pod.name) if loss.pod else None
    return None if own is None else view.told(max(own.step_time, own.started_time))


def _explains(new: Fault, old: Fault) -> bool:
    """Say whether `new` is the reason of what `old` only saw: a restart somewhere, or a symptom on the same node."""
    if old.cordoned or not _near(new, old) or _over(old, new.cause, new.times.signal, new.times.last_step):
        return False
    if old.action == IN_PLACE:
        return True
    return cause(old.cause).symptom and old.node == new.node != "" and new.verdict == "node"


def _over(old: Fault, name: str, seen: datetime | None, last: datetime | None) -> bool:
    """Say whether the job had got over `old` before a fault `name` came: then that was not the reason of it.

    Who suffered it had trained on, its `last` step tells, or it would have been told by then. The clock alone is left
    for an operator that started after the loss, and for a member that torchrun had made a spare.
    """
    closed = old.times.closed
    if closed is None:
        return False
    return (last is not None and last > closed) or (seen is not None and seen - closed > _told_within(name))


def _told_within(name: str) -> timedelta:
    """Return how long a fault may stay unheard of when the job has already got over it."""
    if name in DEAD:
        return CALLED_DEAD_WITHIN
    # A suspect is checked when the job has gone on without it.
    return EXPLAINED_WITHIN if name == NODE_CHECK_FAILED else TOLD_WITHIN


def _near(new: Fault, old: Fault) -> bool:
    seen, before = new.times.signal, old.times.signal
    return seen is not None and before is not None and abs(seen - before) <= EXPLAINED_WITHIN


def _taken_over(old: Fault, new: Fault) -> Fault:
    """Keep the id and the earliest sight of the old record, and what it had reached by itself."""
    reached = {k: getattr(old.times, k) for k in ("replacement", "resume", "closed")}
    if new.times.closed is None and reached["closed"] is None:
        reached = {}
    first = min(t for t in (old.times.signal, new.times.signal) if t is not None)
    times = new.times.model_copy(update={"signal": first} | {k: v for k, v in reached.items() if v is not None})
    return new.model_copy(
        update={"id": old.id, "times": times, "steps_lost": old.steps_lost, "seconds": arrow_seconds(times)}
    )


def _with_cordon(fault: Fault, view: View) -> Fault:
    """Add the cordon that came after the record: the node's note says more than the symptom did."""
    node = view.nodes.get(fault.node)
    if fault.cordoned or node is None or node.fault is None or not cause(fault.cause).symptom:
        return fault
    note, seen = node.fault, fault.times.signal
    if seen is None or abs(note.signal_at - seen) > EXPLAINED_WITHIN or _came_later(note, fault, view):
        return fault
    times = fault.times.model_copy(update={"verdict": note.verdict_at, "cordon": note.cordoned_at})
    said = {"cause": note.cause, "gpu": note.gpu, "verdict": "node", "cordoned": True, "times": times}
    return fault.model_copy(update=said | {"evidence": tuple(e[:1024] for e in note.evidence[:16])})


def _came_later(note: FaultNote, old: Fault, view: View) -> bool:
    """Say whether a cordon is that of a later fault: it has a record of its own, or the job had got over `old`."""
    if any(f.node == old.node and f.times.cordon == note.cordoned_at for f in view.status.faults):
        return True
    mine = (view.progress.get(pod.name) for pod in view.members.values() if pod.node == old.node)
    last = max((view.told(p.step_time) for p in mine if p is not None), default=None)
    return _over(old, note.cause, note.signal_at, last)


def _restart_in_place(view: View, known: tuple[Fault, ...], now: datetime) -> tuple[Fault, ...]:
    """Open a record for a restart by torchrun that no other record explains."""
    restarted = [(name, p) for name, p in view.progress.items() if p.incarnation > FIRST_INCARNATION]
    if not restarted or open_faults(known):
        return ()
    latest = max(p.started_time for _, p in restarted)
    reached = max(map(_reached, known), default=0.0)
    if reached >= latest:
        return ()
    started = view.told(min(p.started_time for _, p in restarted if p.started_time > reached))
    evidence = tuple(
        f"pod {name} restarted its processes, {p.incarnation - FIRST_INCARNATION} times so far" for name, p in restarted
    )[:16]
    fault = Fault(
        id=fault_id(f"{view.job.uid}/{view.status.attempt}", started),
        cause=PROCESS_RESTART,
        evidence=evidence,
        verdict="unknown",
        action=IN_PLACE,
        times=FaultTimes(signal=started, verdict=now),
    )
    return (fault,)


def _reached(fault: Fault) -> float:
    return max((t.timestamp() for t in (fault.times.closed, fault.times.resume) if t is not None), default=0.0)


def _advanced(fault: Fault, view: View, now: datetime) -> Fault:
    """Fill the times that can be known now."""
    if fault.times.closed is not None:
        return fault.model_copy(update={"seconds": arrow_seconds(fault.times)})
    after = _incarnation_after(fault, view)
    signal, started = fault.times.signal, view.told(after.started_time) if after else None
    times = fault.times.model_copy(
        update={
            "signal": min(signal, started) if signal and started else signal,
            "replacement": fault.times.replacement or _replaced(view, now),
            "resume": fault.times.resume or _resumed(after, view),
            "closed": _first_step(after, view) or _moved_on(fault, view),
        }
    )
    lost = fault.steps_lost
    if after is not None and after.phase in STEPPING and lost is None:
        lost = max(0, _highest_step(view, after) - after.started_step)
    return fault.model_copy(update={"times": times, "steps_lost": lost, "seconds": arrow_seconds(times)})


def _first_step(after: Progress | None, view: View) -> datetime | None:
    return None if after is None or after.first_step_time is None else view.told(after.first_step_time)


def _moved_on(fault: Fault, view: View) -> datetime | None:
    """Return a step that was done well after the verdict by processes older than the fault: it stopped nobody."""
    if fault.times.verdict is None or view.running < view.status.size:
        return None
    if any(p.deleting for p in view.members.values()):  # it will stop them yet
        return None
    trained = [p for p in view.progress.values() if p.phase in STEPPING and p.first_step_time is not None]
    # A clock that is ahead tells nothing of when; those of the other pods of the same step do.
    steps = [p.step_time for p in trained if p.step_time <= view.at.timestamp() + CLOCK_GRAIN]
    if not steps:
        return None
    last = view.told(max(steps))
    return last if last - fault.times.verdict > MOVED_ON else None


def _incarnation_after(fault: Fault, view: View) -> Progress | None:
    """Return the process that follows the fault and is furthest on; a live pod stays in until it is removed."""
    removed = fault.cordoned and fault.cause not in DEAD
    # torchrun may have formed anew before the signal, and its progress be read only after it.
    seen = [time for time in (fault.times.last_step, fault.times.signal) if time is not None]
    since = fault.times.verdict if removed else min(seen, default=None)
    if since is None:
        return None
    earliest = since.timestamp() - CLOCK_GRAIN
    later = [p for p in view.progress.values() if p.started_time >= earliest] or _formed_before(fault, view)
    return max(later, key=lambda p: (p.first_step_time is not None, p.phase in STEPPING, -p.rank), default=None)


def _formed_before(fault: Fault, view: View) -> list[Progress]:
    """Return the processes that started without a dead node's member before Kubernetes called that node dead.

    They go by the clock for an operator that started after the loss, and never heard of the member's last step.
    """
    if fault.times.signal is None or fault.times.last_step is not None or fault.cause not in DEAD:
        return []
    earliest = (fault.times.signal - CALLED_DEAD_WITHIN).timestamp()
    others = (view.progress.get(pod.name) for pod in view.members.values() if pod.node != fault.node)
    later = [p for p in others if p is not None and p.started_time >= earliest]
    return later if len(later) >= view.status.size > 0 else []


def _replaced(view: View, now: datetime) -> datetime | None:
    return now if view.status.size and view.running >= view.status.size else None


def _resumed(after: Progress | None, view: View) -> datetime | None:
    if after is None or after.phase not in STEPPING:
        return None
    return view.told(after.first_step_time) if after.first_step_time is not None else view.at


def _highest_step(view: View, after: Progress) -> int:
    """Return the highest step that was done before `after` started."""
    before = [p.step for p in view.snapshot.progress.values() if p.started_time < after.started_time]
    return max([view.snapshot.highest_step or 0, view.status.step or 0, *before])
