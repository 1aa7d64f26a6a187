"""What a run came to: a good one has no problems, and each thing that goes wrong is told."""

from dataclasses import replace
from typing import Any, Final

import pytest

from internlm2_spec.contract import FENCE_NAME, MANIFEST_NAME
from lab.chaos.cordons import CordonSeen
from lab.chaos.deck import Planned
from lab.chaos.judge import Ended, problems, report
from lab.chaos.run import Outcome
from lab.watch import StepSeen

T: Final = 1_800_000_000.0


def iso(seconds: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(T + seconds, UTC).isoformat()


def fault(key: str, cause: str, node: str, signal: float, closed: float | None) -> dict[str, Any]:
    times = {"signal": iso(signal), "verdict": iso(signal + 1), "closed": None if closed is None else iso(closed)}
    return {"id": key, "cause": cause, "node": node, "times": times}


def outcome(number: int, name: str, node: str, at: float, *known: str, early: bool = False) -> Outcome:
    planned = Planned(number, name, early=early, pause=0.0, seconds=None, gpu=0)
    return Outcome(
        planned, {"fault": planned.card.fault, "time": T + at}, "p", node, frozenset(known), 5, 0,
        repaired=T + at + 30 if planned.card.repaired else None, settled=T + at + 20,
    )  # fmt: skip


def step(number: int, loss: str = "0x1p0", pod: str = "p") -> StepSeen:
    return StepSeen(number, loss, T + number, pod, None)


STEP_3: Final = (f"pretrain/step-00000003/{MANIFEST_NAME}", "pretrain/step-00000003/a.safetensors")
GOOD: Final = Ended(
    outcomes=(
        outcome(1, "process-kill", "n1", 10),
        outcome(2, "node-kill", "n2", 50, "a"),
        outcome(3, "operator-kill", "", 53, "a", early=True),
        outcome(4, "dns-down", "", 90, "a", "b"),
    ),
    planned=4,
    phase="Succeeded",
    history={
        "a": fault("a", "ProcessRestart", "", 11, 20),
        "b": fault("b", "NodeNotReady", "n2", 58, 70),
    },
    steps=frozenset({step(1), step(2), step(3), step(2, pod="q")}),
    calm={1: "0x1p0", 2: "0x1p0", 3: "0x1p0"},
    cordons=(CordonSeen("n2", "NodeNotReady", "a hard signal", (), T + 60),),
    pods={},
    stage="pretrain",
    keep=2,
    objects=frozenset({FENCE_NAME, *STEP_3}),
    manifests={3: ("a.safetensors",)},
)


def test_a_good_run_has_no_problems_and_tells_its_latencies() -> None:
    assert problems(GOOD) == ()
    told = report(GOOD)
    assert told["ok"]
    assert told["stepsDoneTwice"] == 1
    kill, node, operator, dns = told["faults"]
    assert kill["records"] == [
        {
            "cause": "ProcessRestart",
            "node": "",
            "stepsLost": None,
            "seconds": {"signal": 1.0, "verdict": 2.0, "closed": 10.0},
        }
    ]
    assert node["cordoned"]
    assert [r["cause"] for r in node["records"]] == ["NodeNotReady"], "the record is of the node that died"
    assert operator["records"] == dns["records"] == []
    assert told["medianSeconds"]["node-kill"] == {"signal": 8.0, "verdict": 9.0, "closed": 20.0, "settled": 20.0}


BAD: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "a job that failed": ({"phase": "Failed"}, "the job is Failed"),
    "a fault that was not injected": ({"planned": 5}, "only 4 of 5"),
    "a run that ended before the first fault": ({"outcomes": ()}, "only 0 of 4"),
    "a step that nobody saw": ({"steps": frozenset({step(1), step(3)})}, "1 steps were never seen, the first is 2"),
    "a last bit": ({"steps": GOOD.steps | {step(3, "0x1.0000000000001p0")}}, "1 steps differ"),
    "a step too many": ({"steps": GOOD.steps | {step(4)}}, "1 steps differ"),
    "an innocent node": (
        {"cordons": (*GOOD.cordons, CordonSeen("n1", "ProcessKilled", "", (), T + 12))}, "innocent node n1",
    ),
    "a node before its fault": (
        {"cordons": (*GOOD.cordons, CordonSeen("n2", "Xid79", "", (), T + 40))}, "innocent node n2",
    ),
    "a node after its repair": (
        {"cordons": (*GOOD.cordons, CordonSeen("n2", "Xid79", "", (), T + 85))}, "innocent node n2",
    ),
    "a dead node that stays": ({"cordons": ()}, "2, node-kill: n2 was not cordoned"),
    "a fault that was not recorded": (
        {"history": {"a": GOOD.history["a"]}}, "2 node-kill, 3 operator-kill: not recorded",
    ),
    "a fault that stayed open": (
        {"history": {**GOOD.history, "b": fault("b", "NodeNotReady", "n2", 58, None)}}, "was never closed",
    ),
    "a pod that is left": ({"pods": {"chaos-0-0-1": "Running"}}, "pod chaos-0-0-1 is still there"),
    "a shard that nothing names": (
        {"objects": GOOD.objects | {"pretrain/step-00000002/b.safetensors"}}, "1 objects belong to no checkpoint",
    ),
    "a shard that is missing": ({"objects": GOOD.objects - {STEP_3[1]}}, "1 objects are missing"),
    "a checkpoint too many": ({"manifests": dict.fromkeys((1, 2, 3), ())}, "steps [1] are kept"),
    "a run that was given up": ({"stopped": "no spare within 400 s"}, "no spare"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "words"), BAD.values(), ids=BAD.keys())
def test_what_goes_wrong_is_told(changes: dict[str, Any], words: str) -> None:
    bad = replace(GOOD, **changes)
    found = problems(bad)
    assert [text for text in found if words in text], found
    assert report(bad)["problems"] == list(found)
