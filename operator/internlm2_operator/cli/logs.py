"""`internlm2 logs`: the log of one member, the newest pod of its slot."""

from collections.abc import Iterable

from internlm2_operator.api.job import InternLM2Job
from internlm2_operator.plan.snapshot import PodPhase, PodRecord
from internlm2_spec.config import Refused


def slot_of(job: InternLM2Job, slot: int | None, rank: int | None) -> int:
    """Return the slot that is asked for; ranks are numbered slot by slot until a spare takes over."""
    if rank is not None:
        return rank // job.spec.nodes.gpus_per_node
    return slot or 0


def member(job: InternLM2Job, pods: Iterable[PodRecord], slot: int, *, previous: bool) -> PodRecord:
    """Return the newest pod of a slot that has started, of the current attempt first; `previous`: that failed last.

    Raises:
        Refused: there is none.
    """
    mine = [pod for pod in pods if pod.job == job.name and pod.namespace == job.namespace]
    if previous:
        failed = [pod for pod in mine if pod.phase is PodPhase.FAILED]
        if not failed:
            raise Refused(
                "--previous", wrong="no failed pod is left: the operator removes those of former attempts",
                right="see `internlm2 faults`, which keeps the last lines of a traceback",
            )  # fmt: skip
        return max(failed, key=lambda pod: (pod.finished or pod.created, pod.name))
    started = [pod for pod in mine if pod.slot == slot and pod.phase is not PodPhase.PENDING]
    if not started:
        slots = sorted({pod.slot for pod in mine})
        there = f"slots with pods: {', '.join(map(str, slots))}" if slots else "it has no pods"
        raise Refused("NAME", wrong=f"no pod of slot {slot} of {job.key} has started; {there}",
                      right="see `internlm2 why`")  # fmt: skip
    return max(started, key=lambda pod: (pod.stage, pod.attempt, pod.replacement))
