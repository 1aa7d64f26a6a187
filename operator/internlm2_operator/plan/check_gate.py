"""Whether an attempt waits until its nodes are checked: a job's first, and one after a second hang without a culprit.

It never waits longer than `LIMIT` says. Who failed is cordoned; who did not answer is taken last.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Final, Literal

from internlm2_operator.api.job import InternLM2Job
from internlm2_operator.api.status import JobStatus, NodeCheckStatus
from internlm2_operator.plan import check, suspects
from internlm2_operator.plan.check import Asked, Depth
from internlm2_operator.plan.decision import Decision, again
from internlm2_operator.plan.snapshot import Outcome, Snapshot
from internlm2_operator.plan.view import View

# The operator takes up a check a moment after it was asked for, and gives it up this long before its job does.
LATE: Final = timedelta(minutes=1)
# A node that failed is cordoned within this, or somebody does not want that.
CORDON_FIRST: Final = timedelta(seconds=10)
LOOK_AGAIN: Final = 5.0
NAMED: Final = 4  # nodes in a message
MOST: Final = 5064  # nodes in the status

Why = Literal["FirstStart", "Hang"]
_WORDS: Final[Mapping[str, str]] = {"FirstStart": "first start", "Hang": "second hang without a culprit"}


def asked(job: InternLM2Job) -> Asked | None:
    """Return the check that a job waits for."""
    known = job.status.node_check
    if known is None or known.ended is not None or not known.nodes or job.deleting or job.status.completion_time:
        return None
    label = job.spec.topology.label if job.spec.topology else ""
    return Asked(job.key, known.nodes, Depth(known.depth), known.since, _WORDS[known.why], label=label)


def put_off(status: JobStatus) -> JobStatus:
    """Return the status of a job whose nodes are gone before they were checked: the next ones are, from the start."""
    known = status.node_check
    if known is None or known.ended is not None:
        return status
    return status.model_copy(update={"node_check": known.model_copy(update={"nodes": ()})})


def wait_for_check(view: View, chosen: tuple[str, ...], now: datetime) -> Decision | None:
    """Hold an attempt back until its `chosen` nodes are checked, None once it may start.

    Nodes that are chosen meanwhile, in place of those that failed, are checked too.
    """
    known, why = view.status.node_check, _why(view, now)
    if known is None or known.ended is not None:
        if why is None or view.snapshot.checks is None or not view.snapshot.checks.on:
            return None
        return _hold(view, NodeCheckStatus(why=why, depth=_depth(view, why), since=now), chosen, chosen, now)
    if not known.nodes and not _called_off(view, known):
        return _hold(view, known.model_copy(update={"since": now}), chosen, chosen, now)
    pods = view.snapshot.checks.pods if view.snapshot.checks else ()
    found = check.answers(view.nodes.values(), pods, known.since)
    waiting = [name for name in chosen if name not in found or _not_cordoned_yet(view, name, found, now)]
    if waiting and now < _until(known) and not _called_off(view, known):
        return _hold(view, known, chosen, waiting, now)
    return _ended(view, known, found, [name for name in chosen if name not in found], now)


def told(snapshot: Snapshot, status: JobStatus) -> tuple[bool, str, str] | None:
    """Return whether the nodes were checked, with reason and message; None where nobody wants to know."""
    known = status.node_check
    if known is None:
        wanted = snapshot.job.spec.health.check.first_start != "None"
        if not wanted or snapshot.checks is None or snapshot.checks.on or status.completion_time is not None:
            return None
        off = "the operator was given no image for node checks, nodeCheck.image in its chart: nodes are not checked"
        return False, "ChecksOff", off
    if known.ended is None and not known.nodes:
        return False, "NotChecked", "nodes are checked once the job can have them"
    if known.ended is None:
        return False, "CheckingNodes", _waiting_for(known, known.nodes)
    return not (known.failed or known.silent), "Checked", _outcome(known)


def _why(view: View, now: datetime) -> Why | None:
    known = view.status.node_check
    if known is None and view.status.start_time is None:
        return "FirstStart" if view.job.spec.health.check.first_start != "None" else None
    return "Hang" if suspects.hung_again(view.status.faults, known.since if known else None, now) else None


def _depth(view: View, why: Why) -> Literal["quick", "full"]:
    return "full" if why == "FirstStart" and view.job.spec.health.check.first_start == "Full" else "quick"


def _called_off(view: View, known: NodeCheckStatus) -> bool:
    """Say whether an edit of the spec, or of the operator's options, ended it."""
    off = view.snapshot.checks is not None and not view.snapshot.checks.on
    return off or (known.why == "FirstStart" and view.job.spec.health.check.first_start == "None")


def _not_cordoned_yet(view: View, name: str, found: Mapping[str, Outcome], now: datetime) -> bool:
    """Say whether a node failed a moment ago: without its cordon the attempt would be placed on it and lose it."""
    if found[name] is not Outcome.FAILED or view.job.spec.health.mode == "Observe":
        return False
    noted = view.nodes[name].check if name in view.nodes else None
    return noted is None or noted.passed or now - noted.at < CORDON_FIRST


def _until(known: NodeCheckStatus) -> datetime:
    return known.since + check.LIMIT[Depth(known.depth)] + LATE


def _hold(
    view: View, known: NodeCheckStatus, chosen: tuple[str, ...], waiting: Iterable[str], now: datetime
) -> Decision:
    # Those that failed stay in the list, so that they are counted at the end.
    held = known.model_copy(update={"nodes": tuple(dict.fromkeys((*known.nodes, *chosen)))[:MOST]})
    status = view.status.model_copy(update={"node_check": held})
    fresh = view.status.node_check is None or view.status.node_check.since != known.since
    return Decision(
        "CheckingNodes", _waiting_for(held, waiting), status, requeue_seconds=again(LOOK_AGAIN, _until(held), now),
        announce=fresh,
    )  # fmt: skip


def _ended(
    view: View, known: NodeCheckStatus, found: Mapping[str, Outcome], silent: list[str], now: datetime
) -> Decision:
    failed = [name for name in known.nodes if found.get(name) is Outcome.FAILED]
    passed = sum(found.get(name) is Outcome.PASSED for name in known.nodes)
    over = known.model_copy(
        update={"ended": now, "nodes": (), "passed": passed, "failed": tuple(failed[:64]), "silent": tuple(silent[:64])}
    )
    status = view.status.model_copy(update={"node_check": over})
    return Decision("NodesChecked", _outcome(over), status, requeue_seconds=0, announce=True,
                    warning=bool(failed or silent))  # fmt: skip


def _waiting_for(known: NodeCheckStatus, waiting: Iterable[str]) -> str:
    names, since = list(waiting), known.since.isoformat(timespec="seconds")
    until = _until(known).isoformat(timespec="seconds")
    before = f"{known.depth} check before the {_WORDS[known.why]}" if known.why == "FirstStart" else (
        f"{known.depth} check after a {_WORDS[known.why]}"
    )  # fmt: skip
    return f"{before} since {since}, {until} at the latest: {len(names)} nodes are to answer: {_named(names)}"


def _outcome(known: NodeCheckStatus) -> str:
    told = f"{known.depth} check, {_WORDS[known.why]}: {known.passed} nodes passed"
    told += f"; {len(known.failed)} failed: {_named(known.failed)}" if known.failed else ""
    return told + (f"; {len(known.silent)} did not answer in time: {_named(known.silent)}" if known.silent else "")


def _named(names: Iterable[str]) -> str:
    known = list(names)
    return ", ".join(known[:NAMED]) + (f" and {len(known) - NAMED} more" if len(known) > NAMED else "")
