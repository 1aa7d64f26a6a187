"""Whether the trainers on a silent node are there: the operator asks them each second, a case shows a few answers."""

from collections.abc import Iterator
from datetime import datetime

from internlm2_operator.health import contact
from internlm2_operator.replay.case import Case, Observation


def lives(case: Case, node: str, since: datetime) -> datetime | None:
    """Return until when the trainers on a node that is silent since then answer, None where nothing says that they do.

    An answer that comes later, from a step that is new, was there to be had.
    """
    own, highest = list[datetime](), -1
    for at, step in _steps(case, {node}):
        if step > highest:
            own.append(at)
        highest = max(highest, step)
    until = since + contact.KUBELET_AWAY
    if near := [at for at in own if since - contact.HEARD < at <= until]:
        return contact.lives(since, max(near))
    return until if _undisturbed(case, node, since, until) else None


def _undisturbed(case: Case, node: str, since: datetime, until: datetime) -> bool:
    """Say whether a node is back in time, without a pod that ended, and the job is seen next at a new step.

    All ranks have part in each step, and no machine that went is back so soon: its trainers were there all along.
    """
    mine = [one for one in case.seen if one.node == node]
    if not any(_ready(one) and since < one.at <= until for one in mine):
        return False
    steps = list(_steps(case, {name for name in case.nodes if case.job_of(name) == case.job_of(node)}))
    before = [step for at, step in steps if at <= since]
    after = [(at, step) for at, step in steps if at > since]
    if not before or not after or after[0][1] <= max(before):
        return False
    return not any(one.kind == "pod_exit" and since <= one.at <= after[0][0] for one in mine)


def _ready(one: Observation) -> bool:
    return one.kind == "node_condition" and one.fields.get("type") == "Ready" and one.fields.get("status") == "True"


def _steps(case: Case, nodes: set[str]) -> Iterator[tuple[datetime, int]]:
    """Yield when a rank on one of these nodes was at which step, in time order, but for those that stand still."""
    for one in case.seen:
        step = one.fields.get("step")
        if one.kind != "progress" or one.node not in nodes or one.fields.get("stalledSeconds"):
            continue
        if isinstance(step, int):
            yield one.at, step
