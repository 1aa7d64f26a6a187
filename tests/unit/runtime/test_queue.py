"""The work queue hands out keys as client-go's does."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from internlm2_operator.runtime.queue import FIRST_DELAY, LONGEST_DELAY, PATIENCE, ByKind, WorkQueue


def middle(low: float, high: float) -> float:
    return (low + high) / 2


async def a_key_added_twice_comes_once(queue: WorkQueue[str]) -> None:
    queue.add("a")
    queue.add("a")
    queue.add("b")
    assert [await queue.take(), await queue.take()] == ["a", "b"]
    assert len(queue) == 0


async def a_key_added_while_it_is_worked_on_comes_again_afterwards(queue: WorkQueue[str]) -> None:
    queue.add("a")
    await queue.take()
    queue.add("a")
    queue.add("b")
    assert await queue.take() == "b"
    queue.done("a")
    assert await queue.take() == "a"


async def a_sooner_wish_overtakes_a_later_one(queue: WorkQueue[str]) -> None:
    queue.add("a", delay=3600)
    queue.add("a")
    assert await queue.take() == "a"
    assert len(queue) == 0


async def a_later_wish_does_not_delay_a_sooner_one(queue: WorkQueue[str]) -> None:
    queue.add("a")
    queue.add("a", delay=3600)
    assert await queue.take() == "a"


async def a_waiting_worker_is_woken_by_a_key(queue: WorkQueue[str]) -> None:
    taken = asyncio.create_task(queue.take())
    await asyncio.sleep(0)
    queue.add("a")
    assert await asyncio.wait_for(taken, 10) == "a"


async def news_goes_before_the_clock_but_not_for_ever(queue: WorkQueue[str]) -> None:
    queue.add("clock", patient=True)
    queue.add("news")
    assert [await queue.take(), await queue.take()] == ["news", "clock"]
    queue.add("late", delay=-PATIENCE - 1, patient=True)
    queue.add("news", delay=0.0)
    assert await queue.take() == "late"


async def news_makes_a_patient_key_impatient(queue: WorkQueue[str]) -> None:
    queue.add("a", patient=True)
    queue.add("b", patient=True)
    queue.add("b")
    queue.add("b", patient=True)
    assert [await queue.take(), await queue.take()] == ["b", "a"]
    assert len(queue) == 0


async def a_patient_key_that_is_due_is_not_held_up_by_news_to_come(queue: WorkQueue[str]) -> None:
    queue.add("later", delay=3600)
    queue.add("clock", patient=True)
    assert await asyncio.wait_for(queue.take(), 10) == "clock"


async def calm_is_when_nothing_is_due_and_nobody_works(queue: WorkQueue[str]) -> None:
    queue.add("a")
    queue.add("later", delay=3600)
    waiting = asyncio.create_task(queue.calm(60))
    await queue.take()
    await asyncio.sleep(0)
    assert not waiting.done()
    queue.done("a")
    await asyncio.wait_for(waiting, 10)
    queue.add("b")
    await queue.calm(0.0)  # waits no longer than it is told


async def failures_double_the_delay_up_to_the_longest(queue: WorkQueue[str]) -> None:
    delays = [queue.fail("a") for _ in range(12)]
    assert delays[:3] == [FIRST_DELAY, 2 * FIRST_DELAY, 4 * FIRST_DELAY]
    assert delays[-1] == LONGEST_DELAY


async def success_starts_the_delays_anew(queue: WorkQueue[str]) -> None:
    queue.fail("a")
    queue.fail("a")
    queue.forget("a")
    assert queue.fail("a") == FIRST_DELAY


BEHAVIOURS = (
    a_key_added_twice_comes_once,
    a_key_added_while_it_is_worked_on_comes_again_afterwards,
    a_sooner_wish_overtakes_a_later_one,
    a_later_wish_does_not_delay_a_sooner_one,
    a_waiting_worker_is_woken_by_a_key,
    failures_double_the_delay_up_to_the_longest,
    success_starts_the_delays_anew,
    news_goes_before_the_clock_but_not_for_ever,
    news_makes_a_patient_key_impatient,
    a_patient_key_that_is_due_is_not_held_up_by_news_to_come,
    calm_is_when_nothing_is_due_and_nobody_works,
)


@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=lambda b: b.__name__.replace("_", " "))
def test_queue(behaviour: Callable[[WorkQueue[str]], Awaitable[None]]) -> None:
    async def run() -> None:
        await behaviour(WorkQueue(uniform=middle))

    asyncio.run(run())


def test_a_key_goes_to_the_queue_of_its_kind_which_tells_how_long_it_waited() -> None:
    waited: list[float] = []

    async def play() -> tuple[tuple[str, str], int]:
        nodes: WorkQueue[tuple[str, str]] = WorkQueue(uniform=middle, taken=waited.append)
        jobs: WorkQueue[tuple[str, str]] = WorkQueue(uniform=middle)
        both = ByKind({"job": jobs, "node": nodes})
        both.add(("job", "a"))
        both.add(("node", "b"))
        return await nodes.take(), len(jobs)

    assert asyncio.run(play()) == (("node", "b"), 1)
    assert len(waited) == 1
    assert waited[0] >= 0
