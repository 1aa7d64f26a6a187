"""Times that are called measured are those of the results that are committed."""

import json
import statistics
from pathlib import Path

import pytest

from internlm2_operator.simulate.times import ASSUMED, Times, changed, told

RESULTS = Path(__file__).parents[3] / "bench" / "results"


def test_samples_are_those_of_the_measured_recoveries() -> None:
    kinds = json.loads((RESULTS / "recovery.json").read_text())["kinds"]
    process, node = kinds["process-kill"]["samples"], kinds["node-kill"]["samples"]
    start = [s["resume"] - s["signal"] for s in process]
    expected = {
        "notice": [s["signal"] for s in process],
        "start": start,
        "first_step": [s["closed"] - s["resume"] for s in process],
        "verdict": [s["verdict"] - s["signal"] for s in node],
        # A node that fell silent is left out when the others begin to start, and a start takes as long as any.
        "lapse": [s["resume"] - statistics.median(start) for s in node if "resume" in s],
    }
    for name, values in expected.items():
        assert getattr(Times(), name) == pytest.approx(values, abs=0.006), name


def test_stalls_are_those_of_the_measured_saves() -> None:
    costs = json.loads((RESULTS / "checkpoint.json").read_text())["costs"]
    tier = next(c for c in costs if c["memoryTier"])
    assert Times().save_stall == pytest.approx(tier["saveStallSeconds"], abs=0.01)
    assert Times().copy_stall == pytest.approx(tier["copyStallSeconds"], abs=0.01)


def test_every_assumption_says_why_and_a_given_value_says_so() -> None:
    given = {what: origin for what, _, origin in told(changed(Times(), {"repair_hours": 3.0, "pod_start": None}))}
    plain = {what: origin for what, _, origin in told(Times())}
    assert sum(origin.startswith("assumed: ") for origin in plain.values()) == len(ASSUMED)
    assert {what for what in plain if plain[what] != given[what]} == {
        "hours until a cordoned node comes back, on average"
    }
