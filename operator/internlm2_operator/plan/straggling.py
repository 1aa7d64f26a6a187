"""Whether one rank holds up the others of a job: told in a condition and an event.

The trainer names the rank; which pod and node that is, the operator knows. It is a user's word, which no cordon comes
of: a node that is slow for long is checked once the job has left it (`plan/suspects.py`).
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from internlm2_operator.api.status import MAX_STRAGGLERS, JobStatus, Straggling
from internlm2_operator.plan.actions import Announce
from internlm2_operator.plan.view import STEPPING, View
from internlm2_spec.contract import Progress
from internlm2_spec.straggler import Slow, Slowness

CONDITION: Final = "Straggling"
# A restart of the job, or of the operator, between two sightings is no recovery.
GAP: Final = timedelta(minutes=10)
_IN: Final = {"compute": "computes", "data": "reads its data", "communication": "sends and receives"}


@dataclass(frozen=True, slots=True)
class Straggler:
    """The slow rank with its pod and node, empty where no pod says that it runs this rank."""

    slow: Slow
    pod: str
    node: str


def straggler(view: View) -> Straggler | None:
    """Return the rank that holds up the others by the word of the newest processes; None where none does."""
    said = max(view.progress.values(), key=_newest, default=None)
    if said is None or said.slow is None or said.phase not in STEPPING or view.running < view.status.size:
        return None
    gpus, rank = view.job.spec.nodes.gpus_per_node, said.slow.rank
    homes = (
        pod
        for pod in view.members.values()
        if (own := view.progress.get(pod.name)) and own.rank <= rank < own.rank + gpus and pod.slot in view.well
    )
    home = next(homes, None)
    return Straggler(said.slow, home.name if home else "", (home.node or "") if home else "")


def noted(view: View, status: JobStatus, now: datetime) -> tuple[Straggling, ...]:
    """Return which nodes held up the others, and since and until when.

    What is slow in reading its data is not among them: a check measures neither the store nor the data.
    """
    found = straggler(view) if status.completion_time is None else None
    slow = found.node if found is not None and found.slow.what is not Slowness.DATA else ""
    known = tuple(_noted(one, slow=one.node == slow, now=now) for one in view.status.stragglers)
    if found is None or not slow or any(one.until is None for one in known):
        return known
    slow_in: Literal["compute", "communication"] = "compute" if found.slow.what is Slowness.COMPUTE else "communication"
    return (*known, Straggling(node=slow, slow_in=slow_in, since=now))[-MAX_STRAGGLERS:]


def _noted(one: Straggling, *, slow: bool, now: datetime) -> Straggling:
    if one.until is None:
        return one if slow else one.model_copy(update={"until": now})
    return one.model_copy(update={"until": None}) if slow and now - one.until <= GAP else one


def row(view: View, status: JobStatus) -> tuple[str, Literal["True", "False"], str, str]:
    """Return type, status, reason and message of the condition. Its figures are those of when it became true."""
    found = straggler(view) if status.completion_time is None else None
    if found is None:
        return CONDITION, "False", "NoStraggler", "no rank is known to hold up the others"
    who = f"rank {found.slow.rank} on {found.node or 'an unknown node'} {_IN[found.slow.what]} slowly"
    reason = f"Slow{found.slow.what.capitalize()}"
    known = view.status.condition(CONDITION)
    if known is not None and known.status == "True" and known.message.startswith(who):
        return CONDITION, "True", reason, known.message
    times = f"{found.slow.ratio:.1f} times the others' median, {found.slow.seconds:.3g} s more"
    return CONDITION, "True", reason, f"{who}: {times}; a check of the node tells whether it is the node"


def news(before: JobStatus, after: JobStatus) -> tuple[Announce, ...]:
    """Return the event of a straggler that was not known before."""
    old, new = before.condition(CONDITION), after.condition(CONDITION)
    if new is None or new.status != "True" or (old is not None and old.message == new.message):
        return ()
    return (Announce(new.reason, new.message, warning=True),)


def _newest(said: Progress) -> tuple[float, int]:
    return said.started_time, -said.rank
