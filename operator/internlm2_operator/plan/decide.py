"""One job, one plan: a chain of decisions of which the first that speaks wins."""

import dataclasses
from datetime import datetime
from typing import Final

from internlm2_operator.plan import straggling
from internlm2_operator.plan.actions import Action, Announce, Plan
from internlm2_operator.plan.attempt import start_new_attempt
from internlm2_operator.plan.blocked import (
    answer_refusal,
    take_up_edit,
    tell_hindrance,
    wait_for_backoff,
    wait_for_objects,
    wait_for_turn,
)
from internlm2_operator.plan.decision import Decide, Decision
from internlm2_operator.plan.failure import answer_user_failure
from internlm2_operator.plan.faults import open_faults, refresh
from internlm2_operator.plan.finish import complete_stage, keep_finished, prove_completion
from internlm2_operator.plan.hang import hear_hang
from internlm2_operator.plan.loss import awaits_cordon
from internlm2_operator.plan.maintenance import leave_before_maintenance
from internlm2_operator.plan.preempt import make_way
from internlm2_operator.plan.removal import note_removal
from internlm2_operator.plan.replace import replace_lost_member
from internlm2_operator.plan.report import report, settle
from internlm2_operator.plan.resize import grow, obey_bounds, remember, shrink
from internlm2_operator.plan.snapshot import Snapshot
from internlm2_operator.plan.stall import restart_stalled
from internlm2_operator.plan.start import fill_slots, place_waiting
from internlm2_operator.plan.suspend import stop_suspended
from internlm2_operator.plan.sweep import sweep
from internlm2_operator.plan.view import View, look


def keep_running(view: View, now: datetime) -> Decision | None:
    """Nothing to decide: look again when a record or a figure may have moved."""
    if any(awaits_cordon(view, pod, now) for pod in view.unwell):
        return Decision("WaitingForCordon", "a node fell silent", view.status, requeue_seconds=1)
    soon = open_faults(view.status.faults) or not view.stepping
    return Decision("Running", "nothing to do", view.status, requeue_seconds=5 if soon else 30)


DECISIONS: Final[tuple[Decide, ...]] = (
    keep_finished,
    complete_stage,
    stop_suspended,
    prove_completion,
    wait_for_objects,
    take_up_edit,
    note_removal,
    answer_user_failure,
    hear_hang,
    start_new_attempt,
    replace_lost_member,
    restart_stalled,
    leave_before_maintenance,
    obey_bounds,
    make_way,
    wait_for_backoff,
    place_waiting,
    answer_refusal,
    wait_for_turn,
    fill_slots,
    shrink,
    tell_hindrance,
    grow,
    keep_running,
)


def plan(snapshot: Snapshot, now: datetime) -> Plan:
    """Return what to do about one job now.

    Level-based: it depends on what is there and on the status, never on what was done before. The
    status says which pods are wanted; a plan that changes this asks to be called again at once.
    """
    if snapshot.job.deleting:
        # Owner references remove everything, each pod with its own grace.
        return Plan(status=snapshot.job.status, trail=("the job is being deleted",))
    if not snapshot.job.ours:
        return Plan(status=snapshot.job.status, trail=(f"the job is managed by {snapshot.job.spec.managed_by}",))
    view = _seen(snapshot, now)
    decision, trail = _first(view, now)
    status = report(view, decision, now)
    if snapshot.pods:  # else nothing follows, and the last checkpoint is what people look for
        status = settle(snapshot.job.status, status, snapshot.status_written, snapshot.jobs, now)
    return Plan(
        status=status,
        actions=(*sweep(view), *_made(decision), *straggling.news(snapshot.job.status, status)),
        requeue_seconds=decision.requeue_seconds,
        trail=trail,
    )


def _seen(snapshot: Snapshot, now: datetime) -> View:
    """Arrange the snapshot, with what the status remembers brought up to date."""
    view = look(snapshot, now)
    view = dataclasses.replace(view, status=view.status.model_copy(update={"faults": refresh(view, now)}))
    return dataclasses.replace(view, status=view.status.model_copy(update={"elastic": remember(view, now)}))


def _first(view: View, now: datetime) -> tuple[Decision, tuple[str, ...]]:
    trail: list[str] = []
    for decide in DECISIONS:
        decision = decide(view, now)
        if decision is not None:
            trail.append(f"{decide.__name__}: {decision.reason}: {decision.message}")
            return decision, tuple(trail)
        trail.append(f"{decide.__name__}: nothing to say")
    raise AssertionError("the last decision always speaks")


def _made(decision: Decision) -> tuple[Action, ...]:
    if not decision.announce:
        return decision.actions
    return (*decision.actions, Announce(reason=decision.reason, message=decision.message, warning=decision.warning))
