"""When a job goes on at another size: fewer nodes after a grace, more after a snooze, others because a person says so.

What must be remembered for that lies in `status.elastic`. docs/operations.md explains it to users.
"""

from datetime import datetime, timedelta
from typing import Any, Final

from internlm2_operator.api.status import ElasticStatus, JobStatus, Stopping
from internlm2_operator.plan import capacity, room
from internlm2_operator.plan.attempt import next_attempt
from internlm2_operator.plan.decision import Decision, again
from internlm2_operator.plan.faults import open_faults
from internlm2_operator.plan.view import View, alive

# Free nodes are counted on once they have stayed free for so long. This and CALM are never above growAfterSeconds.
STEADY: Final = timedelta(seconds=60)
# A job that was disturbed trains for so long before it is disturbed again.
CALM: Final = timedelta(seconds=120)
# A stop that goes wrong loses what was done since the last checkpoint: a job grows so soon after one, or not.
FRESH: Final = timedelta(seconds=120)
# A kubelet that is busy starts the grace of a pod a little later than it was asked to.
LATE: Final = timedelta(seconds=10)


def remember(view: View, now: datetime) -> ElasticStatus:
    """Bring what was remembered up to date with what is seen."""
    known, size, nodes = view.status.elastic, view.status.size, view.job.spec.nodes
    if view.status.completion_time is not None:
        return known
    if size and not known.size:
        # Placed by an operator that knew nothing of this.
        known = ElasticStatus(size=size, limit=nodes.max, placed_time=now)
    best = best_size(view) if 0 < size < nodes.max else 0
    short = None if _trains(view) else known.short_since
    return known.model_copy(update={"room": room.tracked(known.room, size, best, now), "short_since": short})


def placed(status: JobStatus, limit: int, size: int, now: datetime) -> ElasticStatus:
    """Return what is to be remembered of an attempt that gets `size` nodes now, `limit` being nodes.max.

    The grace of one that was replaced and has not trained yet goes on: nodes that come and go would
    begin it again each time, and the job would stand still for ever.
    """
    known = status.elastic
    since = known.short_since if size >= known.size else None
    return ElasticStatus(size=size, limit=limit, placed_time=now, short_since=since)


def lacking(status: JobStatus, now: datetime) -> JobStatus:
    """Return the status that knows since when nodes for the former size are missing; a new job has no former size."""
    if not status.elastic.size or status.elastic.short_since is not None:
        return status
    return status.model_copy(update={"elastic": status.elastic.model_copy(update={"short_since": now})})


def wait_for_stop(view: View, now: datetime) -> Decision | None:
    """Let the pods of an attempt that stops for another size end: a new attempt would fence their checkpoint off."""
    stopping = view.status.elastic.stopping
    writing = sum(alive(pod) and not view.dead(pod) for pod in view.leaving)
    if stopping is None or not writing or any(now >= end for end in stop_ends(view)):
        return None
    message = f"{writing} pods write a checkpoint and stop; then the job starts with "
    message += f"{stopping.target} nodes" if stopping.target else "as many nodes as are free"
    return Decision("Resizing", message, view.status, requeue_seconds=1)


def stop_ends(view: View) -> tuple[datetime, ...]:
    """Return when the grace of pods that stop for another size is over at the latest; nothing when none do."""
    stopping = view.status.elastic.stopping
    if stopping is None:
        return ()
    return (stopping.since + timedelta(seconds=view.job.spec.template.termination_grace_period_seconds) + LATE,)


def wait_for_former_size(view: View, best: int, now: datetime) -> Decision | None:
    """Hold an attempt back that would be smaller than the one before, for as long as shrinkAfterSeconds says."""
    former = min(view.status.elastic.size, view.job.spec.nodes.max)
    if best >= former:
        return None
    status = lacking(view.status, now)
    until = _grace_ends(view, status)
    if now >= until:
        return None
    message = f"{best} nodes are free where there were {former}: waiting until {_told(until)} for more"
    message = f"{message}, then the job goes on with {best}"
    return Decision("WaitingForNodes", message, status, requeue_seconds=again(5, until, now))


def shrink(view: View, now: datetime) -> Decision | None:
    """Members are lost and no node is free for them: wait for one, then give the attempt up for a smaller one."""
    missing = capacity.short(view)
    if missing <= 0:
        return None
    status = lacking(view.status, now)
    until, size = _grace_ends(view, status), view.status.size
    best = best_size(view)
    then = f"the job goes on with {best}" if best else "it is queued"
    message = f"{missing} of {size} nodes are gone and no healthy node is free for them"
    if now < until:
        message = f"{message}: waiting until {_told(until)} for others, then {then}"
        return Decision("WaitingForNodes", message, status, requeue_seconds=again(5, until, now))
    # The losses were counted and recorded when the members were lost.
    message = f"attempt {view.status.attempt} is given up: {message}; {then}"
    return Decision("Shrinking", message, next_attempt(status), requeue_seconds=0, announce=True, warning=True)


def obey_bounds(view: View, now: datetime) -> Decision | None:
    """A person put nodes.min or nodes.max on the other side of the size: stop in peace and start within them."""
    nodes, size = view.job.spec.nodes, view.status.size
    if not size or nodes.min <= size <= nodes.max:
        return None
    which = f"max {nodes.max} is below" if size > nodes.max else f"min {nodes.min} is above"
    best = best_size(view)
    then = f"the job goes on with {best}" if best else "it is queued until enough nodes are free"
    return _stopped(view, best, f"nodes.{which} the {size} nodes of the attempt; {then}", now)


def grow(view: View, now: datetime) -> Decision | None:
    """Go on with more nodes, when they are there to stay and the job trains undisturbed."""
    possible = view.status.elastic.room
    if not possible or not _trains(view) or not _answer(view):
        return None
    target, ripe_at = room.ripe(possible, _at_most(view, STEADY), now)
    since, at = possible[0].since, max(ripe_at, _snoozes_until(view), _calm_at(view))
    head = f"nodes for {target} instead of {view.status.size} are free since {_told(since)}"
    if at > now:
        return _later(view, f"{head}; the job grows at {_told(at)} at the earliest", again(30, at, now))
    if _ends_within(view, timedelta(seconds=view.job.spec.nodes.grow_after_seconds)):
        return _later(view, f"{head}; the stage ends too soon for it to pay", 30)
    if not _fresh(view, now):
        return _later(view, f"{head}; the job grows after its next checkpoint", 30)
    return _stopped(view, target, f"{head}; the job goes on with them", now)


def told(view: View, status: JobStatus, decision: Decision) -> tuple[bool, str, str]:
    """Return whether the job has all nodes that it may have, a reason and a message for its condition."""
    most = view.job.spec.nodes.max
    if not status.size or decision.reason in ("WaitingForNodes", "WaitingToGrow"):
        return False, decision.reason, decision.message
    if status.size == most:
        return True, "AtMaximum", f"nodes.max is {most}"
    if status.elastic.room:
        size = status.elastic.room[-1].size
        return False, "WaitingToGrow", f"nodes for {size} are free; the job grows once it trains undisturbed"
    others = ", or are wanted by other jobs" if view.snapshot.waiting_jobs else ""
    return False, "NoRoom", f"nodes for no larger size up to {most} are free{others}"


def may_take_more(view: View) -> bool:
    """Say whether the job may take nodes that it does not hold, beyond what it needs to go on as it is."""
    return view.snapshot.waiting_jobs == 0


def best_size(view: View) -> int:
    """Return the largest size that the job could have if it started anew now, 0 for none."""
    legal = capacity.sizes(view.job)
    return capacity.largest(view, capacity.within_reach(view, more=may_take_more(view)), legal)


def stop_for(view: View, target: int, now: datetime, **changes: Any) -> JobStatus:
    """Want the next attempt; the pods of this one write a checkpoint first, as long as `stopping` is set."""
    update = {"stopping": Stopping(target=target, since=now), "room": ()}
    return next_attempt(view.status, elastic=view.status.elastic.model_copy(update=update), **changes)


def _stopped(view: View, target: int, message: str, now: datetime) -> Decision:
    words = f"{message}: pods write a checkpoint and stop"
    return Decision("Resizing", words, stop_for(view, target, now), requeue_seconds=0, announce=True)


def _later(view: View, message: str, seconds: float) -> Decision:
    return Decision("WaitingToGrow", message, view.status, requeue_seconds=seconds)


def _told(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")


def _trains(view: View) -> bool:
    whole = view.status.size > 0 and view.running >= view.status.size
    return whole and view.stepping and not open_faults(view.status.faults)


def _answer(view: View) -> bool:
    """Say whether every node of the attempt is ready: one that is not may be lost in a moment."""
    nodes = (view.nodes.get(pod.node or "") for pod in view.members.values())
    return all(node is not None and node.ready for node in nodes)


def _grace_ends(view: View, status: JobStatus) -> datetime:
    since = status.elastic.short_since
    assert since is not None
    return since + timedelta(seconds=view.job.spec.nodes.shrink_after_seconds)


def _at_most(view: View, wait: timedelta) -> timedelta:
    """Return a wait of ours, cut to what the user allows a growth to take."""
    return min(wait, timedelta(seconds=view.job.spec.nodes.grow_after_seconds))


def _snoozes_until(view: View) -> datetime:
    """Return until when the last change of size keeps the job from growing; a higher nodes.max is a person's wish."""
    known, nodes = view.status.elastic, view.job.spec.nodes
    if known.placed_time is None or nodes.max > known.limit:
        return view.job.created
    return known.placed_time + timedelta(seconds=nodes.grow_after_seconds)


def _calm_at(view: View) -> datetime:
    ends = [f.times.closed for f in view.status.faults if f.times.closed is not None]
    return max(ends, default=view.job.created) + _at_most(view, CALM)


def _ends_within(view: View, span: timedelta) -> bool:
    speed, done = view.status.tokens_per_second, view.status.step
    if not speed or done is None:
        return False
    return (view.stage.steps - done) * view.stage.global_batch_tokens / speed < span.total_seconds()


def _fresh(view: View, now: datetime) -> bool:
    store = view.checkpoint
    return store is not None and not store.problem and store.time is not None and now - store.time <= FRESH
