"""The bucket bounds how often something is done, and starves nobody."""

from hypothesis import given
from hypothesis import strategies as st

from internlm2_spec.bucket import full
from tests.examples import few

SMALL = full(burst=10, per_second=2, at=0)


def test_the_first_are_not_kept_waiting() -> None:
    bucket = SMALL
    for _ in range(10):
        assert bucket.hold(0) == 0
        bucket = bucket.taken(1, at=0)
    assert bucket.hold(0) == 0.5


@few
@given(st.lists(st.floats(min_value=0, max_value=5), max_size=60))
def test_never_more_than_burst_and_rate(pauses: list[float]) -> None:
    """Writes that wait as they are told are at most `burst` and `per_second` a second, over any time."""
    bucket, now, times = SMALL, 0.0, []
    for pause in pauses:
        now += pause
        now += bucket.hold(now)
        bucket = bucket.taken(1, now)
        times.append(now)
    for number, start in enumerate(times):
        for more, end in enumerate(times[number:], start=1):
            assert more <= SMALL.burst + SMALL.per_second * (end - start) + 1e-6


def test_what_is_taken_whole_may_be_larger_than_the_bucket_and_is_paid_for_afterwards() -> None:
    after = SMALL.taken(30, at=0)
    assert after.hold(0) == (20 + 1) / 2
    assert after.hold(10.5) == 0


def test_clock_that_stands_or_goes_back_makes_no_tokens() -> None:
    assert SMALL.taken(10, at=5).hold(3) == 0.5


@few
@given(st.lists(st.tuples(st.floats(0, 5), st.integers(1, 40)), max_size=40))
def test_no_more_pods_are_made_than_burst_and_rate_allow_and_one_attempt(story: list[tuple[float, int]]) -> None:
    bucket, now, made, largest = SMALL, 0.0, 0, 0
    for wait, pods in story:
        now += wait
        if bucket.hold(now) == 0:
            bucket = bucket.taken(pods, now)
            made, largest = made + pods, max(largest, pods)
        assert made <= SMALL.burst + SMALL.per_second * now + largest


@few
@given(st.integers(1, 10_000))
def test_turn_of_a_storm_comes_after_the_wait_that_was_told(pods: int) -> None:
    storm = SMALL.taken(pods, at=0)
    assert storm.hold(storm.hold(0)) < 1e-6
