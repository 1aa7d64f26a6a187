"""What Prometheus is told about jobs and nodes, from a world as the watch fills it."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from internlm2_operator.health.node import FaultNote
from internlm2_operator.plan.faults import IN_PLACE
from internlm2_operator.runtime.books import LONGEST_ROUND, Books
from internlm2_operator.runtime.metrics import Metrics
from internlm2_operator.runtime.observed import Observed
from internlm2_operator.runtime.world import World
from internlm2_spec import contract
from tests.unit.runtime.test_world import job_of, node

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
SIGNAL = "2026-03-01T12:00:00Z"
NAME = {"training_namespace": "ns", "training_job": "demo"}
OPEN = {"id": "f", "cause": "Xid79", "node": "n1", "times": {"signal": SIGNAL}}
TRAINS = {"type": "Progressing", "status": "True", "reason": "Training", "lastTransitionTime": SIGNAL}
STATUS = {
    "phase": "Running", "size": 2, "step": 7, "startTime": SIGNAL, "conditions": [TRAINS],
    "nodes": {"active": 2, "ready": 3, "spare": 1}, "checkpoint": {"step": 5, "time": SIGNAL},
}  # fmt: skip


class Ledger:
    """Books with a clock that the test turns."""

    def __init__(self) -> None:
        self.world, self.metrics, self.now = World(), Metrics(), 0.0
        self._version = 0
        self._books = Books(self.world, Observed(), self.metrics, clock=lambda: self.now)

    def job(self, **status: Any) -> None:
        self._version += 1
        self.world.put_job(job_of(self._version, "Pretrain") | {"status": STATUS | status})

    def step(self, seconds: float) -> None:
        self.now += seconds
        asyncio.run(self._books.book())
        asyncio.run(self._books.tell())

    def value(self, name: str, labels: Mapping[str, str]) -> float | None:
        return self.metrics.registry.get_sample_value(f"internlm2_operator_{name}", dict(labels))

    def spent(self, on: str, cause: str = "") -> float | None:
        return self.value("job_gpu_seconds_total", NAME | {"spent_on": on, "cause": cause})

    def names(self, name: str) -> list[Mapping[str, str]]:
        family = next(f for f in self.metrics.registry.collect() if f.name == f"internlm2_operator_{name}")
        return [s.labels for s in family.samples if not s.name.endswith("_created")]


def gpus(ledger: Ledger) -> int:
    return 2 * ledger.world.jobs["ns/demo"].spec.nodes.gpus_per_node


def test_each_second_of_a_job_is_booked_once() -> None:
    ledger = Ledger()
    ledger.job()
    ledger.step(10)
    ledger.job(faults=[OPEN])
    ledger.step(4)
    ledger.step(3)
    assert ledger.spent("productive") == 10 * gpus(ledger)
    assert ledger.spent("fault", "Xid79") == 7 * gpus(ledger)
    assert len(ledger.names("job_gpu_seconds")) == 2


def test_of_a_time_in_which_the_operator_did_not_run_only_the_longest_round_is_booked() -> None:
    ledger = Ledger()
    ledger.job()
    ledger.step(3600)
    assert ledger.spent("productive") == LONGEST_ROUND * gpus(ledger)


def test_gauges_say_what_the_status_says() -> None:
    ledger = Ledger()
    ledger.job(faults=[OPEN])
    ledger.step(1)
    assert ledger.value("job_phase", NAME | {"phase": "Running"}) == 1
    assert ledger.value("job_step", NAME) == 7
    assert ledger.value("job_nodes", NAME | {"state": "spare"}) == 1
    assert ledger.value("job_checkpoint_timestamp_seconds", NAME) == AT.timestamp()
    trains = {"condition": "Progressing", "status": "True", "reason": "Training"}
    assert ledger.value("job_condition", NAME | trains) == 1
    fault = {"cause": "Xid79", "kind": "infrastructure", "training_node": "n1"}
    assert ledger.value("job_fault_timestamp_seconds", NAME | fault) == AT.timestamp()


def test_what_is_over_leaves_no_series() -> None:
    ledger = Ledger()
    ledger.job(faults=[OPEN])
    ledger.step(1)
    closed = OPEN | {"times": {"signal": SIGNAL, "closed": SIGNAL}}
    ledger.job(faults=[closed], phase="Starting")
    ledger.step(1)
    assert ledger.names("job_fault_timestamp_seconds") == []
    assert [labels["phase"] for labels in ledger.names("job_phase")] == ["Starting"]
    ledger.world.drop_job("ns/demo", "job-1")
    ledger.step(1)
    for name in ("job_phase", "job_condition", "job_step", "job_nodes", "job_gpu_seconds"):
        assert ledger.names(name) == []


def test_nodes_are_counted_by_state_and_cordons_named() -> None:
    ledger = Ledger()
    note = FaultNote("Xid79", (), AT, AT, AT, by="internlm2-operator")
    for name, ready, notes in (("a", "True", {}), ("b", "Unknown", {}), ("c", "True", {"fault": note.to_json()})):
        raw = node(1, ready=ready)
        annotations = {contract.ANNOTATION_FAULT: notes["fault"]} if notes else {}
        raw["metadata"] |= {"name": name, "uid": f"uid-{name}", "annotations": annotations}
        ledger.world.put_node(raw)
    ledger.step(1)
    assert [ledger.value("nodes", {"state": s}) for s in ("ready", "not_ready", "cordoned")] == [1, 1, 1]
    cordon = {"training_node": "c", "cause": "Xid79"}
    assert ledger.value("node_cordon_timestamp_seconds", cordon) == AT.timestamp()
    ledger.world.drop_node("c", "uid-c")
    ledger.step(1)
    assert ledger.value("nodes", {"state": "cordoned"}) == 0
    assert ledger.names("node_cordon_timestamp_seconds") == []


CLOSED = OPEN | {
    "times": {"signal": SIGNAL, "closed": SIGNAL}, "stepsLost": 3, "seconds": {"verdict": 2.0, "total": 40.0},
}  # fmt: skip


def counts(ledger: Ledger) -> tuple[float | None, ...]:
    """Return what is told of faults by XID 79, and of all arrows."""
    names = ("faults_total", "fault_steps_lost_total")
    by_cause = [ledger.value(name, {"cause": "Xid79"}) for name in names]
    return *by_cause, ledger.value("fault_arrow_seconds_sum", {"arrow": "total"})


def test_a_fault_is_counted_once_when_it_is_over() -> None:
    ledger = Ledger()
    ledger.job()
    ledger.step(1)
    ledger.job(faults=[OPEN])
    ledger.step(1)
    assert counts(ledger) == (None, None, None)
    for _ in range(3):
        ledger.job(faults=[CLOSED])
        ledger.step(1)
    assert counts(ledger) == (1, 3, 40.0)


def test_a_restart_is_counted_as_the_fault_that_turns_out_to_be_its_reason() -> None:
    """The record keeps its id; until it is final, nothing is counted."""
    now = datetime.now(UTC).isoformat()
    restart = CLOSED | {
        "cause": "ProcessRestart",
        "node": "",
        "action": IN_PLACE,
        "times": {"signal": now, "closed": now},
    }
    ledger = Ledger()
    for faults in ([], [restart]):
        ledger.job(faults=faults)
        ledger.step(1)
    assert ledger.names("faults") == []
    ledger.job(faults=[CLOSED | {"cordoned": True}])
    ledger.step(1)
    assert ledger.names("faults") == [{"cause": "Xid79"}]
    assert counts(ledger) == (1, 3, 40.0)


def test_a_fault_that_ended_its_job_is_counted_without_arrows() -> None:
    ledger = Ledger()
    ledger.job(faults=[OPEN])
    ledger.step(1)
    ledger.job(faults=[OPEN], phase="Failed", completionTime=SIGNAL)
    ledger.step(1)
    assert counts(ledger) == (1, 0, None)


def test_what_an_earlier_operator_counted_is_not_counted_again() -> None:
    ledger = Ledger()
    ledger.job(faults=[CLOSED])
    ledger.step(1)
    assert counts(ledger) == (None, None, None)
