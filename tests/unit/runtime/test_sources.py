"""How often trainers are asked when there are too many for a second, and what an outage of Prometheus hides."""

import asyncio
import contextlib
import dataclasses
import socket
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

import aiohttp
import pytest

from internlm2_operator.cluster import errors
from internlm2_operator.cluster.progress import Answers, ProgressReader
from internlm2_operator.health.edges import Sample
from internlm2_operator.plan.snapshot import Heard, PodRecord
from internlm2_operator.runtime.evidence import Evidence
from internlm2_operator.runtime.metrics import Metrics
from internlm2_operator.runtime.observed import Observed
from internlm2_operator.runtime.queue import WorkQueue
from internlm2_operator.runtime.sources import ASKED_AT_ONCE, LONGEST_ROUND, ProgressSource, PrometheusSource
from internlm2_operator.runtime.world import World
from internlm2_spec import contract
from internlm2_spec.contract import FIRST_INCARNATION, Progress, TrainPhase
from tests.unit.runtime.test_world import node, pod

STEPPING = Progress(
    phase=TrainPhase.STEP, rank=0, world=1, attempt=1, incarnation=FIRST_INCARNATION, started_step=0, step=1,
    step_time=0.0, started_time=0.0, first_step_time=0.0, loss=None, tokens_per_second=None, mfu=None,
    checkpoint_step=None, checkpoint_time=None,
)  # fmt: skip


class Reader:
    """Counts who is asked; everybody answers."""

    def __init__(self) -> None:
        self.asked: Counter[int] = Counter()
        self.most = 0

    async def read(self, pods: Sequence[PodRecord]) -> Answers:
        self.asked.update(p.slot for p in pods)
        self.most = max(self.most, len(pods))
        return Answers({p.uid: STEPPING for p in pods})


def running(jobs: int, members: int) -> World:
    """Return a world with so many running pods."""
    world = World()
    for number in range(jobs * members):
        raw = pod(number + 1, f"pod-{number}")
        raw["metadata"]["labels"] |= {
            contract.LABEL_JOB: f"job-{number // members}",
            contract.LABEL_SLOT: str(number % members),
        }
        raw["status"]["podIP"] = "192.0.2.1"
        world.put_pod(raw)
    return world


def asked(jobs: int, members: int, rounds: int) -> Reader:
    world, reader = running(jobs, members), Reader()

    async def ask() -> None:
        queue: WorkQueue[tuple[str, str]] = WorkQueue(uniform=lambda low, _: low)
        source = ProgressSource(reader, observed=Observed(), world=world, queue=queue)  # type: ignore[arg-type]
        for _ in range(rounds):
            await source.step()

    asyncio.run(ask())
    return reader


@pytest.mark.parametrize(("jobs", "members"), [(1, 4), (10, 10)], ids=["few", "as many as can be asked"])
def test_everybody_is_asked_each_second_while_they_are_few(jobs: int, members: int) -> None:
    assert set(asked(jobs, members, rounds=3).asked.values()) == {3 * jobs}


def test_of_many_all_are_asked_in_turn_and_slot_0_more_often() -> None:
    reader = asked(jobs=100, members=10, rounds=250)
    assert reader.most == ASKED_AT_ONCE
    others = [reader.asked[slot] / 100 for slot in range(1, 10)]
    assert min(others) >= 5
    assert reader.asked[0] / 100 >= 3 * max(others)


AT = datetime(2026, 11, 25, 12, tzinfo=UTC)
GPU = ("n1", "GPU-1")
AWAY = errors.Retry("prometheus: away")


def scrape(number: int, *, xid: int = 0, gone: bool = False) -> Sample:
    gpus = frozenset({("n1", "GPU-2")} if gone else {GPU, ("n1", "GPU-2")})
    return Sample(AT, scraped={"n1": float(number)}, gpus=gpus, xids={(*GPU, "a"): xid})


class Scripted:
    """A Prometheus that answers one thing after another."""

    def __init__(self, *answers: Sample | errors.Retry) -> None:
        self._answers = list(answers)

    async def sample(self, *, ago: float = 0.0) -> Sample:  # noqa: ARG002
        answer = self._answers.pop(0)
        if isinstance(answer, errors.Retry):
            raise answer
        return answer


OUTAGES: dict[str, tuple[list[Sample | errors.Retry], list[str]]] = {
    "an XID that came meanwhile is seen after it": ([scrape(1), scrape(2), AWAY, AWAY, scrape(9, xid=79)], ["Xid79"]),
    "one that came before the first answer is history": ([AWAY, scrape(1, xid=79), scrape(2, xid=79)], []),
    "a GPU that was seen before and not since is gone, once that was scraped twice": (
        [scrape(1), scrape(2), AWAY, scrape(3, gone=True), scrape(4, gone=True)], ["GpuMissing"],
    ),
    "an outage itself is nobody's fault": ([scrape(1), scrape(2), AWAY, AWAY, AWAY, scrape(3)], []),
}  # fmt: skip


@pytest.mark.parametrize(("answers", "causes"), OUTAGES.values(), ids=OUTAGES)
def test_after_an_outage_of_prometheus(answers: list[Sample | errors.Retry], causes: list[str]) -> None:
    world, evidence, metrics = World(), Evidence(), Metrics()
    world.put_node(node(1))
    queue: WorkQueue[tuple[str, str]] = WorkQueue(uniform=lambda low, _: low)
    source = PrometheusSource(
        Scripted(*answers), evidence=evidence, world=world, queue=queue, metrics=metrics,  # type: ignore[arg-type]
    )  # fmt: skip
    up = []

    async def ask() -> None:
        for _ in range(len(answers) - 1):  # the first step asks twice: the sample before is that of two minutes ago
            with contextlib.suppress(errors.Retry):
                await source.step()
            up.append(metrics.registry.get_sample_value("internlm2_operator_prometheus_up"))

    asyncio.run(ask())
    assert [signal.cause for signal in evidence.signals(world, "n1", AT)] == causes
    assert up[-1] == 1
    assert up.count(0) == answers.count(AWAY)


class Rounds:
    """Answers from a list of rounds: a step, or None for nobody at all. From the second on `mute` slots say nothing.

    The connections of `taken` rounds, counted from 0, are taken where nobody answers.
    """

    def __init__(self, rounds: Sequence[int | None], mute: Sequence[int] = (), taken: Sequence[int] = ()) -> None:
        self._rounds = iter(rounds)
        self._mute = mute
        self._taken = taken
        self._round = -1
        self._first = True

    async def read(self, pods: Sequence[PodRecord]) -> Answers:
        step = next(self._rounds)
        silent = [p for p in pods if step is None or (p.slot in self._mute and not self._first)]
        self._first = False
        self._round += 1
        said = {p.uid: dataclasses.replace(STEPPING, step=step or 0) for p in pods if p not in silent}
        uids = frozenset(p.uid for p in silent)
        return Answers(said, uids, uids if self._round in self._taken else frozenset())


def heard(
    jobs: int,
    rounds: Sequence[int | None],
    *,
    mute: Sequence[int] = (),
    taken: Sequence[int] = (),
    at: Sequence[float] = (),
) -> list[Heard]:
    """Return what is known of both pods of the first of `jobs` after rounds a second apart, or `at` these moments."""
    world, observed = running(jobs, 2), Observed()
    moments = iter([0.0, *(at or range(1, len(rounds) + 1))])

    async def ask() -> None:
        queue: WorkQueue[tuple[str, str]] = WorkQueue(uniform=lambda low, _: low)
        reader = Rounds(rounds, mute, taken)
        source = ProgressSource(
            reader,  # type: ignore[arg-type]
            observed=observed,
            world=world,
            queue=queue,
            clock=lambda: next(moments),
        )
        for _ in rounds:
            await source.step()

    asyncio.run(ask())
    return [
        told
        for _, told in observed.heard(sorted((p for p in world.all_pods() if p.job == "job-0"), key=lambda p: p.slot))
    ]


def test_a_pod_is_still_since_it_last_said_something_new() -> None:
    assert heard(1, [1, 2, 2, 2]) == [Heard(still=2, silent=0)] * 2


def test_a_pod_that_takes_a_connection_and_says_nothing_is_mute() -> None:
    assert heard(1, [1, 2, 3], mute=[1]) == [Heard(0, 0), Heard(2, 2, mute=True)]


TAKEN = {
    "none": ([1, None, None, None], [], False),
    "one, which may have been open before": ([1, None, None, None], [1], False),
    "two": ([1, None, None, None], [1, 2], True),
    "two, until the queue of the kernel is full": ([1, None, None, None, None], [1, 2], True),
    "one in each of two silences": ([1, None, 2, None, None], [1, 3], False),
    "two, and it answered since": ([1, None, None, 2, None], [1, 2], False),
}


@pytest.mark.parametrize(("rounds", "taken", "stopped"), TAKEN.values(), ids=TAKEN)
def test_a_pod_is_stopped_when_new_connections_are_taken_and_nothing_is_said(
    rounds: list[int | None], taken: list[int], stopped: bool
) -> None:
    assert [told.stopped for told in heard(1, rounds, taken=taken)] == [stopped] * 2


def test_a_pod_that_never_answered_is_still_since_it_was_first_asked() -> None:
    assert heard(1, [None, None, None]) == [Heard(2, 2, mute=True)] * 2


def test_where_nobody_of_several_jobs_answers_it_is_the_operator_that_is_cut_off() -> None:
    """Of one job alone it cannot tell."""
    assert heard(2, [1, None, None, None]) == [Heard(0, 0, mute=True)] * 2
    assert heard(1, [1, None, None, None]) == [Heard(3, 3, mute=True)] * 2


def test_time_in_which_the_operator_did_not_run_does_not_count() -> None:
    assert heard(1, [1, 1, 1], at=[1, 2, 1000]) == [Heard(still=1 + LONGEST_ROUND, silent=0)] * 2


def test_a_process_that_is_stopped_is_mute_and_one_that_is_gone_refuses() -> None:
    """On real sockets: one that listens and never accepts is what a stopped process leaves; a closed one is gone."""
    with socket.socket() as stopped:
        stopped.bind(("127.0.0.1", 0))
        stopped.listen(0)
        port = stopped.getsockname()[1]
        here = dataclasses.replace(next(iter(running(1, 1).all_pods())), ip="127.0.0.1")

        async def read() -> Answers:
            async with aiohttp.ClientSession() as session:
                return await ProgressReader(session, port).read([here])

        one = frozenset({here.uid})
        assert asyncio.run(read()) == Answers({}, one, one)
        seen = [asyncio.run(read()) for _ in range(3)]
        assert seen[-1] == Answers({}, one), "its queue is full: as if there were no way to it"
    assert asyncio.run(read()) == Answers({})
