"""Status: conditions, times and what is left out."""

from datetime import UTC, datetime, timedelta
from typing import Final, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internlm2_operator.api.status import Fault, FaultTimes, JobStatus, Phase, arrow_seconds, set_condition

NOW: Final = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
LATER: Final = NOW + timedelta(seconds=90)


@pytest.mark.parametrize(
    ("status", "expected"), [("True", NOW), ("False", LATER)], ids=("same status keeps it", "another status moves it")
)
def test_transition_time(status: Literal["True", "False"], expected: datetime) -> None:
    first = set_condition((), "Ready", status="True", reason="A", message="a", generation=1, now=NOW)
    (second,) = set_condition(first, "Ready", status=status, reason="B", message="b", generation=2, now=LATER)
    assert second.last_transition_time == expected
    assert (second.reason, second.message, second.observed_generation) == ("B", "b", 2)


def test_a_condition_keeps_its_place_and_leaves_the_others_alone() -> None:
    both = set_condition((), "A", status="True", reason="R", message="", generation=1, now=NOW)
    both = set_condition(both, "B", status="True", reason="R", message="", generation=1, now=NOW)
    after = set_condition(both, "A", status="False", reason="R", message="", generation=1, now=LATER)
    assert [condition.type for condition in after] == ["A", "B"]
    assert after[1] == both[1]


def test_a_message_from_outside_is_cut_to_what_the_schema_holds() -> None:
    (one,) = set_condition((), "A", status="True", reason="R", message="x" * 5000, generation=1, now=NOW)
    assert len(one.message) == 1024


def test_times_keep_microseconds_and_none_is_left_out() -> None:
    body = Fault(id="1", cause="Xid79", times=FaultTimes(signal=NOW)).to_object()
    assert body["times"] == {"signal": "2026-01-02T03:04:05.678901Z"}
    assert "stepsLost" not in body


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_json_cannot_say_is_left_out(loss: float) -> None:
    assert "loss" not in JobStatus(loss=loss).to_object()


def test_nothing_there_is_a_new_job() -> None:
    assert JobStatus.from_object(None) == JobStatus() == JobStatus.from_object({})


@given(
    phase=st.sampled_from(Phase),
    step=st.none() | st.integers(0, 10**8),
    at=st.none() | st.datetimes(min_value=datetime(1970, 1, 2), timezones=st.just(UTC)),
)
def test_a_status_survives_the_api_server(phase: Phase, step: int | None, at: datetime | None) -> None:
    fault = Fault(id="1", cause="NodeNotReady", times=FaultTimes(closed=at))
    status = JobStatus(phase=phase, step=step, start_time=at, faults=(fault,))
    assert JobStatus.from_object(status.to_object()) == status


def test_arrows_go_from_each_known_time_to_the_next() -> None:
    moments = [NOW + timedelta(seconds=s) for s in (0, 1, 3, 10)]
    times = FaultTimes(signal=moments[0], verdict=moments[1], resume=moments[2], closed=moments[3])
    assert arrow_seconds(times) == {"verdict": 1.0, "resume": 2.0, "closed": 7.0, "total": 10.0}
    assert arrow_seconds(FaultTimes(verdict=NOW)) == {}


def test_what_was_reached_before_the_verdict_took_no_time_of_its_own() -> None:
    late = FaultTimes(
        signal=NOW, verdict=NOW + timedelta(seconds=26), resume=NOW + timedelta(seconds=8),
        closed=NOW + timedelta(seconds=30),
    )  # fmt: skip
    assert arrow_seconds(late) == {"verdict": 26.0, "resume": 0.0, "closed": 4.0, "total": 30.0}
