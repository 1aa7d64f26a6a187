"""The fence: what an older attempt wrote too late does not count, and the notes about it stay few."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internlm2_spec.fence import Fence, Resumed

# Attempts in their order, each with the step that it resumed from.
histories = st.lists(st.integers(-1, 8), max_size=6).map(lambda steps: list(enumerate(steps, start=1)))


def held_after(history: list[tuple[int, int]]) -> Fence:
    fence = Fence()
    for attempt, step in history:
        fence = fence.held_by(attempt, Resumed("s", attempt, step))
    return fence


@given(history=histories, attempt=st.integers(1, 6), step=st.integers(0, 9))
def test_a_step_counts_unless_a_newer_attempt_resumed_below_it(
    history: list[tuple[int, int]], attempt: int, step: int
) -> None:
    found = held_after(history).superseded_by(stage="s", attempt=attempt, step=step)
    assert (found is not None) == any(newer > attempt and base < step for newer, base in history)


@given(history=histories)
def test_notes_are_as_many_as_steps_kept_and_survive_their_json(history: list[tuple[int, int]]) -> None:
    fence = held_after(history)
    steps = [note.step for note in fence.resumed]
    assert steps == sorted(set(steps))
    assert Fence.from_json(fence.to_json()) == fence


def test_an_attempt_that_was_restarted_keeps_its_lowest_step() -> None:
    fence = Fence().held_by(2, Resumed("s", 2, 40)).held_by(2, Resumed("s", 2, 70))
    assert fence.resumed == (Resumed("s", 2, 40),)


def test_stages_do_not_touch_each_other() -> None:
    fence = Fence().held_by(1, Resumed("a", 1, 40)).held_by(2, Resumed("b", 2, -1))
    assert fence.superseded_by(stage="a", attempt=0, step=41) == 1
    assert fence.superseded_by(stage="a", attempt=1, step=41) is None
    assert fence.superseded_by(stage="b", attempt=1, step=0) == 2


def test_a_fence_of_the_first_release_is_read() -> None:
    assert Fence.from_json('{"attempt": 3}') == Fence(3)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"attempt": null}', '{"attempt": 1, "resumed": [1]}'])
def test_anything_else_is_no_fence(text: str) -> None:
    with pytest.raises(ValueError, match=r"fence|Expecting value"):
        Fence.from_json(text)
