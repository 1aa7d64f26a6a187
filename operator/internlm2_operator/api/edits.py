"""What may change in a job that has begun. The rules stand at the root, where spec and status are both seen.

A write of the status passes them too, with the spec as it was. What they do not name may change at any time and takes
effect at once: nodes.min, max and spares, suspend, failurePolicy, health, and stages that have not begun.
"""

from typing import Final

from internlm2_operator.api.base import Rule

MAX_STAGES: Final = 16

_SAID: Final = "oldSelf.status"
_ENDED: Final = f"(has({_SAID}) && has({_SAID}.completionTime))"
_BEGUN: Final = f"(has({_SAID}) && {_SAID}.attempt > 0 && !{_ENDED})"
# The attempt has its pods, or is about to: each later one is made from what the first was made from. Where a pod cannot
# start, an edit is the cure, and all of them are made anew.
_HELD: Final = f"({_BEGUN} && {_SAID}.size > 0 && {_SAID}.phase != 'Pending')"
_LATER: Final = "set suspend to true, change it once status.phase is Suspended, then set suspend to false"

_AT: Final = f"{_SAID}.stageIndex"
_NEW: Final = f"self.spec.stages[{_AT}]"
_OLD: Final = f"oldSelf.spec.stages[{_AT}]"
# A stage that is not in its place any more is a rule of its own; elsewhere it would only be a second error.
_IN_PLACE: Final = f"({_AT} < self.spec.stages.size() && {_NEW}.name == {_OLD}.name)"
_PLACES: Final = list(range(MAX_STAGES))


def _of_pods(field: str) -> Rule:
    return Rule(
        f"!{_HELD} || self.spec.{field} == oldSelf.spec.{field}",
        f"{field} differs from what the pods of attempt {{{_SAID}.attempt}} were made with; {_LATER}",
        at=f".spec.{field}",
    )


def _of_stage(field: str, while_: str, why: str) -> Rule:
    """Return the rule that a field of the current stage stays `while_`."""
    return Rule(
        f"!{while_} || !{_IN_PLACE} || {_NEW}.{field} == {_OLD}.{field}",
        f"stage {{{_OLD}.name}}: {field} {why}",
        at=".spec.stages",
    )


def _place_in_data(field: str, *, shown: bool = True) -> Rule:
    value = f"{{{_NEW}.{field}}} differs from {{{_OLD}.{field}}}" if shown else "differs from what it was"
    why = f"{value} when the stage began, and its place in the data is counted by it"
    return _of_stage(field, _BEGUN, f"{why}; restore it, or lower steps to end this stage and append another")


def _of_attempt(field: str) -> Rule:
    why = f"differs from what attempt {{{_SAID}.attempt}} trains with"
    return _of_stage(field, _HELD, f"{why}; {_LATER}, or append another stage")


_CHANGED: Final = (
    f"i < {_AT} && i < self.spec.stages.size() && self.spec.stages[i].name == oldSelf.spec.stages[i].name"
    " && self.spec.stages[i] != oldSelf.spec.stages[i]"
)

RULES: Final = (
    *(_of_pods(field) for field in ("template", "checkpoint", "nodes.gpusPerNode", "nodes.resourceName")),
    Rule(
        f"!{_BEGUN} || {_PLACES}.all(i, i > {_AT}"
        " || i < self.spec.stages.size() && self.spec.stages[i].name == oldSelf.spec.stages[i].name)",
        f"stages does not begin any more with the {{{_AT} + 1}} stages up to {{{_OLD}.name}}, which are done or under"
        " way; restore them in their order, and change only what comes after them",
        at=".spec.stages",
    ),
    Rule(
        f"!{_BEGUN} || !{_PLACES}.exists(i, {_CHANGED})",
        f"stage {{{_PLACES}.map(i, {_CHANGED}, oldSelf.spec.stages[i].name)[0]}} is done and cannot change;"
        " restore it, or append another stage",
        at=".spec.stages",
    ),
    Rule(
        f"!{_ENDED} || self.spec.stages == oldSelf.spec.stages",
        f"stages differs from that of the job that ended at {{{_SAID}.completionTime}}, and nothing starts after the"
        " end; delete the job and make it anew: it goes on from its checkpoints",
        at=".spec.stages",
    ),
    _place_in_data("data", shown=False),
    *(_place_in_data(field) for field in ("kind", "sequenceLength", "globalBatchTokens", "seed", "ropeBase")),
    *(_of_attempt(field) for field in ("steps", "optimizer", "parallel", "guard")),
)
