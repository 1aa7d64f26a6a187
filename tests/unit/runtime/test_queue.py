"""The work queue hands out keys as client-go's does."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from internlm2_operator.runtime.queue import FIRST_DELAY, LONGEST_DELAY, WorkQueue


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
)


@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=lambda b: b.__name__.replace("_", " "))
def test_queue(behaviour: Callable[[WorkQueue[str]], Awaitable[None]]) -> None:
    async def run() -> None:
        await behaviour(WorkQueue(uniform=middle))

    asyncio.run(run())
