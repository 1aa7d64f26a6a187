"""What a user's program may write where the trainer should: it is read as it is meant, or not at all."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internlm2_spec.contract import FailureClass, Progress, Termination, TrainPhase
from tests.examples import few

ENDED = Termination(
    FailureClass.USER,
    "ValueError",
    70,
    message="words",
    rank=3,
    step=7,
    first_failing_rank=3,
    traceback="a\nb",
    time=1e9,
)
STEPPING = Progress(
    TrainPhase.STEP, rank=0, world=8, attempt=1, incarnation=0, started_step=0, step=7, step_time=1e9, started_time=1e9,
    first_step_time=None, loss=2.5, tokens_per_second=None, mfu=None, checkpoint_step=None, checkpoint_time=None,
)  # fmt: skip


def ended(**changed: object) -> Termination | None:
    return Termination.from_json(json.dumps(json.loads(ENDED.to_json()) | changed))


def test_what_is_written_is_read_back() -> None:
    assert Termination.from_json(ENDED.to_json()) == ENDED
    assert Progress.from_json(STEPPING.to_json()) == STEPPING


def test_what_a_newer_trainer_adds_is_passed_over_and_what_an_older_one_lacks_has_its_default() -> None:
    assert ended(colour="red") == ENDED
    older = {key: value for key, value in json.loads(ENDED.to_json()).items() if key != "time"}
    read = Termination.from_json(json.dumps(older))
    assert read is not None
    assert read.time is None


def test_a_loss_that_is_not_finite_is_told() -> None:
    read = Progress.from_json(json.dumps(json.loads(STEPPING.to_json()) | {"loss": math.nan}))
    assert read.loss is not None
    assert math.isnan(read.loss)


WRONG: dict[str, dict[str, Any]] = {
    "a class that none is": {"failure": "mine"},
    "a traceback that is an object": {"traceback": {"a": 1}},
    "a reason that is a number": {"reason": 7},
    "a rank that is a text": {"rank": "7"},
    "a rank that is a truth": {"rank": True},
    "a step beyond any": {"step": 10**300},
    "an exit code that is not there": {"exit_code": None},
    "a time beyond any calendar": {"time": 1e300},
    "a time that is no number": {"time": math.nan},
    "a time before all": {"time": -1},
}


@pytest.mark.parametrize("changed", WRONG.values(), ids=WRONG)
def test_an_end_with_this_is_not_ours(changed: dict[str, Any]) -> None:
    assert ended(**changed) is None
    assert ended() == ENDED


FOREIGN = ["", "Killed", "[]", "null", "7", '"failure"', "{}", '{"failure": "user"}', "[" * 4000, '{"a":' * 700]


@pytest.mark.parametrize("text", FOREIGN, ids=range(len(FOREIGN)))
def test_text_of_somebody_else_is_not_ours(text: str) -> None:
    assert Termination.from_json(text) is None
    with pytest.raises(ValueError, match=r"."):
        Progress.from_json(text)


@few
@given(st.text(alphabet=st.characters(), max_size=50))
def test_any_text_can_be_written_again(text: str) -> None:
    read = ended(message=text, traceback="\ud800" + text)
    assert read is not None
    assert read.message.encode() + read.traceback.encode()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
NAMES = st.sampled_from(sorted(json.loads(STEPPING.to_json())) + sorted(json.loads(ENDED.to_json())))


@few
@given(st.dictionaries(NAMES, VALUES, max_size=6))
def test_no_object_raises_more_than_it_says(changed: dict[str, Any]) -> None:
    assert isinstance(ended(**changed), Termination | None)
    try:
        read = Progress.from_json(json.dumps(json.loads(STEPPING.to_json()) | changed))
    except ValueError:
        return
    assert max((read.step, read.step_time), (0, 0.0)) >= (0, 0.0), "numbers can be compared"
