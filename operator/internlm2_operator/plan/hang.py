"""A hang of an attempt, put together from what its pods said: one fault, with the odd one out of all ranks.

A pod speaks for its own ranks alone. Its word is in its termination message where it ended, and in what its next
processes say of the ones before where torchrun started them again in place.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from internlm2_operator.api.status import Fault
from internlm2_operator.health.stacks import Standstill, Witness, standstill
from internlm2_operator.plan.decision import Decision
from internlm2_operator.plan.loss import Loss, losses
from internlm2_operator.plan.view import View
from internlm2_spec.contract import HANG, Progress, Termination
from internlm2_spec.standstill import Cluster

# Ranks find a hang within seconds of each other, and their agents settle for about ten more.
SPEAK_WITHIN: Final = timedelta(seconds=12)
# Processes that torchrun starts again after one meeting start within so many seconds.
ONE_WAVE: Final = 30.0


def hung(loss: Loss) -> bool:
    """Say whether the lost member said that nothing went on, by its own fault or another's."""
    said = loss.pod.termination if loss.pod else None
    return said is not None and said.reason == HANG


def told_together(view: View, blamed: Sequence[Loss]) -> tuple[Loss, ...]:
    """Return the losses, a hang's as one: with what all pods said about it, of the pod whose rank stands out."""
    first = next((loss for loss in blamed if hung(loss)), None)
    if first is None or first.by_node:
        return tuple(blamed)
    seen = standstill(list(_witnesses(view, _fell(view))))
    known = {pod.name: pod for pod in view.members.values()}
    culprit = known.get(seen.pods[0]) if len(seen.pods) == 1 else None
    # A pod that hangs by its own account stays the one, also where it is the only one that was heard.
    own = first if not first.symptom and culprit is None else None
    node = seen.node or (own.node if own else "")
    pod = culprit or first.pod
    slot = pod.slot if pod else first.slot
    evidence = (*seen.evidence, *first.evidence)[:16]
    one = replace(first, slot=slot, pod=pod, cause=HANG, verdict="unknown", node=node, evidence=evidence)
    return tuple(one if loss is first else loss for loss in blamed)


def hear_hang(view: View, now: datetime) -> Decision | None:
    """A member said where its ranks stood: let the others say it too, so that the odd one out can be told."""
    lost = losses(view, now)
    spoken = [loss.signal_at for loss in lost if hung(loss) and loss.pod and _stood(loss.pod.termination)]
    if not spoken or now - min(spoken) >= SPEAK_WITHIN or any(loss.by_node for loss in lost):
        return None
    if all(witness.spoke for witness in _witnesses(view, _fell(view))):
        return None
    return Decision("WaitingForStacks", "a hang: pods say where their ranks stand", view.status, requeue_seconds=1)


def in_place(view: View) -> Standstill | None:
    """Return what the pods whose processes were started again say of a hang before; None where it was none."""
    started = max((said.started_time for said in view.progress.values()), default=0.0) - ONE_WAVE
    if not any(_hung_before(said) and said.started_time >= started for said in view.progress.values()):
        return None
    return standstill(list(_witnesses(view, started)))


def completed(fault: Fault, view: View) -> Fault:
    """Return an open record of a restart in place with what more pods have said of it since."""
    seen = None if fault.cordoned else in_place(view)
    if seen is None:
        return fault
    said = {"cause": HANG, "node": seen.node, "evidence": tuple(line[:1024] for line in seen.evidence)}
    return fault.model_copy(update=said)


def _witnesses(view: View, since: float) -> Iterator[Witness]:
    """Yield what each pod that took part says. Processes that started at `since` or later did not, their pod may have.

    A pod that only waited as a spare meanwhile is left out.
    """
    gpus = view.job.spec.nodes.gpus_per_node
    for pod in view.members.values():
        said, end = view.progress.get(pod.name), pod.termination
        again = said is not None and said.started_time >= since
        if end is None and again and said is not None:
            end = said.ended
        if end is None and (said is None or again):
            continue
        ranks = tuple(range(said.rank, said.rank + gpus)) if said and not again else ()
        yield Witness(pod.name, pod.node or "", ranks, _stood(end), spoke=end is not None)


def _fell(view: View) -> float:
    """Return the last step of the pods that ended, by the trainers' clocks: who started later did so after the hang."""
    ended = (view.progress[pod.name] for pod in view.members.values() if pod.termination and pod.name in view.progress)
    return max((said.step_time for said in ended), default=math.inf)


def _hung_before(said: Progress) -> bool:
    return said.ended is not None and said.ended.reason == HANG


def _stood(end: Termination | None) -> tuple[Cluster, ...]:
    return end.stood if end is not None else ()
