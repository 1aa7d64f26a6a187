"""What a run under faults came to: which record belongs to which fault, and everything that is not as it has to be."""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from internlm2_spec.contract import FENCE_NAME, MANIFEST_NAME, step_prefix
from internlm2_spec.manifest import kept
from lab.chaos.cordons import CordonSeen
from lab.chaos.run import Outcome
from lab.report import ARROWS, seconds_since
from lab.watch import StepSeen

# Between our clock before a break and the time in a note that it led to.
CLOCK_GRAIN: Final = 0.5
Fault = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Ended:
    """All that was seen of a run once it was over.

    `calm` is the exact loss by step of the undisturbed run; `objects` are keys below the checkpoint URL, `manifests`
    the names of the objects of each published step; `pods` those of the job that are still there, with their phase.
    """

    outcomes: tuple[Outcome, ...]
    planned: int
    phase: str
    history: Mapping[str, Fault]
    steps: frozenset[StepSeen]
    calm: Mapping[int, str]
    cordons: tuple[CordonSeen, ...]
    pods: Mapping[str, str]
    stage: str
    keep: int
    objects: frozenset[str]
    manifests: Mapping[int, tuple[str, ...]]
    stopped: str = ""  # why it was given up, if it was


def problems(run: Ended) -> tuple[str, ...]:
    """Return what is not as it has to be, nothing when all is."""
    found = [run.stopped] if run.stopped else []
    if run.phase != "Succeeded":
        found.append(f"the job is {run.phase}, not Succeeded")
    if len(run.outcomes) < run.planned:
        found.append(f"only {len(run.outcomes)} of {run.planned} faults were injected")
    found += [*_losses(run), *_cordons(run), *_records(run)]
    found += [f"pod {name} is still there: {phase}" for name, phase in sorted(run.pods.items())]
    found += _leaks(run)
    return tuple(found)


def _losses(run: Ended) -> Iterable[str]:
    seen: dict[int, set[str]] = defaultdict(set)
    for step in run.steps:
        seen[step.step].add(step.loss_hex)
    if missing := sorted(set(run.calm) - set(seen)):
        yield f"{len(missing)} steps were never seen, the first is {missing[0]}"
    wrong = sorted(step for step, losses in seen.items() if losses != {run.calm.get(step)})
    if wrong:
        first = wrong[0]
        yield f"{len(wrong)} steps differ from the undisturbed run, the first is {first}: {sorted(seen[first])}"


def _cordons(run: Ended) -> Iterable[str]:
    for cordon in run.cordons:
        if not any(_answers(cordon, o) for o in run.outcomes if o.planned.card.guilty):
            yield f"innocent node {cordon.node} was cordoned for {cordon.cause}: {cordon.rule}; {cordon.evidence}"
    for o in run.outcomes:
        if o.planned.card.cordoned and not any(_answers(cordon, o) for cordon in run.cordons):
            yield f"fault {o.planned.number}, {o.planned.name}: {o.node} was not cordoned"


def _answers(cordon: CordonSeen, outcome: Outcome) -> bool:
    """Say whether a cordon came while the fault stood."""
    since, until = outcome.injected - CLOCK_GRAIN, outcome.repaired or float("inf")
    return cordon.node == outcome.node and since <= cordon.at <= until


def _records(run: Ended) -> Iterable[str]:
    for group, records in grouped(run):
        if any(o.planned.card.recorded for o in group) and not records:
            names = ", ".join(f"{o.planned.number} {o.planned.name}" for o in group)
            yield f"fault {names}: not recorded"
    for fault in run.history.values():
        if not (fault.get("times") or {}).get("closed"):
            yield f"fault {fault['cause']} on {fault.get('node') or 'no node'} was never closed"


def grouped(run: Ended) -> list[tuple[tuple[Outcome, ...], tuple[Fault, ...]]]:
    """Return the faults that came one into another's recovery together, with the records that are new since."""
    groups: list[list[Outcome]] = []
    for outcome in run.outcomes:
        if outcome.planned.early and groups:
            groups[-1].append(outcome)
        else:
            groups.append([outcome])
    if not groups:  # it never got as far as the first
        return []
    ends = [group[0].known for group in groups[1:]] + [frozenset(run.history)]
    return [
        (tuple(group), tuple(run.history[key] for key in sorted(end - group[0].known) if key in run.history))
        for group, end in zip(groups, ends, strict=True)
    ]


def _leaks(run: Ended) -> Iterable[str]:
    stay = kept(tuple(run.manifests), keep=run.keep, keep_every=0)
    if extra := sorted(set(run.manifests) - stay):
        yield f"steps {extra} are kept, though only the newest {run.keep} should be"
    ours = {FENCE_NAME}
    for step in stay:
        ours |= {f"{step_prefix(run.stage, step)}/{name}" for name in (MANIFEST_NAME, *run.manifests[step])}
    if leaked := sorted(run.objects - ours):
        yield f"{len(leaked)} objects belong to no checkpoint: {leaked[:4]}"
    if lost := sorted(ours - run.objects):
        yield f"{len(lost)} objects are missing: {lost[:4]}"


def report(run: Ended) -> dict[str, Any]:
    """Return everything as JSON: each fault with the latencies of its records, medians by kind, and the verdict."""
    faults = [row for group, records in grouped(run) for row in _rows(group, records, run)]
    found = problems(run)
    return {
        "ok": not found,
        "problems": list(found),
        "faultsInjected": len(run.outcomes),
        "faultsRecorded": len(run.history),
        "steps": max((s.step for s in run.steps), default=0),
        "stepsDoneTwice": _twice(run.steps),
        "stepsBitEqualToUndisturbed": not any(_losses(run)),
        "cordons": [
            {"node": c.node, "cause": c.cause, "rule": c.rule, "at": c.at}
            for c in sorted(run.cordons, key=lambda c: c.at)
        ],
        "medianSeconds": _medians(faults),
        "faults": faults,
    }


def _rows(group: Sequence[Outcome], records: Sequence[Fault], run: Ended) -> list[dict[str, Any]]:
    owners = {fault["id"]: _owner(fault, group) for fault in records}
    return [
        {
            "number": o.planned.number,
            "kind": o.planned.name,
            "node": o.node,
            "pod": o.pod,
            "early": o.planned.early,
            "lastedSeconds": _since(o, o.undone),
            "at": o.injected,
            "step": o.step,
            "cordoned": any(_answers(cordon, o) for cordon in run.cordons),
            "repairedAfterSeconds": _since(o, o.repaired),
            "settledAfterSeconds": _since(o, o.settled),
            "records": [
                {
                    "cause": fault["cause"],
                    "node": fault.get("node", ""),
                    "stepsLost": fault.get("stepsLost"),
                    "seconds": seconds_since(o.injected, fault.get("times") or {}),
                }
                for fault in records
                if owners[fault["id"]] is o
            ],
        }
        for o in group
    ]


def _owner(fault: Fault, group: Sequence[Outcome]) -> Outcome:
    """Return the fault of a group that a record is about: the one on its node, else the last one before its signal."""
    on_node = [o for o in group if o.node and o.node == fault.get("node")]
    signal = datetime.fromisoformat(fault["times"]["signal"]).timestamp() if fault["times"].get("signal") else 0.0
    before = [o for o in group if o.injected <= signal + CLOCK_GRAIN]
    return (on_node or before[-1:] or list(group))[0]


def _since(outcome: Outcome, moment: float | None) -> float | None:
    return None if moment is None else round(moment - outcome.injected, 2)


def _twice(steps: Iterable[StepSeen]) -> int:
    times: dict[int, int] = defaultdict(int)
    for step in steps:
        times[step.step] += 1
    return sum(count > 1 for count in times.values())


def _medians(faults: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Return, by kind, the median seconds to each arrow, of faults that came alone."""
    seconds: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for fault in faults:
        for record in fault["records"]:
            for arrow, value in record["seconds"].items():
                seconds[fault["kind"]][arrow].append(value)
        if fault["settledAfterSeconds"] is not None:
            seconds[fault["kind"]]["settled"].append(fault["settledAfterSeconds"])
    order = (*ARROWS, "settled")
    return {
        kind: {arrow: round(statistics.median(arrows[arrow]), 2) for arrow in order if arrows.get(arrow)}
        for kind, arrows in sorted(seconds.items())
    }
