"""Who is the odd one out of the ranks of a hang, whatever they say and in whatever order."""

import json
from collections.abc import Sequence
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internlm2_spec.contract import HANG, ExitCode, FailureClass, Progress, Termination, TrainPhase
from internlm2_spec.standstill import MAX_CLUSTERS, MAX_TEXT, Cluster, Why, bounded, clustered, odd_one_out
from internlm2_spec.straggler import Slow, Slowness
from tests.examples import few

REDUCE, GATHER, LOST = "optim.reduce, line 90", "model.forward, line 8", ""


def waits(*ranks: int, place: str = REDUCE, call: str = "all_reduce") -> Cluster:
    return Cluster(ranks, "step", waits=True, place=place, call=call)


def busy(*ranks: int, place: str = "source.micro_batch, line 71") -> Cluster:
    return Cluster(ranks, "step", place=place)


def silent(*ranks: int) -> Cluster:
    return Cluster(ranks)


def followers(*ranks: int) -> Cluster:
    return Cluster(ranks, waits=True)


EIGHT = range(8)
CASES = {
    "one reads, seven wait": ([waits(0, 1, 2, 3, 4, 6, 7), busy(5)], EIGHT, (Why.BUSY, (5,))),
    "of two ranks the one that does not wait": ([waits(0), busy(1)], range(2), (Why.BUSY, (1,))),
    "two that do different things": ([waits(*range(6)), busy(6), busy(7, place="x")], EIGHT, (Why.BUSY, (6, 7))),
    "one left no word by its agent's account": ([waits(*range(7)), silent(7)], EIGHT, (Why.SILENT, (7,))),
    "a pod of two said nothing at all": ([waits(*range(6))], EIGHT, (Why.SILENT, (6, 7))),
    "one does not wait and another is silent": ([waits(*range(6)), busy(6), silent(7)], EIGHT, (Why.BUSY, (6,))),
    "one waits elsewhere": (
        [waits(*range(7)), waits(7, place=GATHER, call="all_gather")], EIGHT, (Why.APART, (7,)),
    ),
    "the smallest of two that stand apart": (
        [waits(*range(5)), waits(5, 6, place=GATHER), waits(7, place="z")], EIGHT, (Why.APART, (7,)),
    ),
    "a tie of two that stand apart: both": (
        [waits(*range(6)), waits(6, place=GATHER), waits(7, place="z")], EIGHT, (Why.APART, (6, 7)),
    ),
    "one that lost its peers over it was no other": (
        [waits(*range(6)), followers(6), busy(7)], EIGHT, (Why.BUSY, (7,)),
    ),
    "all wait in one place": ([waits(*EIGHT)], EIGHT, None),
    "all wait, some lost their peers": ([waits(*range(6)), followers(6, 7)], EIGHT, None),
    "halves wait in two places": ([waits(*range(4)), waits(4, 5, 6, 7, place=GATHER)], EIGHT, None),
    "stages of a pipeline wait each in its own": (
        [waits(2 * n, 2 * n + 1, place=f"stage {n}") for n in range(4)], EIGHT, None,
    ),
    "all read: the store, and nobody": ([busy(*EIGHT)], EIGHT, None),
    "most read, one waits for them": ([busy(*range(7)), waits(7)], EIGHT, None),
    "most said nothing": ([waits(0, 1)], EIGHT, None),
    "a rank alone": ([busy(0)], range(1), None),
    "nobody said anything": ([], EIGHT, None),
}  # fmt: skip


@pytest.mark.parametrize(("said", "ranks", "expected"), CASES.values(), ids=CASES.keys())
def test_the_odd_one_out(
    said: Sequence[Cluster], ranks: Sequence[int], expected: tuple[Why, tuple[int, ...]] | None
) -> None:
    odd = odd_one_out(said, ranks)
    assert (odd and (odd.why, odd.ranks)) == expected
    if odd:
        assert odd.others == len(ranks) - len(odd.ranks)
        assert odd.call == "all_reduce"


def test_clusters_come_largest_first_and_ranks_of_one_place_together() -> None:
    assert clustered([busy(9), waits(3), waits(1, 2), busy(8, place="a")]) == (
        waits(1, 2, 3),
        busy(8, place="a"),
        busy(9),
    )


clusters = st.builds(
    Cluster,
    st.lists(st.integers(0, 12), min_size=1, max_size=4).map(lambda ranks: tuple(sorted(set(ranks)))),
    phase=st.sampled_from(["step", "load"]), waits=st.booleans(), place=st.sampled_from(["", "a", "b"]),
    call=st.sampled_from(["", "all_reduce"]),
)  # fmt: skip


@few
@given(st.lists(clusters, max_size=8), st.randoms())
def test_the_order_of_words_means_nothing_and_the_odd_are_never_most(said: list[Cluster], chance: object) -> None:
    shuffled = sorted(said, key=lambda _: chance.random())  # type: ignore[attr-defined]
    odd = odd_one_out(said, range(13))
    assert odd_one_out(shuffled, range(13)) == odd
    assert odd is None or 2 * len(odd.ranks) <= 13


@few
@given(
    st.lists(clusters, max_size=12), st.text(max_size=600), st.text(max_size=5000),
    st.lists(st.builds(Cluster, st.just(tuple(range(500))), place=st.text(max_size=300)), max_size=12),
)  # fmt: skip
def test_what_a_pod_leaves_fits_whatever_it_says(
    said: list[Cluster], message: str, traceback: str, large: list[Cluster]
) -> None:
    """4,096 bytes are what the kubelet keeps; an odd rank is the last that is left out."""
    end = Termination(
        FailureClass.PEER, HANG, ExitCode.HANG, message[:200], traceback=traceback, stood=bounded([*said, *large])
    )
    text = end.to_json()
    assert len(text.encode()) <= Termination.MAX_BYTES
    read = Termination.from_json(text)
    assert read is not None
    assert (read.failure, read.reason) == (end.failure, end.reason)
    assert read.stood in (end.stood, ())


def test_of_many_places_those_that_do_not_wait_are_kept_and_texts_are_cut_at_their_start() -> None:
    crowd = [waits(*range(10 * n, 10 * n + 9), place=f"{n}") for n in range(20)]
    kept = bounded([*crowd, busy(9, place="p" * 500)])
    assert len(kept) == MAX_CLUSTERS
    assert busy(9, place="p" * MAX_TEXT) in kept


def test_an_ordinary_hang_of_eight_ranks_keeps_its_stacks_beside_the_clusters() -> None:
    end = Termination(
        FailureClass.INFRASTRUCTURE, HANG, ExitCode.HANG, "m" * 300, 5, 9, 5, "frame\n" * 500,
        stood=(waits(0, 1, 2, 3, 4, 6, 7), busy(5)),
    )  # fmt: skip
    read = Termination.from_json(end.to_json())
    assert read is not None
    assert read.stood == end.stood
    assert len(read.traceback) > 1500


BAD = {
    "no list": {"stood": 1}, "no cluster": {"stood": [1]}, "no ranks": {"stood": [{"ranks": "abc"}]},
    "a rank of nothing": {"stood": [{"ranks": [True]}]}, "half a rank": {"stood": [{"ranks": [0.5]}]},
    "a rank beyond numbers": {"stood": [{"ranks": [10**18]}]},
    "a place of numbers": {"stood": [{"ranks": [], "place": 1}]},
}  # fmt: skip


@pytest.mark.parametrize("wrong", BAD.values(), ids=BAD.keys())
def test_what_is_no_cluster_makes_the_whole_message_a_strangers(wrong: dict[str, object]) -> None:
    good = asdict(Termination(FailureClass.PEER, HANG, 77, stood=(waits(1),)))
    assert Termination.from_json(json.dumps(good)) is not None
    assert Termination.from_json(json.dumps(good | wrong)) is None


PROGRESS = Progress(
    TrainPhase.STEP, 0, 8, 1, 2, 0, 7, 1.0, 2.0, 3.0, 2.5, 10.0, 0.4, 5, 6.0,
    limit_seconds=61.0, ended=Termination(FailureClass.PEER, HANG, 77, stood=(waits(1), silent(2))),
    slow=Slow(3, Slowness.DATA, 2.5, 0.25),
)  # fmt: skip


def test_progress_comes_back_as_it_was_and_without_what_one_side_does_not_know() -> None:
    said = json.loads(PROGRESS.to_json())
    assert Progress.from_json(PROGRESS.to_json()) == PROGRESS
    assert Progress.from_json(json.dumps(said | {"ofTomorrow": 1})) == PROGRESS
    for name in ("limit_seconds", "ended", "slow"):
        del said[name]
    assert Progress.from_json(json.dumps(said)).limit_seconds is None
    with pytest.raises(ValueError, match="not a progress object"):
        Progress.from_json(json.dumps(said | {"ended": {"reason": "Hang"}}))
    with pytest.raises(ValueError, match="sleep"):
        Progress.from_json(json.dumps(said | {"slow": {"rank": 1, "what": "sleep", "ratio": 1, "seconds": 1}}))
