"""The simulated cluster under the real decisions: the books balance, and faults take the operator's way."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from internlm2_operator.api.status import Phase
from internlm2_operator.simulate.account import Part
from internlm2_operator.simulate.advice import estimate
from internlm2_operator.simulate.faults import LLAMA3, Cause, Kind, Mix
from internlm2_operator.simulate.result import run
from internlm2_operator.simulate.scenario import Scenario, setup
from internlm2_operator.simulate.simulation import Setup, Simulation
from internlm2_operator.simulate.times import Times
from internlm2_operator.simulate.trace import Occurrence
from tests.examples import few

HOUR = 3600.0
# One value for each part, so that an outcome can be computed by hand.
EXACT = Times(notice=(2.0,), lapse=(8.0,), verdict=(1.0,), start=(7.0,), first_step=(3.0,), repair_hours=1000.0)
RECOVERY = 7 + 30 + 30 + 3 + 30  # start to steps


def small(*trace: Occurrence, times: Times = EXACT, seed: int = 0, **changes: Any) -> Setup:
    plain: dict[str, Any] = {"nodes": 2, "spares": 0, "gpus_per_node": 2, "days": 0.5, "trace": trace}
    return setup(Scenario(**(plain | changes)), times, seed)


def done(*trace: Occurrence, **changes: Any) -> Simulation:
    return Simulation(small(*trace, **changes)).go()


def fault(kind: Kind, node: int = 1, at: float = 2 * HOUR) -> Occurrence:
    return Occurrence(at, node, kind, str(kind))


def lost(simulation: Simulation, part: Part, kind: Kind) -> float:
    """Return the seconds that the job of four GPUs lost."""
    return simulation.account.booked[part, str(kind)] / 4


occurrences = st.builds(
    Occurrence,
    at=st.floats(0, 12 * HOUR),
    node=st.integers(0, 4),
    kind=st.sampled_from(list(Kind)),
    cause=st.sampled_from(["one", "other"]),
)


@settings(few, max_examples=15)
@given(
    st.lists(occurrences, max_size=12),
    st.integers(0, 2),
    st.integers(1, 3),
    st.booleans(),
    st.sampled_from([0.1, 2.0, 1000.0]),
)
def test_gpu_time_is_conserved_and_steps_are_what_was_productive(
    trace: list[Occurrence], spares: int, least: int, replicas: bool, repair: float
) -> None:
    asked = small(
        *sorted(trace, key=lambda o: o.at),
        nodes=3,
        min_nodes=least,
        spares=spares,
        free_nodes=2 - spares,
        replicas=replicas,
        times=replace(EXACT, repair_hours=repair),
    )
    simulation = Simulation(asked).go()
    account = simulation.account
    assert account.total == pytest.approx(5 * 2 * asked.seconds)
    steps = simulation.position * asked.pace.step_seconds * 3 * 2
    assert account.of(Part.PRODUCTIVE) == pytest.approx(steps, abs=1e-3)
    assert min(account.booked.values()) > -1e-3


def test_job_without_faults_loses_its_start_and_the_stalls() -> None:
    simulation = done()
    assert lost(simulation, Part.RESTART, Kind("process")) == 0
    stall = simulation.setup.pace.stall
    stepping = simulation.setup.seconds - 2 / 150 - 5 - 1 - RECOVERY
    assert simulation.position == pytest.approx(stepping / (6.2 + stall), abs=0.5)


def test_process_that_dies_costs_its_notice_a_start_and_the_steps_since_the_last_copy() -> None:
    simulation = done(fault(Kind.PROCESS))
    assert lost(simulation, Part.DETECT, Kind.PROCESS) == pytest.approx(2)
    assert lost(simulation, Part.RESTART, Kind.PROCESS) == pytest.approx(RECOVERY)
    assert 0 < lost(simulation, Part.REDO, Kind.PROCESS) < 10 * 6.2
    assert simulation.new_attempts == 1
    assert [f.cause for f in simulation.cluster.job.status.faults] == ["ProcessRestart"]


def test_hang_is_noticed_after_the_trainers_limit() -> None:
    assert lost(done(fault(Kind.HANG)), Part.DETECT, Kind.HANG) == pytest.approx(62)


def test_silent_corruption_takes_back_all_steps_since_before_it() -> None:
    redo = lost(done(fault(Kind.SILENT)), Part.REDO, Kind.SILENT)
    assert 1800 - 30 < redo < 1800 + 50 * 6.3 + 30


@pytest.mark.parametrize(
    ("kind", "cause"), [(Kind.XID, "Xid79"), (Kind.SUSPECT, "Xid119"), (Kind.NODE, "NodeNotReady")]
)
def test_node_at_fault_is_cordoned_by_diagnosis_and_a_spare_takes_over(kind: Kind, cause: str) -> None:
    simulation = done(fault(kind), spares=1)
    note = simulation.cluster.nodes["node-00001"].fault
    assert note is not None
    assert note.cause == cause
    assert simulation.cluster.job.status.phase is Phase.RUNNING
    assert simulation.new_attempts == 1
    assert simulation.account.booked[Part.QUEUE, str(kind)] == 0
    assert lost(simulation, Part.RESTART, kind) >= RECOVERY


def test_lost_node_without_a_spare_queues_the_job_until_it_is_repaired() -> None:
    """As `plan` says it for one snapshot: no node is free for a lost member, and fewer are not legal."""
    simulation = done(fault(Kind.NODE))
    status = simulation.cluster.job.status
    assert status.phase is Phase.QUEUED
    scheduled = status.condition("Scheduled")
    assert scheduled is not None
    assert (scheduled.status, scheduled.reason) == ("False", "Queued")
    assert simulation.account.interruptions.total() == 1
    repaired = done(fault(Kind.NODE), times=replace(EXACT, repair_hours=0.2))
    assert repaired.cluster.job.status.phase is Phase.RUNNING


def test_lost_node_without_a_spare_shrinks_a_job_that_may() -> None:
    simulation = done(fault(Kind.NODE), min_nodes=1)
    assert simulation.cluster.job.status.size == 1
    assert simulation.position > done(fault(Kind.NODE)).position


def test_lost_slot_0_starts_a_new_attempt_from_the_store() -> None:
    simulation = done(fault(Kind.NODE, node=0), spares=1)
    assert simulation.new_attempts == 2
    assert lost(simulation, Part.REDO, Kind.NODE) > lost(done(fault(Kind.NODE), spares=1), Part.REDO, Kind.NODE)


def test_copy_without_a_replica_goes_with_its_pod() -> None:
    with_replicas, alone = done(fault(Kind.NODE), spares=1), done(fault(Kind.NODE), spares=1, replicas=False)
    assert lost(alone, Part.REDO, Kind.NODE) > lost(with_replicas, Part.REDO, Kind.NODE)


def test_planned_pause_saves_first_and_lasts_its_time() -> None:
    simulation = done(fault(Kind.PLANNED))
    assert lost(simulation, Part.REDO, Kind.PLANNED) < 6.3
    assert 300 < lost(simulation, Part.QUEUE, Kind.PLANNED) < 300 + 30 + 10
    assert simulation.new_attempts == 2


def test_fault_of_a_spare_stops_nobody() -> None:
    simulation = done(fault(Kind.XID, node=2), spares=1)
    assert simulation.account.faults.total() == 1
    assert simulation.account.interruptions.total() == 0
    assert simulation.position == pytest.approx(done(spares=1).position)


def test_breaker_holds_the_third_cordon_within_five_minutes() -> None:
    trace = [fault(Kind.XID, node=n, at=n * 100) for n in range(1, 4)]
    held, later = (done(*trace, nodes=4, spares=3, days=seconds / 86400) for seconds in (400, 600))
    assert sum(n.fault is not None for n in held.cluster.nodes.values()) == 2
    assert sum(n.fault is not None for n in later.cluster.nodes.values()) == 3


def test_same_seed_gives_the_same_result_and_another_another() -> None:
    scenario = Scenario(nodes=8, spares=1, gpus_per_node=8, days=2, mix=replace(LLAMA3, gpus=64))
    first, again, other = (run(setup(scenario, Times(), seed)) for seed in (1, 1, 2))
    assert first == again
    assert first.ettr != other.ettr


def test_simulation_agrees_with_the_formula() -> None:
    """ETTR = 1 - rate x (recovery + lost work), where faults are rare against recoveries."""
    mix = Mix("restarts", "this test", gpus=16, days=1, causes=(Cause("bug", Kind.PROCESS, 40),))
    scenario = Scenario(nodes=2, spares=0, gpus_per_node=8, days=20, mix=mix)
    times = replace(EXACT, save_stall=0.0, copy_stall=0.0)
    result = run(setup(scenario, times, 3))
    expected = estimate(result.interruptions, 2 + RECOVERY, 10 * 6.2 / 2, 20 * 86400)
    assert result.interruptions > 500
    assert result.ettr == pytest.approx(expected, abs=0.003)
    assert expected < 0.95  # so that the agreement says something


@pytest.mark.parametrize("worse", [{"detect_at_least": 600.0}, {"recover_at_least": 600.0}])
def test_later_detection_and_longer_recovery_lower_ettr(worse: dict[str, Any]) -> None:
    scenario = Scenario(nodes=8, spares=2, gpus_per_node=8, days=4, mix=replace(LLAMA3, gpus=64))
    times = Times(repair_hours=1.0)
    plain = run(setup(scenario, times, 0))
    worsened = run(setup(scenario, replace(times, **worse), 0))
    assert worsened.ettr < plain.ettr - 0.005
