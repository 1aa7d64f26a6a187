"""What the lab measured, beside its targets."""

from typing import Any, Final

from bench.health.lab import TARGETS, figures
from bench.health.table import table

SAMPLES: Final = [
    {"signal": 8.0, "verdict": 8.5, "cordon": 8.6, "replacement": 8.7, "rendezvous": 9.0, "closed": 20.0 + n}
    for n in range(10)
]


def measured(samples: list[dict[str, float]]) -> dict[str, Any]:
    return {"samples": samples, "replayedStepsBitEqual": True, "load": {"n": len(samples)}, "rounds": len(samples)}


def test_every_arrow_has_its_distribution_in_the_order_of_events() -> None:
    found = figures("node-kill", measured(SAMPLES))
    assert list(found["secondsAfterFault"]) == ["signal", "verdict", "cordon", "replacement", "rendezvous", "closed"]
    assert found["secondsAfterFault"]["closed"] == {"n": 10, "p50": 25.0, "p95": 29.0, "p99": 29.0, "max": 29.0}
    assert found["targets"] == TARGETS["node-kill"]
    assert found["replayedStepsBitEqual"] is True


def test_an_arrow_that_some_runs_lack_counts_only_those_that_have_it() -> None:
    found = figures("node-kill", measured([*SAMPLES, {"signal": 8.0}]))
    assert (found["runs"], found["secondsAfterFault"]["signal"]["n"]) == (11, 11)
    assert found["secondsAfterFault"]["closed"]["n"] == 10


def test_the_table_has_targets_beside_what_was_measured() -> None:
    lines = table({"lab": {"simulated": ["GPUs"], "node-kill": figures("node-kill", measured(SAMPLES))}}).splitlines()
    (closed,) = [line for line in lines if "-> closed" in line]
    assert "p95 60 s" in closed
    assert "25.00 / 29.00 / 29.00 / 29.00 s, 10 of 10" in closed
    (verdict,) = [line for line in lines if "-> verdict" in line]
    assert "p95" not in verdict, "an arrow without a target has none"


def test_a_target_that_no_run_reached_is_told() -> None:
    found = figures("node-kill", measured([{"signal": 8.0}]))
    assert found["secondsAfterFault"]["closed"] == {"n": 0}
    assert "cordon" not in found["secondsAfterFault"], "an arrow that nobody waits for is not"
    (closed,) = [line for line in table({"lab": {"node-kill": found}}).splitlines() if "-> closed" in line]
    assert closed.endswith("never, 0 of 1")
