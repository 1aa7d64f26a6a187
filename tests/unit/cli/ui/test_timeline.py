"""Where the bars of a picture stand."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internlm2_operator.api.status import FaultTimes
from internlm2_operator.cli.ui import timeline
from internlm2_operator.cli.ui.timeline import LEFT, RIGHT, picture, recovery
from tests.unit.cli.ui.cases import CLOSED, NOW, OPEN, running
from tests.unit.plan.world import T0, after


def test_each_arrow_of_a_fault_begins_where_the_one_before_ended() -> None:
    drawn = recovery(CLOSED)
    assert [bar.name for bar in drawn.bars] == ["signal", "verdict", "cordon", "replacement", "resume", "closed"]
    assert [bar.said for bar in drawn.bars] == ["1.0 s", "0.5 s", "0.5 s", "10.0 s", "19.0 s", "10.0 s"]
    assert drawn.bars[4].x + drawn.bars[4].width == pytest.approx(drawn.bars[5].x, abs=0.2)
    assert drawn.bars[5].x + drawn.bars[5].width == pytest.approx(RIGHT, abs=0.2)
    assert "40.0 s from signal to the first step after it" in drawn.title


def test_what_was_reached_before_the_verdict_is_a_mark_where_it_was() -> None:
    times = FaultTimes(signal=after(0), verdict=after(30), resume=after(10), closed=after(40))
    drawn = recovery(CLOSED.model_copy(update={"times": times}))
    assert [(bar.name, bar.said) for bar in drawn.bars] == [
        ("verdict", "30.0 s"), ("resume", "0.0 s"), ("closed", "10.0 s"),
    ]  # fmt: skip
    verdict, resume, closed = drawn.bars
    assert resume.width == timeline.LEAST
    assert closed.x == pytest.approx(verdict.x + verdict.width, abs=0.2)
    assert resume.x == pytest.approx(LEFT + (RIGHT - LEFT) / 4, abs=0.2)


def test_a_fault_with_one_moment_has_nothing_to_draw_and_is_open() -> None:
    assert (recovery(OPEN).bars, recovery(OPEN).title) == ((), "Recovery from NodeNotReady; still open")


def test_a_life_is_waiting_running_and_its_faults() -> None:
    one = running()
    drawn = timeline.life(one.created, one.status.start_time, one.status.faults, None, NOW)
    assert [(bar.name, bar.said, bar.tone) for bar in drawn.bars] == [
        ("waiting", "60s", "mark"), ("running", "59m", "run"),
        ("fault 1", "40s", "closed"), ("fault 2", "100s, open", "open"),
    ]  # fmt: skip


def test_a_job_that_never_started_only_waits() -> None:
    assert [bar.name for bar in timeline.life(T0, None, (), None, after(10)).bars] == ["waiting"]


@given(st.lists(st.tuples(st.floats(-1e9, 1e9), st.floats(-1e9, 1e9)), max_size=8))
def test_no_bar_leaves_the_line_whatever_clocks_say(moments: list[tuple[float, float]]) -> None:
    parts: list[timeline.Part] = [
        ("x", T0 + timedelta(seconds=a), T0 + timedelta(seconds=b), "", "run") for a, b in moments
    ]
    for bar in picture("any", parts).bars:
        assert bar.x >= LEFT
        assert bar.width >= timeline.LEAST
        assert bar.x + bar.width <= RIGHT + timeline.LEAST + 0.2
