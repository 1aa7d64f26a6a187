"""Which copies in memory make a whole state: the newest save of which every rank's part is held by somebody."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internlm2_trainer.checkpoint.recall import Held, newest

A4, B4, A6, B6 = Held(4, "m4", "a"), Held(4, "m4", "b"), Held(6, "m6", "a"), Held(6, "m6", "b")

CASES = {
    "nobody holds anything": ([[], []], ["a", "b"], None),
    "both hold their own": ([[A4, A6], [B4, B6]], ["a", "b"], (6, "m6", (0, 1))),
    "one was killed before it had copied the newest": ([[A4, A6], [B4]], ["a", "b"], (4, "m4", (0, 1))),
    "one lost everything and has no replica": ([[A4, A6], []], ["a", "b"], None),
    "one lost everything and a replica has it": ([[A6], []], ["a", "a"], (6, "m6", (0, 0))),
    "ranks changed places": ([[B6], [A6]], ["a", "b"], (6, "m6", (1, 0))),
    "one step of two lives of the job is no whole": ([[Held(6, "x", "a")], [Held(6, "y", "b")]], ["a", "b"], None),
    "another layout": ([[A6], [B6]], ["c", "d"], None),
    "those that lack a copy share the peers": ([[A6], [A6], [], []], ["a"] * 4, (6, "m6", (0, 1, 0, 1))),
}


@pytest.mark.parametrize(("held", "needs", "found"), CASES.values(), ids=CASES)
def test_the_newest_whole_save_is_chosen(
    held: list[list[Held]], needs: list[str], found: tuple[int, str, tuple[int, ...]] | None
) -> None:
    assert newest(held, needs) == found


copies = st.builds(Held, st.integers(0, 3), st.sampled_from("xy"), st.sampled_from("abc"))


@given(
    held=st.lists(st.lists(copies, max_size=3, unique=True), min_size=1, max_size=4),
    needs=st.lists(st.sampled_from("abc"), min_size=4, max_size=4),
)
def test_every_source_holds_what_it_gives_and_no_newer_save_is_whole(held: list[list[Held]], needs: list[str]) -> None:
    needs = needs[: len(held)]
    found = newest(held, needs)
    everything = {copy for each in held for copy in each}
    whole = {(c.step, c.mark) for c in everything if all(Held(c.step, c.mark, key) in everything for key in needs)}
    assert (found is not None) == bool(whole)
    if found is not None:
        step, mark, sources = found
        assert (step, mark) == max(whole)
        assert all(Held(step, mark, needs[rank]) in held[source] for rank, source in enumerate(sources))
        own = [rank for rank, key in enumerate(needs) if Held(step, mark, key) in held[rank]]
        assert all(sources[rank] == rank for rank in own)
