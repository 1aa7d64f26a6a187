"""When the members of a job are back in the rendezvous, by what their logs say."""

import pytest

from bench.recovery import RENDEZVOUS, rejoined

AT = 1_000.0
CASES = {
    "survivor and spare": ({"a": (AT + 9.0, 0), "b": (AT - 50, 2), "spare": (AT + 9.5, 2)}, {RENDEZVOUS: 9.5}),
    "only the survivor, as yet": ({"a": (AT + 9.0, 0), "b": (AT - 50, 2)}, {}),
    "nobody since": ({"a": (AT - 60, 0), "b": (AT - 60, 2)}, {}),
    "both again in place": ({"a": (AT + 2.0, 0), "b": (AT + 1.0, 2)}, {RENDEZVOUS: 2.0}),
    "a start after all were there": (
        {"a": (AT + 9.0, 0), "spare": (AT + 9.5, 2), "late": (AT + 40, 2)}, {RENDEZVOUS: 9.5},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_members_are_back_when_as_many_as_train_have_started_since(case: str) -> None:
    starts, expected = CASES[case]
    assert rejoined(starts, AT, 2) == expected
